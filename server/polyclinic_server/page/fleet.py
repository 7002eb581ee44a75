"""What the page knows of the hospitals' lines, and what it may do: given by whoever serves them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from polyclinic_server.fleet.sessions import Line


class Fleet(Protocol):
    """Who serves the hospitals; `FleetServer` is one."""

    def hospitals(self) -> Sequence[Line]:
        """Return the line of every hospital that ever came, by name; from any thread."""
        ...


class NoFleet:
    """The fleet of a page that only reads a folder of runs."""

    def hospitals(self) -> Sequence[Line]:
        """Return no line."""
        return ()


@dataclass(frozen=True)
class RunDeeds:
    """What the page may do to runs; what is None is not offered.

    Each takes the name of a run.

    Raises:
        PolyclinicError: It cannot be done; the text says why.
    """

    stop: Callable[[str], None] | None = None
    resume: Callable[[str], None] | None = None
