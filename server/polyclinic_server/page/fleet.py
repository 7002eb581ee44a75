"""What the page knows of the hospitals' lines, and what it may do: given by whoever serves them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from polyclinic_server.service.desk import HospitalSnapshot


@dataclass(frozen=True)
class Line:
    """The line of a hospital, for whoever watches; times are seconds since 1970.

    Attributes:
        site: Its name.
        online: Whether it is connected.
        since: When it came, or was cut; when the coordinator began, if it never came.
        heard: When it last gave a sign of life; 0 if it never came.
        version: Its version of polyclinic; empty where it is not known.
        device: What it computes with; empty where it does not say so.
        memory_bytes: Of that device; None where it does not say so.
        ahead_s: Seconds by which its clock is ahead of this machine's; None where it is not known.
        sent_bytes, received_bytes: What was sent to it and came from it, in large contents.
    """

    site: str
    online: bool
    since: float
    heard: float
    version: str = ""
    device: str = ""
    memory_bytes: int | None = None
    ahead_s: float | None = None
    sent_bytes: int = 0
    received_bytes: int = 0


class Fleet(Protocol):
    """Who serves the hospitals."""

    def hospitals(self) -> Sequence[Line]:
        """Return the line of every hospital that ever came, by name; from any thread."""
        ...


class SnapshotFleet:
    """The fleet of whoever can describe its hospitals.

    Args:
        describe: Returns what is known of them now.
    """

    def __init__(self, describe: Callable[[], Sequence[HospitalSnapshot]]) -> None:
        self._describe = describe

    def hospitals(self) -> Sequence[Line]:
        """Return the line of every hospital that is enrolled or ever came, by name."""
        now = time.time()
        return [
            Line(
                site=each.name,
                online=each.state == "connected",
                since=each.since,
                heard=0.0 if each.state == "missing" else now - each.silent_s,
                version=each.version,
                device=each.device,
                memory_bytes=each.memory_bytes,
                ahead_s=each.ahead_s,
                sent_bytes=each.sent_bytes,
                received_bytes=each.received_bytes,
            )
            for each in self._describe()
        ]


class NoFleet:
    """The fleet of a page that only reads a folder of runs."""

    def hospitals(self) -> Sequence[Line]:
        """Return no line."""
        return ()


@dataclass(frozen=True)
class RunDeeds:
    """What the page may do to runs; what is None is not offered.

    Attributes:
        stop: Takes the name of a run.
        resume: Takes the name of a run.
        start: Takes settings, and a name or None; returns the name of the run.

    Raises:
        PolyclinicError: It cannot be done; the text says why.
    """

    stop: Callable[[str], None] | None = None
    resume: Callable[[str], None] | None = None
    start: Callable[[Sequence[str], str | None], str] | None = None
