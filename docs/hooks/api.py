"""The reference of the Python API: what `polyclinic.__all__` names, where it is defined.

`<!-- api -->` on a line of its own is replaced by one entry for each name, which mkdocstrings
fills from the docstring.
"""

import re
from typing import Any

import polyclinic

MARKER = re.compile(r"^<!-- api -->$", re.MULTILINE)


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Fill in the public names."""
    del page
    return MARKER.sub(lambda _found: render(), markdown)


def render() -> str:
    """Write one entry for each public name, in the order of `polyclinic.__all__`."""
    return "\n\n".join(entry(name) for name in getattr(polyclinic, "__all__", ()))


def entry(name: str) -> str:
    """Write where a public name is defined; a value without a place of its own is left out."""
    value = getattr(polyclinic, name)
    place, called = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if place is None or called is None:
        return f"## `polyclinic.{name}`"
    return f"## `polyclinic.{name}`\n\n::: {place}.{called}"
