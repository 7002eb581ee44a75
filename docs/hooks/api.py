"""The reference of the Python API: what `polyclinic.__all__` names, where it is defined.

`<!-- api -->` on a line of its own is replaced by one entry for each name, which mkdocstrings
fills from the docstring.
"""

import re
from typing import Any

import polyclinic
from polyclinic.errors import PolyclinicError

MARKER = re.compile(r"^<!-- api -->$", re.MULTILINE)
OPTIONS = """\
    options:
      heading_level: 3
      show_root_full_path: false
      show_root_toc_entry: true
"""


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Fill in the public names."""
    del page
    return MARKER.sub(lambda _found: render(), markdown)


def render() -> str:
    """Write one entry for each public name: functions, classes, errors."""
    kinds: dict[str, list[str]] = {"Functions": [], "Classes": [], "Errors": []}
    for name in getattr(polyclinic, "__all__", ()):
        value = getattr(polyclinic, name)
        kinds[kind_of(value)].append(entry(value))
    return "\n\n".join(
        f"## {kind}\n\n" + "\n".join(entries) for kind, entries in kinds.items() if entries
    )


def kind_of(value: object) -> str:
    """Tell functions, classes and errors apart."""
    if not isinstance(value, type):
        return "Functions"
    return "Errors" if issubclass(value, PolyclinicError) else "Classes"


def entry(value: Any) -> str:
    """Write where a public name is defined."""
    return f"::: {value.__module__}.{value.__qualname__}\n{OPTIONS}"
