"""References between parts of a bundle's configuration; expressions are refused, never executed.

`@preprocessing` and `@preprocessing#transforms#0` stand for another part of the same file. Anything
else that begins with `$` is a Python expression, and `%` names another file.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from polyclinic.config.bundles.files import Source
from polyclinic.errors import BundleInvalid
from polyclinic.system.text import clean

MOST_VALUES = 20_000  # of a part with all that it refers to
DEEPEST = 40
DEVICE = "device"  # of a part; the machine that trains chooses
LIBRARIES = ("monai.", "torch.", "ignite.")
# modules whose import tells nothing of the network
IMPORTS = {
    *("collections", "glob", "json", "logging", "math", "monai", "numpy", "os", "pathlib"),
    *("random", "re", "scipy", "shutil", "sys", "torch", "ignite", "nibabel", "warnings"),
}
_REFERENCE = re.compile(r"\$?@([\w.]+(?:(?:#|::)[\w.]+)*)\s*")
_IMPORT = re.compile(r"\$\s*(?:import|from)\s+([A-Za-z_]\w*)")
_SHOWN = 80


def resolve(source: Source, name: str, unread: Collection[str] = ()) -> Any:
    """Return a part of the configuration with all that it refers to.

    Args:
        source: The file.
        name: Name of the part.
        unread: Names of classes whose arguments are left out. Arguments called `device` always are.

    Raises:
        BundleInvalid: A Python expression, a reference that leads nowhere, or in a circle.
    """
    return _Resolver(source, frozenset(unread)).replace(source.tree[name], name, 0)


def check_code(source: Source) -> None:
    """Refuse a file that names code of its own, anywhere.

    Expressions in parts that are not read, such as the choice of a device, do not count.

    Raises:
        BundleInvalid: A `_target_` outside of MONAI, torch and ignite, or the import of another
            package.
    """
    for place, value in _texts(source.tree, ""):
        if place.endswith("_target_") and "." in value and not value.startswith(LIBRARIES):
            raise BundleInvalid(
                f"{source.path}, {place}",
                f"'{_shown(value)}' is not one of MONAI's classes",
                "Hospitals make nothing but MONAI's networks: offer another network as a package "
                "that they install",
            )
        found = _IMPORT.match(value)
        if found is not None and found[1] not in IMPORTS:
            raise BundleInvalid(
                f"{source.path}, {place}",
                f"'{_shown(value)}' imports code that is not MONAI's",
                "Remove it, and what needs it",
            )


class _Resolver:
    def __init__(self, source: Source, unread: frozenset[str]) -> None:
        self._source, self._unread, self._count = source, unread, 0

    def replace(self, value: Any, place: str, depth: int) -> Any:
        self._count += 1
        if depth > DEEPEST or self._count > MOST_VALUES:
            raise self._refuse(place, "its references lead in a circle, or to too many values")
        if isinstance(value, Mapping):
            unread = str(value.get("_target_")).rpartition(".")[2] in self._unread
            return {
                name: self.replace(each, f"{place}#{name}", depth + 1)
                for name, each in value.items()
                if name != DEVICE and (not unread or name == "_target_")
            }
        if isinstance(value, list):
            return [
                self.replace(each, f"{place}#{number}", depth + 1)
                for number, each in enumerate(value)
            ]
        if not isinstance(value, str) or value[:1] not in ("$", "@", "%"):
            return value
        found = _REFERENCE.fullmatch(value)
        if value.startswith("%"):
            raise self._refuse(place, f"'{_shown(value)}' refers to another file")
        if found is None:
            raise self._refuse(place, f"'{_shown(value)}' is a Python expression")
        return self.replace(self._find(found[1], place), place, depth + 1)

    def _find(self, name: str, place: str) -> Any:
        node: Any = self._source.tree
        for piece in re.split("#|::", name):
            if isinstance(node, Mapping) and piece in node:
                node = node[piece]
            elif isinstance(node, list) and piece.isascii() and piece.isdigit():
                node = node[int(piece[:6])] if int(piece[:6]) < len(node) else None
            else:
                raise self._refuse(place, f"'@{_shown(name)}' leads nowhere")
        return node

    def _refuse(self, place: str, reason: str) -> BundleInvalid:
        return BundleInvalid(
            f"{self._source.path}, {clean(place)[:200]}",
            reason,
            "Nothing of a bundle is executed: write the value itself in its place",
        )


def _texts(tree: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(tree, str):
        yield clean(place)[:200], tree
    elif isinstance(tree, Mapping):
        for name, value in tree.items():
            yield from _texts(value, f"{place}#{name}" if place else name)
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from _texts(value, f"{place}#{number}")


def _shown(value: str) -> str:
    return clean(value)[:_SHOWN]
