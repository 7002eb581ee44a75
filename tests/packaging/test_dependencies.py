"""A package imports only what the base installation and its own extra declare."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.packaging.layout import PACKAGES, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
OWN_EXTRA = {
    "polyclinic": (),
    "polyclinic_strategies": (),
    "polyclinic_server": ("server",),
    "polyclinic_client": ("client",),
    "polyclinic_demos": ("demos",),
}
OPTIONAL = {"postgresql", "pretrained", "reflection", "atlas"}  # asked for with a remedy
EARLIER = "v0.1.0"  # what runs with that version's packages
# benchmarks are run as scripts, and import one another by their plain names
SCRIPTS = {path.stem for path in (ROOT / "benchmarks").iterdir()}
OURS = {"tests", "benchmarks", "polyclinic_toy", *PACKAGES, *SCRIPTS}


def normalized(requirement: str) -> str:
    """Return a distribution's name, without extras and versions, as package indexes compare it."""
    name = re.split(r"[\s\[<>=!~;(]", requirement, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(*extras: str) -> set[str]:
    """Return what the base installation and these extras declare, those that they name included."""
    found = {normalized(text) for text in PROJECT["dependencies"]}
    for extra in extras:
        for text in EXTRAS[extra]:
            if named := re.match(r"polyclinic\[(.*)\]$", text):
                found |= declared(*named[1].split(","))
            else:
                found.add(normalized(text))
    return found


@cache
def distributions() -> dict[str, set[str]]:
    """Return the distributions that provide a top-level module."""
    return {
        module: {normalized(name) for name in names}
        for module, names in packages_distributions().items()
    }


def imported(path: Path) -> Iterator[str]:
    """Yield the top-level modules that a file imports, in functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]


def foreign(folder: Path) -> dict[str, list[str]]:
    """Return other people's modules that a folder's files import, and which files do."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.py")):
        if EARLIER in path.parts:
            continue
        for name in set(imported(path)) - sys.stdlib_module_names - OURS:
            found.setdefault(name, []).append(path.relative_to(ROOT).as_posix())
    return found


def undeclared(folder: Path, allowed: set[str]) -> dict[str, list[str]]:
    """Return the modules that none of the allowed distributions provides."""
    return {
        name: files
        for name, files in foreign(folder).items()
        if not distributions().get(name, {name}) & allowed
    }


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_imports_what_it_declares(name: str) -> None:
    assert not undeclared(PACKAGES[name], declared(*OWN_EXTRA[name]))


def test_the_tests_import_what_the_development_extra_declares() -> None:
    assert not undeclared(ROOT / "tests", declared("dev"))


def test_the_development_extra_brings_everything_that_a_feature_needs() -> None:
    features = set(EXTRAS) - {"dev", "docs"}
    assert set(OPTIONAL) <= features
    assert declared(*features) <= declared("dev")


def test_a_hospital_needs_nothing_that_the_coordinator_does_not_have() -> None:
    assert declared("client") < declared("server")  # so that the images have a layer in common
