"""Small JSON files of the outbox; one that is missing or damaged reads as empty."""

import json
import math
from pathlib import Path
from typing import Any

from polyclinic.system.durable import write_durably
from polyclinic.system.text import parse_json


def write_values(path: Path, values: dict[str, Any]) -> None:
    """Write values so that they survive a power cut."""
    write_durably(path, json.dumps(values).encode())


def read_values(path: Path) -> dict[str, Any]:
    """Read the values in a file; there are none in one that is missing or damaged."""
    try:
        found = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def time_of(note: dict[str, Any]) -> float:
    """Return when a note was written; the oldest time where it does not say so."""
    found = note.get("time")
    return found if isinstance(found, float) and math.isfinite(found) else 0.0
