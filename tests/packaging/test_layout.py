"""The shape of the tree: five packages, typed, and no folder with too many modules."""

import tomllib
from collections import Counter
from pathlib import Path

import pytest

from tests.packaging.layout import PACKAGES, ROOT, modules

MOST_MODULES = 15
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TOOL = PROJECT["tool"]


def test_the_wheel_mypy_and_the_contracts_name_the_same_five_packages() -> None:
    folders = [path.relative_to(ROOT).as_posix() for path in PACKAGES.values()]
    assert TOOL["hatch"]["build"]["targets"]["wheel"]["packages"] == folders
    assert TOOL["mypy"]["packages"] == list(PACKAGES)
    assert TOOL["importlinter"]["root_packages"] == list(PACKAGES)
    assert TOOL["deptry"]["known_first_party"] == list(PACKAGES)
    roots = [path.parent.name for path in PACKAGES.values()]
    assert TOOL["hatch"]["build"]["dev-mode-dirs"] == TOOL["mypy"]["mypy_path"] == roots


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_is_typed_and_no_folder_has_too_many_modules(name: str) -> None:
    assert (PACKAGES[name] / "py.typed").is_file()
    inside = Counter(path.parent for path in modules(PACKAGES[name]) if path.name != "__init__.py")
    crowded = {str(folder): count for folder, count in inside.items() if count > MOST_MODULES}
    assert not crowded


def test_the_archive_names_every_folder_that_exists() -> None:
    named = set(TOOL["hatch"]["build"]["targets"]["sdist"]["only-include"])
    missing = {name for name in named if not (ROOT / name).exists()}
    assert not missing
    assert {path.parent.name for path in PACKAGES.values()} | {"conf", "tests"} <= named


def test_the_link_to_the_configuration_is_relative() -> None:
    link = PACKAGES["polyclinic"] / "conf"
    assert link.is_symlink()
    assert link.readlink() == Path("../../conf")
