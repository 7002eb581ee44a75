"""A bundle's files, read within bounds: configuration as plain values, which nothing executes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from polyclinic.errors import BundleInvalid
from polyclinic.system.text import clean, first_line, parse_json

SUFFIXES = (".json", ".yaml", ".yml")
CODE = (".py", ".pyc", ".pyd", ".pyx", ".so", ".dll", ".dylib", ".sh", ".pkl", ".ts", ".pt2")
MOST_BYTES = 2**20  # of one configuration file
MOST_FILES = 1000
MOST_VALUES = 20_000  # of one file, all lists and tables included
DEEPEST = 40
WEIGHTS = ("models/model.safetensors", "models/model.pt")


@dataclass(frozen=True)
class Source:
    """One configuration file, parsed.

    Attributes:
        path: The file.
        tree: What it says.
    """

    path: Path
    tree: Mapping[str, Any]


def read_source(folder: Path, stem: str) -> Source | None:
    """Read `configs/STEM.json`, `.yaml` or `.yml`; None if there is none.

    Raises:
        BundleInvalid: It is no table of plain values, or larger than a configuration is.
    """
    for suffix in SUFFIXES:
        path = folder / "configs" / f"{stem}{suffix}"
        if path.is_file():
            return Source(path, _read(path))
    return None


def check_folder(folder: Path) -> None:
    """Refuse a bundle that brings code.

    Raises:
        BundleInvalid: It is no folder, or a file of it is a program or a pickled object.
    """
    if not (folder / "configs").is_dir():
        raise BundleInvalid(
            folder, "is no MONAI bundle: it has no folder configs/", "Name the bundle's own folder"
        )
    for number, path in enumerate(sorted(folder.rglob("*"))):
        if number >= MOST_FILES:
            raise BundleInvalid(
                folder, f"has more than {MOST_FILES} files", "Name the bundle's own folder"
            )
        if path.suffix.lower() in CODE and path.is_file():
            raise BundleInvalid(
                path,
                "is a program. Only bundles that are configuration and weights are read, and "
                "hospitals run no code that they have not installed",
                "Remove it if the network does not need it; else offer its network as a package "
                "that the hospitals install",
            )


def find_weights(folder: Path) -> Path | None:
    """Return the file of the bundle's weights, if it has one."""
    found = (folder / name for name in WEIGHTS)
    return next((path for path in found if path.is_file()), None)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it is larger than {MOST_BYTES // 2**20} MiB")
        text = path.read_bytes()
        tree = parse_json(text) if path.suffix == ".json" else _parse_yaml(text)
        if not isinstance(tree, Mapping):
            raise ValueError("it holds no table")
        for number, _ in enumerate(_values(tree, 0)):
            if number >= MOST_VALUES:
                raise ValueError(f"it has more than {MOST_VALUES:,} values")
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError, yaml.YAMLError) as error:
        raise BundleInvalid(
            path, f"cannot be read ({first_line(error)})", "Ask who made the bundle for a new copy"
        ) from error
    return tree


def _parse_yaml(text: bytes) -> Any:
    """Parse plain YAML in pure Python, whose recursion ends in an error and not in a crash."""
    try:
        return yaml.load(text, yaml.SafeLoader)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _values(tree: Any, depth: int) -> Iterator[None]:
    """Visit every value; an alias of YAML counts as often as it is named."""
    if depth > DEEPEST:
        raise ValueError(f"nested more than {DEEPEST} deep")
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            if not isinstance(name, str):
                raise ValueError(f"the name {clean(name)[:60]} is no text")
            yield from _values(value, depth + 1)
    elif isinstance(tree, list):
        for value in tree:
            yield from _values(value, depth + 1)
    elif not isinstance(tree, str | int | float | None):
        raise ValueError(f"{clean(tree)[:60]} is no plain value")
    yield
