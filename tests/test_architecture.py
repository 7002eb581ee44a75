"""Generic code knows no method by name, and asks no network which method it belongs to."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from polyclinic.federation.method import methods
from polyclinic.system.plugins import METHODS, is_own, offered

ROOT = Path(__file__).parents[1]
GENERIC = ("core/polyclinic", "server/polyclinic_server", "client/polyclinic_client")
STRATEGIES = ROOT / "strategies" / "polyclinic_strategies"
BUILT_ON = {  # what a method may name besides itself
    "averaging": set(),
    "merging": set(),
    "refinement": {"averaging", "merging"},
    "universal": {"merging"},
    "proxy": {"averaging"},
    "planning": set(),
    "evaluation": set(),
}
NAMES = [name for name, entry in offered(METHODS).items() if is_own(entry)]
NETWORKS = {"UniversalNetwork", "ProxySystem"}


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from (path for path in (ROOT / folder).rglob("*.py") if "_pb2" not in path.name)


def names_a_method(text: str, name: str) -> bool:
    """Tell whether a string is a method's name, one of its strategies, or the setting of one."""
    text = text.removeprefix("strategy=")
    return text == name or text.startswith(f"{name}/")


def named_in(path: Path) -> set[str]:
    """Methods that a module names in a string."""
    strings = [
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return {name for name in NAMES for text in strings if names_a_method(text, name)}


def test_generic_code_names_no_method() -> None:
    named = {str(path.relative_to(ROOT)): named_in(path) for path in sources(*GENERIC)}
    assert {path: found for path, found in named.items() if found} == {}


@pytest.mark.parametrize("name", NAMES)
def test_a_method_names_only_what_it_builds_on(name: str) -> None:
    found = {other for path in (STRATEGIES / name).rglob("*.py") for other in named_in(path)}
    assert found <= {name, *BUILT_ON[name]}


def test_generic_code_asks_no_network_for_its_method() -> None:
    asked = {f"is_{name}" for name in NAMES}
    for path in sources(*GENERIC):
        nodes = ast.walk(ast.parse(path.read_text()))
        words = {node.id for node in nodes if isinstance(node, ast.Name)}
        assert not words & (NETWORKS | asked), path


def test_every_part_of_a_method_can_be_imported() -> None:
    parts = (
        "coordinator",
        "hospital",
        "events",
        "results",
        "section",
        "commands",
        "hospital_commands",
    )
    for method in methods().values():
        for part in (*parts, "settings"):
            assert (method.load(part) is None) == (getattr(method, part) is None)
        assert (STRATEGIES / method.name).is_dir() or method.name not in NAMES
