"""A tree of plain values as one flat list of texts, which a setting of a job may be.

A text holds a path and its value: `{"channels": [16, 32], "norm": None}` becomes
`["channels.0 16", "channels.1 32", "norm (none)"]`.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from polyclinic.config.validation import LONGEST
from polyclinic.errors import ConfigError
from polyclinic.system.text import clean

SPECIAL: dict[str, Any] = {
    "(none)": None,
    "(list)": [],
    "(table)": {},
    "true": True,
    "false": False,
}
DEEPEST = 8  # pieces of a path
CHARACTERS = 100  # of a path with its value
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_INDEX = re.compile(r"0|[1-9][0-9]{0,2}")
_NUMBER = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?(e[+-]?[0-9]{1,3})?")
_TEXT = re.compile(r"[\w .,+()/'*&%-]*")  # what may travel
_SHOWN = 60  # characters of what somebody else wrote


def flatten(tree: Mapping[str, Any] | Sequence[Any]) -> list[str]:
    """Write a tree as a flat list.

    Args:
        tree: Tables, lists, scalars and None.

    Raises:
        ConfigError: A name or a text that cannot travel, or more values than travel in one list.
    """
    found = list(_leaves(tree, ())) if tree else []
    if len(found) > LONGEST:
        raise ConfigError(f"it has {len(found)} values, and at most {LONGEST} travel.")
    return found


def unflatten(values: Sequence[object]) -> Any:
    """Undo `flatten`; of an empty list an empty table is made.

    Raises:
        ConfigError: The list is not what `flatten` writes.
    """
    if len(values) > LONGEST:
        raise ConfigError(f"it has {len(values)} values, and at most {LONGEST} travel.")
    root: dict[str, Any] = {}
    for text in values:
        path, space, value = str(text).partition(" ")
        if not space or len(str(text)) > CHARACTERS:
            raise ConfigError(f"'{_shown(text)}' is no path with a value.")
        node: Any = root
        *above, last = _pieces(path)
        for piece in above:
            node = node.setdefault(piece, {})
            if not isinstance(node, dict):
                raise ConfigError(f"'{_shown(path)}' lies below a value.")
        if last in node:
            raise ConfigError(f"'{_shown(path)}' is given twice.")
        node[last] = value
    return _closed(root)


def _leaves(tree: Any, path: tuple[str, ...]) -> Iterator[str]:
    if len(path) > DEEPEST:
        raise ConfigError(f"'{_shown('.'.join(path))}' is nested more than {DEEPEST} deep.")
    if isinstance(tree, Mapping) and tree:
        for name, value in tree.items():
            if not isinstance(name, str) or not NAME.fullmatch(name):
                raise ConfigError(f"'{_shown(name)}' is no name of an argument.")
            yield from _leaves(value, (*path, name))
    elif isinstance(tree, list | tuple) and tree:
        for place, value in enumerate(tree):
            yield from _leaves(value, (*path, str(place)))
    else:
        text = f"{'.'.join(path)} {_as_text(tree)}"
        if len(text) > CHARACTERS or _read(_as_text(tree)) != (
            list(tree) if isinstance(tree, tuple) else tree
        ):
            raise ConfigError(f"'{_shown(text)}' cannot travel: numbers and short plain words do.")
        yield text


def _as_text(value: Any) -> str:
    """Write a value that holds no others."""
    if value is None or isinstance(value, Mapping | list | tuple):
        return "(none)" if value is None else "(table)" if isinstance(value, Mapping) else "(list)"
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{value} is no finite number.")
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if not isinstance(value, str) or not _TEXT.fullmatch(value):
        raise ConfigError(f"'{_shown(value)}' cannot travel: numbers and short plain words do.")
    return value


def _read(text: str) -> Any:
    """Undo `_as_text`."""
    if text in SPECIAL:
        found = SPECIAL[text]
        return found.copy() if isinstance(found, list | dict) else found
    if _NUMBER.fullmatch(text):
        number = float(text) if set(text) & set(".e") else int(text)
        if not math.isfinite(number) or (isinstance(number, int) and abs(number) >= 2**63):
            raise ConfigError(f"{_shown(text)} is no number that travels.")
        return number
    return text


def _pieces(path: str) -> list[str]:
    pieces = path.split(".")
    if len(pieces) > DEEPEST or not all(
        NAME.fullmatch(piece) or _INDEX.fullmatch(piece) for piece in pieces
    ):
        raise ConfigError(f"'{_shown(path)}' is no path of a value.")
    return pieces


def _closed(node: Any) -> Any:
    """Turn tables whose names are 0, 1, 2 ... into lists, and texts into their values."""
    if not isinstance(node, dict):
        return _read(node)
    if not any(_INDEX.fullmatch(name) for name in node):
        return {name: _closed(value) for name, value in node.items()}
    if set(node) != {str(place) for place in range(len(node))}:
        raise ConfigError(f"'{_shown(next(iter(node)))}': the places of a list are 0, 1, 2 ...")
    return [_closed(node[str(place)]) for place in range(len(node))]


def _shown(value: object) -> str:
    return clean(value)[:_SHOWN]
