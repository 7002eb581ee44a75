"""Text from files and from other machines."""

import json
from typing import Any

import yaml

LINE_CHARACTERS = 300
DEEPEST_YAML = 8  # lists and mappings inside one another
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


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


def parse_yaml(text: str) -> Any:
    """Parse YAML that is flat enough, without aliases, by which a small file can stand for much.

    Raises:
        yaml.YAMLError: It is no such YAML.
    """
    depth = 0
    for event in yaml.parse(text, _LOADER):
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("it holds aliases")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST_YAML:
            raise yaml.YAMLError("it is nested too deeply")
    return yaml.load(text, _LOADER)
