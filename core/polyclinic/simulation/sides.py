"""The coordinator's and the hospital's side, found by the entry points of what is installed.

`polyclinic` imports neither: `polyclinic.sides` names them.
"""

from pathlib import Path
from typing import Any, Protocol

from flwr.app import Message

from polyclinic.errors import ConfigError
from polyclinic.system.plugins import offered

SIDES = "polyclinic.sides"
COORDINATOR, REPORT, HOSPITAL = "coordinator", "report", "simulated_hospital"


class HospitalInProcess(Protocol):
    """A hospital that answers in this process: what its worker and its fine-tuning do, by turns."""

    def __init__(self, site: str, data: Path, state: Path, mode: str) -> None:
        """Name the hospital; nothing is read yet."""

    def answer(self, message: Message) -> Message:
        """Do what a message asks.

        Raises:
            Exception: Whatever goes wrong.
        """
        ...

    def work(self) -> None:
        """Fine-tune, if the coordinator asked for it and it is not done.

        Raises:
            Exception: Whatever goes wrong.
        """
        ...

    @property
    def cached_bytes(self) -> int:
        """Memory that prepared cases take."""
        ...

    def drop_cache(self) -> None:
        """Give that memory back; the cases are prepared again when they are needed."""

    def close(self) -> None:
        """Give back everything that is kept in memory."""


class SideMissing(ConfigError):
    """A side of the federation is not installed here."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(
            f"polyclinic's '{name}' is not installed here ({problem}): install polyclinic with its "
            "extras server and client, in the environment of this program."
        )


def load_side(name: str) -> Any:
    """Import one of the sides.

    Raises:
        SideMissing: It is not installed, or lacks what it needs.
    """
    entry = offered(SIDES).get(name)
    if entry is None:
        raise SideMissing(name, f"no entry point {SIDES}")
    try:
        return entry.load()
    except ImportError as error:
        raise SideMissing(name, str(error)) from error
