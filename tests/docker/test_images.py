"""What the images are, and what they are not."""

import json

import pytest

from polyclinic.system.plugins import METHODS, is_own, offered
from tests.docker.engine import CONFINED, docker

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("images")]
IMAGES = {"polyclinic-server": "polyclinic-server", "polyclinic-client": "polyclinic-client"}
LARGEST_GB = 1.4
PRESENT = """
import json, pathlib, sys, sysconfig
from importlib.metadata import entry_points
packages = pathlib.Path(sysconfig.get_path("purelib"))
print(json.dumps({
    "packages": sorted(
        path.name for path in packages.glob("polyclinic*") if path.suffix != ".dist-info"
    ),
    "others": [name for name in ("nilearn", "matplotlib", "pip") if (packages / name).is_dir()],
    "commands": sorted(path.name for path in pathlib.Path(sys.prefix, "bin").glob("polyclinic*")),
    "methods": sorted(
        entry.name for entry in entry_points(group="polyclinic.methods") if entry.load()
    ),
    "statistics": sorted(
        entry.name for entry in entry_points(group="polyclinic.statistics") if entry.load()
    ),
}))
"""


def inspect(image: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(docker("image", "inspect", image).stdout)[0]
    return found


def layers(image: str) -> list[str]:
    return docker(
        "image", "inspect", "--format", "{{range .RootFS.Layers}}{{.}} {{end}}", image
    ).stdout.split()


def inside(image: str, script: str) -> str:
    return docker("run", *CONFINED, "--entrypoint", "sh", image, "-c", script).stdout


@pytest.mark.parametrize("image", IMAGES)
def test_it_runs_confined_and_not_as_root(image: str) -> None:
    assert inside(image, "id -u; id -g").split() == ["10001", "10001"]
    told = docker("run", *CONFINED, image, "--help").stdout
    assert IMAGES[image] in told


@pytest.mark.parametrize("image", IMAGES)
def test_it_has_no_compiler_no_installer_and_no_cache(image: str) -> None:
    assert (
        inside(
            image,
            "for tool in gcc cc g++ make git pip pip3 uv conda; do command -v $tool; done; true",
        )
        == ""
    )
    code = (
        "from importlib.util import find_spec;"
        " print([n for n in ('pip', 'setuptools', 'ensurepip') if find_spec(n)])"
    )
    assert (
        docker("run", *CONFINED, "--entrypoint", "python", image, "-c", code).stdout.strip() == "[]"
    )
    assert (
        docker(
            "run",
            *CONFINED,
            "--user",
            "0",
            "--entrypoint",
            "find",
            image,
            "/root/.cache",
            check=False,
        ).stdout
        == ""
    )


@pytest.mark.parametrize("image", IMAGES)
def test_it_is_labelled_and_looks_after_its_health(image: str) -> None:
    config = inspect(image)["Config"]
    assert isinstance(config, dict)
    labels = {
        key.removeprefix("org.opencontainers.image."): value
        for key, value in config["Labels"].items()
    }
    assert labels["title"] == image and labels["licenses"] == "Apache-2.0"
    assert labels["version"] not in ("", "unknown") and labels["description"]
    assert config["Healthcheck"]["Test"][0] == "CMD" and config["Entrypoint"] == [IMAGES[image]]


def test_both_have_their_large_layers_in_common_and_are_no_larger_than_needed() -> None:
    server, client = layers("polyclinic-server"), layers("polyclinic-client")
    shared = [one for one, other in zip(server, client, strict=False) if one == other]
    of_client = docker(
        "history", "--no-trunc", "--format", "{{.Size}}", "polyclinic-client"
    ).stdout.split()
    assert len(shared) >= 3 and len([size for size in of_client if size.endswith("GB")]) == 1
    assert len(client) - len(shared) <= 3  # its own package, and folders
    for image in IMAGES:
        size = inspect(image)["Size"]
        assert isinstance(size, int) and size / 1e9 < LARGEST_GB


OFFERED = offered(METHODS)


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_its_own_sides_packages_and_command_alone(image: str) -> None:
    side = image.replace("-", "_")
    told = docker("run", *CONFINED, "--entrypoint", "python", image, "-c", PRESENT).stdout
    found = json.loads(told)
    assert found["packages"] == sorted(["polyclinic", "polyclinic_strategies", side])
    assert found["others"] == []
    assert found["commands"] == [image]
    assert found["methods"] == sorted(method for method, entry in OFFERED.items() if is_own(entry))
    assert "average_image" in found["statistics"]


def test_the_image_of_the_simulated_patients_has_the_demos() -> None:
    told = docker("run", *CONFINED, "--entrypoint", "python", "polyclinic-demo", "-c", PRESENT)
    assert json.loads(told.stdout)["packages"] == [
        "polyclinic",
        "polyclinic_demos",
        "polyclinic_server",
        "polyclinic_strategies",
    ]


def test_a_hospital_has_no_word_of_the_coordinators_or_the_demos_code() -> None:
    script = (
        (
            "find / -xdev ( -path '*polyclinic_server*' -o -path '*polyclinic_demos*'"
            " -o -name 'polyclinic-server*' -o -name 'polyclinic-coordinator*' )"
        )
        .replace("(", "\\(")
        .replace(")", "\\)")
    )
    root = ("--user", "0", "--entrypoint", "sh")
    told = docker("run", *CONFINED, *root, "polyclinic-client", "-c", f"{script} 2>/dev/null; true")
    assert told.stdout == ""
    told = docker("run", *CONFINED, *root, "polyclinic-server", "-c", f"{script} 2>/dev/null; true")
    assert "polyclinic_server/cli/main.py" in told.stdout  # it would have been found


def test_a_hospital_that_serves_nobody_is_not_healthy() -> None:
    health = inspect("polyclinic-client")["Config"]["Healthcheck"]["Test"]  # type: ignore[index]
    entrypoint = ("--entrypoint", health[1])
    told = docker("run", *CONFINED, *entrypoint, "polyclinic-client", *health[2:], check=False)
    assert (told.returncode, told.stdout) == (1, "not admitted\n")


def test_the_settings_are_found() -> None:
    told = docker("run", *CONFINED, "polyclinic-server", "settings", "strategy=refinement").stdout
    assert "refinement" in told and "unet_2d" in told


def test_the_folders_of_secrets_are_nobody_elses() -> None:
    assert set(inside("polyclinic-client", "stat -c %a:%u /keys /state /data").split()) == {
        "700:10001"
    }
    assert set(
        inside("polyclinic-server", "stat -c %a:%u /coordinator/security /coordinator/runs").split()
    ) == {"700:10001"}
