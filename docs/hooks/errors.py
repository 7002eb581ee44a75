"""The reference of the errors, made from the classes themselves.

`<!-- errors -->` on a line of its own is replaced by the tree below `PolyclinicError`.
"""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

from polyclinic.errors import PolyclinicError

MARKER = re.compile(r"^<!-- errors -->$", re.MULTILINE)
PACKAGES = ("polyclinic", "polyclinic_strategies", "polyclinic_server", "polyclinic_client")


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Fill in the tree of errors."""
    del page
    return MARKER.sub(lambda _found: render(), markdown)


def render() -> str:
    """Write the tree as a table."""
    import_everything()
    rows = [
        f"| {'&nbsp;' * (4 * depth)}`{error.__name__}` | {error.exit_code} | "
        f"{'yes' if error.shareable else 'no'} | {first_line(error)} |"
        for depth, error in tree(PolyclinicError)
    ]
    head = ["| error | exit code | its text may travel | meaning |", "|---|---|---|---|"]
    return "\n".join([*head, *rows])


def import_everything() -> None:
    """Import every module, so that every error exists."""
    for package in PACKAGES:
        root = importlib.import_module(package)
        for module in pkgutil.walk_packages(root.__path__, f"{package}."):
            if not module.name.endswith(("_pb2", "_pb2_grpc", "__main__")):
                importlib.import_module(module.name)


def tree(
    error: type[PolyclinicError], depth: int = 0
) -> Iterator[tuple[int, type[PolyclinicError]]]:
    """List an error and those below it, with their depth."""
    yield depth, error
    for child in sorted(error.__subclasses__(), key=lambda each: (each.exit_code, each.__name__)):
        yield from tree(child, depth + 1)


def first_line(error: type[PolyclinicError]) -> str:
    """Read the first sentence of a docstring."""
    text = (inspect.getdoc(error) or "").partition("\n\n")[0]
    return " ".join(text.split()).replace("|", "\\|")
