"""Text from files and from other machines."""

import hashlib
import json
from typing import Any

LINE_CHARACTERS = 300


def clean(value: object) -> str:
    """Return a value as text in which control characters, which steer a terminal, are replaced.

    None becomes the empty text.
    """
    if value is None:
        return ""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def clean_lines(value: object) -> str:
    """Return a value as `clean` does, with its lines kept apart.

    Whatever a program shows in a terminal goes through here or through `clean`: any part of it may
    have come from the other side.
    """
    return "\n".join(map(clean, str(value).split("\n")))


def first_line(error: object) -> str:
    """Return the first line of an error's text, of a bounded length."""
    lines = str(error).strip().splitlines()
    return clean(lines[0])[:LINE_CHARACTERS] if lines else type(error).__name__


def canonical_json(value: object, *, allow_nan: bool = False) -> str:
    """Return the JSON text of a value; equal values give equal text.

    Raises:
        ValueError: The value holds NaN or Inf, and `allow_nan` is not set.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=allow_nan)


def json_digest(value: object) -> str:
    """Return the SHA-256 (hex) of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value, allow_nan=True).encode()).hexdigest()


def parse_json(text: str | bytes) -> Any:
    """Parse JSON that lies in a file, or came from another machine.

    Raises:
        ValueError: It is none, is no Unicode, or is nested too deeply for Python.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
