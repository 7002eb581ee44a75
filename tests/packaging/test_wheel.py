"""The wheel: what is inside, and that it works in an environment of its own, outside the checkout.

The new environment sees the test environment's packages (torch and the rest) by a `.pth` file;
polyclinic itself comes from the wheel: a `.pth` file's folders are not searched for further ones,
so the editable installation stays out of sight.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.core.config.test_compose import EVERY, PARTNERS
from tests.packaging.layout import PACKAGES, ROOT, package_files

SITE_PACKAGES = Path("lib", f"python{sys.version_info[0]}.{sys.version_info[1]}", "site-packages")
ENTRY_POINTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
COMPOSE = """
import json, sys
from polyclinic.config.compose import CONF, load_config
for choices in json.loads(sys.argv[1]):
    load_config(choices)
print(CONF)
"""
WHERE = """
import importlib, json, sys
print(json.dumps({name: importlib.import_module(name).__file__ for name in sys.argv[1:]}))
"""
OFFERED = """
import json, sys
from importlib.metadata import entry_points
from importlib.util import find_spec
groups = ("polyclinic.methods", "polyclinic.statistics")
print(json.dumps({
    "packages": [name for name in sys.argv[1:] if find_spec(name)],
    **{group: sorted(e.name for e in entry_points(group=group) if e.load()) for group in groups},
}))
"""
SIDES = {"server": "polyclinic_server", "client": "polyclinic_client"}
TINY = (
    "rounds=2",
    "model.channels=[4,8,8,8]",
    "data.spacing_mm=[6.0,6.0,6.0]",
    "data.patch=[24,32]",
    "data.samples_per_case=2",
)


def build(target: str, folder: Path, source: Path = ROOT) -> Path:
    """Build one archive of the project, and return its path."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.iterdir()
    return path


def contents(wheel: Path) -> set[str]:
    """List a wheel's files, without its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    return {name for name in names if ".dist-info/" not in name}


class Installed:
    """A virtual environment outside the checkout with the wheel inside."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder = folder / "elsewhere"
        self.packages = self.folder / SITE_PACKAGES
        self.cwd = folder / "cwd"
        self.cwd.mkdir()
        subprocess.run(
            [sys.executable, "-m", "venv", "--without-pip", str(self.folder)], check=True
        )
        pip = [sys.executable, "-m", "pip", "--python", str(self.folder / "bin" / "python")]
        options = ["--quiet", "--no-deps", "--no-index", "--no-cache-dir"]
        subprocess.run([*pip, "install", *options, str(wheel)], check=True)
        lent = sysconfig.get_path("purelib"), sysconfig.get_path("platlib")
        (self.packages / "lent.pth").write_text(
            "".join(f"{path}\n" for path in dict.fromkeys(lent))
        )
        self.environment = {
            key: value for key, value in os.environ.items() if not key.startswith("PYTHON")
        } | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}

    def run(self, command: str, *arguments: str, timeout_s: float = 180.0) -> str:
        """Run a command of its bin/ away from the checkout, and return what it printed."""
        process = subprocess.Popen(
            [str(self.folder / "bin" / command), *arguments],
            cwd=self.cwd,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            told, errors = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.terminate()  # it ends its children itself
            told, errors = process.communicate(timeout=60)
            pytest.fail(f"{command}: not done within {timeout_s:.0f} s: {(told + errors)[-3000:]}")
        assert process.returncode == 0, (told + errors)[-3000:]
        return told


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"), wheel)


@pytest.mark.parametrize("name", PACKAGES)
def test_the_wheel_holds_each_package_whole(wheel: Path, name: str) -> None:
    inside = {path for path in contents(wheel) if path.startswith(f"{name}/")}
    assert f"{name}/py.typed" in inside
    assert inside == package_files(name)


def test_the_wheel_holds_configuration_and_templates_and_nothing_else(wheel: Path) -> None:
    inside = contents(wheel)
    settings = {path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yaml")}
    assert settings
    assert {f"polyclinic/conf/{path.as_posix()}" for path in settings} <= inside
    assert [path for path in inside if "/templates/" in path]
    assert {path.partition("/")[0] for path in inside} == set(PACKAGES)


def test_a_wheel_of_the_source_archive_is_the_same(tmp_path: Path, wheel: Path) -> None:
    archive = build("sdist", tmp_path / "sdist")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    assert contents(build("wheel", tmp_path / "again", source)) == contents(wheel)


def test_the_packages_come_from_the_wheel(installed: Installed) -> None:
    where = json.loads(installed.run("python", "-c", WHERE, *PACKAGES))
    assert where == {name: str(installed.packages / name / "__init__.py") for name in PACKAGES}


def test_every_file_of_the_configuration_composes_there(installed: Installed) -> None:
    choices = json.dumps([[choice, *PARTNERS.get(choice, [])] for choice in EVERY])
    assert len(EVERY) > 30
    conf = Path(installed.run("python", "-c", COMPOSE, choices).strip())
    assert conf == installed.packages / "polyclinic" / "conf"


def test_both_commands_answer_there(installed: Installed) -> None:
    told = installed.run("polyclinic-server", "settings", "strategy=merging/ties")
    assert "averaging/fedavg" in told and "unet_2d" in told
    assert "join" in installed.run("polyclinic-client", "--help")


@pytest.mark.parametrize("side", SIDES)
def test_a_side_works_without_the_other_and_without_the_demos(side: str, tmp_path: Path) -> None:
    # what the container images are made of (docker/*.Dockerfile)
    source = tmp_path / "source"
    for name in ("core", "strategies", "conf", side):
        shutil.copytree(ROOT / name, source / name, symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    wheel = build("wheel", tmp_path / "wheel", source)
    expected = ["polyclinic", "polyclinic_strategies", SIDES[side]]
    assert {path.partition("/")[0] for path in contents(wheel)} == set(expected)
    installed = Installed(tmp_path, wheel)
    found = json.loads(installed.run("python", "-c", OFFERED, *PACKAGES))
    assert found["packages"] == expected
    assert found["polyclinic.methods"] == sorted(ENTRY_POINTS["polyclinic.methods"])
    assert found["polyclinic.statistics"] == sorted(ENTRY_POINTS["polyclinic.statistics"])
    assert "--help" in installed.run(f"polyclinic-{side}", "--help")


@pytest.mark.e2e
def test_the_demo_goes_to_its_report_there(installed: Installed) -> None:
    installed.run("polyclinic-server", "demo", "--folder", "demo", *TINY, timeout_s=600.0)
    run = Path((installed.cwd / "demo" / "latest.txt").read_text().strip())
    assert run.parent == installed.cwd / "demo" / "runs"
    assert json.loads((run / "run.json").read_text())["state"] == "finished"
    report = (run / "report.html").read_text()
    assert report.count("<svg") >= 1
    for site in ("mprage-3t", "low-field", "t2w"):
        assert site in report
