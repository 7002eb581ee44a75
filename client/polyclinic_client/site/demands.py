"""What a hospital demands for itself: small JSON files in its state folder, read and written here.

They count whatever the coordinator asks for.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from polyclinic.config.validation import validate
from polyclinic.errors import ConfigError
from polyclinic.system.durable import write_durably
from polyclinic.system.text import parse_json

Demands = TypeVar("Demands")


def read_demands(path: Path, schema: type[Demands]) -> Demands:
    """Read what the hospital demands; the schema's defaults where it never said anything.

    Args:
        path: The file.
        schema: A pydantic dataclass whose fields all have defaults.

    Raises:
        ConfigError: The file is damaged: nothing is done then.
    """
    try:
        said = _read(path)
        return validate(schema, said if isinstance(said, dict) else {"file": said})
    except (OSError, ValueError, RecursionError, ConfigError) as error:
        raise ConfigError(
            f"The hospital's {path.name} is damaged. Remove it, and say again what it said with "
            "the options of `polyclinic-client join`."
        ) from error


def keep_demands(path: Path, schema: type[Demands], changes: Mapping[str, object]) -> None:
    """Remember what was said on the command line; what was not said stays as it is.

    Args:
        path: The file; a damaged one is written anew.
        schema: Pydantic dataclass of the whole file.
        changes: Field to value; None where nothing was said.

    Raises:
        ConfigError: A value is out of its bounds.
    """
    said = {name: value for name, value in changes.items() if value is not None}
    if not said:
        return
    try:
        read_demands(path, schema)
        before = _read(path)
    except ConfigError:
        before = {}
    demanded = {**before, **said}
    validate(schema, demanded)
    write_durably(path, json.dumps(demanded).encode())


def _read(path: Path) -> Any:
    return parse_json(path.read_text()) if path.exists() else {}
