"""Settings as people write them: SETTING=VALUE, with any characters in the value.

Hydra's grammar gives a meaning to `=`, `~`, quotes, brackets and others, and knows no letters
beyond ASCII. A value that it does not read as one value is quoted for it here.
"""

import json
import re
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from polyclinic.errors import ConfigError

HOME = "~/"


def read_override(text: str) -> tuple[str, Override]:
    """Return a setting as Hydra reads it, quoted where that is needed, and what it says.

    Raises:
        ConfigError: It is not of the form SETTING=VALUE; the text shows how to quote.
    """
    key, equals, value = text.partition("=")
    if value.startswith(HOME):  # a shell replaces it only at the beginning of a word
        value = str(Path.home() / value.removeprefix(HOME))
    plain = f"{key}{equals}{value}"
    candidates = (plain, f"{key}={_quoted(value)}") if equals else (plain,)  # ~SETTING has no value
    for candidate in candidates if key.strip() and (equals or key.startswith("~")) else ():
        if (found := _parsed(candidate)) is not None:
            return candidate, found
    shown = value.replace("'", "\\'")
    raise ConfigError(
        f"'{text}' is not of the form SETTING=VALUE. Where the value holds characters that have a "
        f'meaning, quote it twice, for the shell and for the setting: "{key or "NAME"}='
        f"'{shown or 'VALUE'}'\"; the values of a list likewise: \"NAME=['one','two']\"."
    )


def write_override(key: str, value: bool | int | float | str | list[Any]) -> str:
    """Write a setting as Hydra reads it; texts are quoted.

    Args:
        key: The setting.
        value: A scalar, or a list of scalars.
    """
    return f"{key}={_written(value)}"


def _written(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_written, value))}]"
    return quote(value) if isinstance(value, str) else json.dumps(value)


def _parsed(text: str) -> Override | None:
    """Parse a setting of one value; None if Hydra reads it otherwise, or not at all."""
    try:
        found = OverridesParser.create().parse_override(text)
    except (HydraException, ValueError):
        return None
    return None if found.is_sweep_override() else found


def _quoted(value: str) -> str:
    """Quote a value, or each of the values in a list."""
    if re.fullmatch(r"\[[^\[\]{}]*\]", value):
        items = (item.strip() for item in value[1:-1].split(","))
        return f"[{','.join(item if _parsed(f'x={item}') else quote(item) for item in items)}]"
    return quote(value)


def quote(value: str) -> str:
    """Put a text into single quotes; a backslash counts only before a quote."""
    escaped = re.sub(r"(\\*)'", lambda found: found[1] * 2 + r"\'", value)
    return "'" + re.sub(r"\\+$", lambda found: found[0] * 2, escaped) + "'"
