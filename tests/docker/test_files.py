"""What can be said of the container files without an engine."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from polyclinic_client.cli.segment_options import PORT as ASKED
from polyclinic_server.cli.segment_service import PORT as SERVED

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
BEGIN, END = "# ---- shared:", "# ---- end of what is shared"
COMPOSE = ("compose.yaml", "hospital.compose.yaml")


def services(name: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((DOCKER / name).read_text())["services"]
    return found


def shared_part(name: str) -> str:
    text = (DOCKER / name).read_text()
    return text[text.index(BEGIN) : text.index(END)]


def test_what_both_images_share_is_the_same_words_so_that_it_is_the_same_layers() -> None:
    assert shared_part("server.Dockerfile") == shared_part("client.Dockerfile")


@pytest.mark.parametrize("name", ["server.Dockerfile", "client.Dockerfile"])
def test_no_image_runs_as_root_or_fetches_by_itself(name: str) -> None:
    lines = (DOCKER / name).read_text().splitlines()
    final = lines[max(number for number, line in enumerate(lines) if line.startswith("FROM")) :]
    assert "USER 10001:10001" in final
    assert not [
        line for line in lines if line.startswith("ADD ") or "curl " in line or "# syntax" in line
    ]


def test_every_service_is_confined() -> None:
    for file in COMPOSE:
        for name, service in services(file).items():
            assert service["read_only"] is True, name
            assert service["cap_drop"] == ["ALL"] and "cap_add" not in service, name
            assert service["security_opt"] == ["no-new-privileges:true"], name
            assert (
                service["init"] is True
                and service["mem_limit"]
                and service["cpus"]
                and service["pids_limit"]
            ), name
            assert not service.get("privileged") and not service.get("ports"), name
            assert not [
                volume for volume in service.get("volumes", []) if "docker.sock" in str(volume)
            ], name


def test_a_hospital_is_on_its_own_network_alone_and_sees_its_own_volumes_alone() -> None:
    every = services("compose.yaml")
    networks = yaml.safe_load((DOCKER / "compose.yaml").read_text())["networks"]
    hospitals = [name for name in every if f"{name}-patients" in every]
    assert len(hospitals) == 3
    assert every["coordinator"]["networks"] == hospitals == list(networks)
    assert all(network["internal"] is True for network in networks.values())
    for name in hospitals:
        assert every[name]["networks"] == [name]
        for service in (name, f"{name}-patients", f"{name}-key"):
            assert all(volume.startswith(f"{name}-") for volume in every[service]["volumes"])
        assert f"{name}-data:/data:ro" in every[name]["volumes"]
    connected = (*hospitals, "coordinator", "segmentation")
    assert all(
        service.get("network_mode") == "none"
        for name, service in every.items()
        if name not in connected
    )


def test_the_coordinator_sees_no_patient_and_no_key_of_a_hospital() -> None:
    every = services("compose.yaml")
    for name in ("coordinator", "enrolment", "segmentation"):
        volumes = " ".join(map(str, every[name]["volumes"]))
        assert "-data" not in volumes and "-keys" not in volumes and "-state" not in volumes


def test_the_segmentation_service_starts_when_asked_for_and_sees_keys_and_one_model() -> None:
    every = services("compose.yaml")
    service = every["segmentation"]
    assert service["profiles"] == ["proxy"] and not any(
        "profiles" in other for name, other in every.items() if name != "segmentation"
    )
    assert (
        service["image"] == every["coordinator"]["image"]
        and service["networks"] == every["coordinator"]["networks"]
    )
    keys, model = service["volumes"]
    assert keys == "security:/coordinator/security"
    assert (
        model["type"] == "bind"
        and model["read_only"] is True
        and model["bind"] == {"create_host_path": False}
    )
    assert service["command"].split() == ["segment-service", "--model", model["target"]], (
        "over TLS, with keys"
    )
    assert service["environment"]["POLYCLINIC_PORT"] == str(SERVED) == str(ASKED), (
        "the health check, the service and its clients agree"
    )
    assert "--host segmentation" in every["enrolment"]["command"][0], (
        "the certificate has the service's name"
    )


def test_the_wheel_holds_the_settings() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"][
        "targets"
    ]["wheel"]["packages"]
    assert packages == ["polyclinic", "strategies", "server", "client", "conf"]
