"""Text from files and from other machines."""

import json
from typing import Any

LINE_CHARACTERS = 300


def clean(value: object) -> str:
    """Return a value as text in which control characters, which steer a terminal, are replaced.

    None becomes the empty text.
    """
    if value is None:
        return ""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))


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


def parse_json(text: str | bytes) -> Any:
    """Parse JSON that lies in a file, or came from another machine.

    Raises:
        ValueError: It is none, is no Unicode, or is nested too deeply for Python.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
