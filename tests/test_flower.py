"""Of Flower, only what is public is used, and nothing of it is changed."""

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = (
    "core",
    "strategies",
    "server",
    "client",
    "demos",
    "benchmarks",
    "tests",
    "docs",
    "docker",
)
PUBLIC = {
    "flwr.app",
    "flwr.clientapp",
    "flwr.serverapp",
    "flwr.serverapp.strategy",
    "flwr.serverapp.exception",
}
WITHOUT_LIST = {"flwr.serverapp.exception"}  # all of its names are public
OLD_FLEET = {"benchmarks/thin_hospitals.py"}  # made of Flower's gRPC fleet, which is gone
PATCHES = {"setattr", "delattr", "object", "patch", "patch.object", "multiple"}


def sources() -> Iterator[tuple[str, ast.AST]]:
    for path in (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if path != Path(__file__) and "_pb2" not in name and name not in OLD_FLEET:
            yield name, ast.parse(path.read_text())


def private(tree: ast.AST) -> Iterator[str]:
    """Find imports of Flower's modules and names that are not public."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (
                each.name
                for each in node.names
                if each.name.split(".")[0] == "flwr" and each.name not in PUBLIC
            )
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "flwr":
            if node.module not in PUBLIC:
                yield str(node.module)
            elif node.module not in WITHOUT_LIST:
                listed = import_module(node.module).__all__
                yield from (each.name for each in node.names if each.name not in listed)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from _named(node.value)


def _named(text: str) -> Iterator[str]:
    """Find a module of Flower's that a string names, as importlib or a patch would take it."""
    parts = text.split(".")
    dotted = len(parts) > 1 and all(part.isidentifier() for part in parts)
    public = any(".".join(parts[:length]) in PUBLIC for length in (2, 3))
    if parts[0] == "flwr" and dotted and not public:
        yield text


def changed(tree: ast.AST) -> Iterator[str]:
    """Find attributes of Flower's modules and classes that are set, deleted or patched."""
    flowers = {
        (each.asname or each.name).split(".")[0]
        for node in ast.walk(tree)
        if (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "flwr")
        or isinstance(node, ast.Import)
        for each in node.names
        if isinstance(node, ast.ImportFrom) or each.name.split(".")[0] == "flwr"
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            if _root(node) in flowers:
                yield ast.unparse(node)
        elif isinstance(node, ast.Call) and node.args:
            first, called = node.args[0], ast.unparse(node.func).rpartition(".")[2]
            text = first.value if isinstance(first, ast.Constant) else None
            named = isinstance(text, str) and text.startswith("flwr.")
            if called in PATCHES and (named or _root(first) in flowers):
                yield ast.unparse(node)


def _root(node: ast.AST) -> str | None:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def test_only_public_names_of_flowers_are_used() -> None:
    found = {name: sorted(set(private(tree))) for name, tree in sources()}
    assert {name: names for name, names in found.items() if names} == {}


def test_nothing_of_flowers_is_changed() -> None:
    found = {name: list(changed(tree)) for name, tree in sources()}
    assert {name: names for name, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import flwr",
        "import flwr.common.constant as c",
        "from flwr.supercore.date import now",
        "from flwr.app.message import make_message",
        "from flwr.serverapp import HttpGrid",
        "import_module('flwr.supernode.cli')",
    ],
)
def test_a_private_name_is_found(line: str) -> None:
    assert list(private(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    [
        "from flwr.app import Message, RecordDict",
        "from flwr.serverapp.strategy import FedAvg",
        "import flwr.serverapp.strategy as flowers",
        "target = 'flwr.serverapp.strategy.FedAvg'",
    ],
)
def test_a_public_name_is_not(line: str) -> None:
    assert not list(private(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    [
        "Message.content = 1",
        "del Message.content",
        "setattr(Message, 'content', 1)",
        "monkeypatch.setattr(Message, 'content', 1)",
        "monkeypatch.setattr('flwr.app.Message.content', 1)",
        "mock.patch.object(Message, 'content')",
    ],
)
def test_a_change_is_found(line: str) -> None:
    assert list(changed(ast.parse(f"from flwr.app import Message\n{line}")))
    assert not list(changed(ast.parse("from flwr.app import Message\nmessage.content = 1")))
