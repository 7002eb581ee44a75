"""What can be said of the container files without an engine."""

import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from polyclinic_client.segmentation.service_choice import PORT as ASKED
from polyclinic_server.cli.segment_service import PORT as SERVED

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
BEGIN, END = "# ---- shared:", "# ---- end of what is shared"
FILES = (".toml", ".md", ".txt", ".py", ".sh", "LICENSE")
COMPOSE = ("compose.yaml", "hospital.compose.yaml", "coordinator.compose.yaml")
PUBLISHED = {"coordinator.compose.yaml": ["${POLYCLINIC_PORT:-9092}:9092"]}  # for hospitals


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
            assert not service.get("privileged"), name
            assert service.get("ports", []) == PUBLISHED.get(file, []), name
            assert not [
                volume for volume in service.get("volumes", []) if "docker.sock" in str(volume)
            ], name


def test_a_hospital_is_on_its_own_network_alone_and_sees_its_own_volumes_alone() -> None:
    every = services("compose.yaml")
    networks = yaml.safe_load((DOCKER / "compose.yaml").read_text())["networks"]
    hospitals = [name for name in every if f"{name}-patients" in every]
    assert len(hospitals) == 4
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
    for name in ("coordinator", "enrolment", "segmentation", "departure"):
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
    assert keys == "service:/coordinator/security"
    for name in ("coordinator", "enrolment"):
        assert "service:/coordinator/security/segmentation" in every[name]["volumes"]
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
    assert "--service-host segmentation" in every["enrolment"]["command"][0], (
        "the certificate has the service's name"
    )


@pytest.mark.parametrize("side", ["server", "client"])
def test_an_image_is_made_of_core_strategies_configuration_and_its_own_side(side: str) -> None:
    lines = (DOCKER / f"{side}.Dockerfile").read_text().splitlines()
    copied = [line.split()[1:] for line in lines if line.startswith("COPY ") and "--" not in line]
    sources = {name for *names, _ in copied for name in names if not name.endswith(FILES)}
    demos = {"demos/polyclinic_demos"} if side == "server" else set()
    assert sources == {"core", "strategies", "conf", side} | demos
    wheel = lines.index("FROM source AS wheel")
    stages = [number for number, line in enumerate(lines) if line.startswith("FROM")]
    after = min(number for number in stages if number > wheel)
    assert f"COPY {side} {side}" in lines[wheel:after]
    if demos:  # the image of the simulated patients alone, which the coordinator's is not made of
        start = lines.index("FROM coordinator AS demo")
        copy = next(number for number, line in enumerate(lines) if "polyclinic_demos" in line)
        assert start < copy < min(number for number in stages if number > start)


def locked(name: str) -> dict[str, tuple[str, int]]:
    """Version and number of hashes of each package in a file of requirements."""
    text = (DOCKER / f"requirements-{name}.txt").read_text()
    found = re.findall(
        r"^([a-z0-9-]+)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", text, re.M
    )
    assert len(found) == len(re.findall(r"^[^\s#]", text, re.M)), "every line is a version"
    return {package: (version, hashes.count("--hash")) for package, version, hashes in found}


@pytest.mark.parametrize(
    ("name", "extras"), [("client", ["client"]), ("server", ["server", "postgresql"])]
)
def test_what_the_project_requires_is_locked_by_its_hashes(name: str, extras: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = locked(name) | locked("torch")
    for requirement in map(Requirement, [*project["dependencies"], *in_extras(project, extras)]):
        version, hashes = found[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version) and hashes, f"{requirement}: make lock"
    assert requirement_of_torch() == f"torch=={found['torch'][0]}"


def in_extras(project: dict[str, Any], extras: Iterable[str]) -> Iterator[str]:
    """Yield what extras require, and the extras of the project's own that they name."""
    for text in (text for extra in extras for text in project["optional-dependencies"][extra]):
        requirement = Requirement(text)
        if requirement.name == project["name"]:
            yield from in_extras(project, requirement.extras)
        else:
            yield text


def requirement_of_torch() -> str:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return next(line for line in lines if line.startswith("torch"))


def test_the_coordinator_has_the_hospitals_versions_and_more() -> None:
    client, server = locked("client"), locked("server")
    assert client.items() <= server.items()
    assert {"tensorboard", "psycopg"} <= server.keys() - client.keys()
    assert locked("demo").keys() == {"nilearn"}
    assert not (client.keys() | server.keys()) & {"torch", "uv", "setuptools"}


@pytest.mark.parametrize("side", ["server", "client"])
def test_nothing_but_what_is_locked_is_installed(side: str) -> None:
    text = (DOCKER / f"{side}.Dockerfile").read_text().replace("\\\n", " ")
    installs = re.findall(r"pip [^&\n]*\binstall (.*?)(?:&&|\n)", text)
    assert len(installs) >= 3
    for options in installs:
        torch_or_own = '"$@"' in options or "/tmp/dist/*.whl" in options
        assert "--no-deps" in options and ("--require-hashes" in options or torch_or_own), options
