"""The desk of a coordinator: what is known of hospitals and runs, and what can be asked for.

`polyclinic_server.service.service.Service` is the desk of `polyclinic-server serve`;
`polyclinic_server.service.served_desk.ServedDesk` is the same one as another process sees it.
Several threads may use either.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class HospitalSnapshot:
    """A hospital, as the service knows it. What a hospital says of itself is bounded and clean.

    Attributes:
        name: As enrolled; without keys, as it calls itself.
        state: "connected"; "lost", if its line is gone; "missing", if it is enrolled and has not
            come since the service started.
        since: When it came into this state, in seconds since 1970.
        silent_s: Seconds since its last sign of life; 0 if it has not come.
        doing: What it last said that it does; empty if it said nothing.
        version: Of its polyclinic; empty if it has not come.
        device: What it computes with; empty where it does not say so.
        memory_bytes: Of that device; None where it does not say so.
        ahead_s: Seconds by which its clock is ahead of this machine's; None where it showed no key.
        sent_bytes: What was sent to it in large contents since the service started.
        received_bytes: What came from it, likewise.
        asked: Number of questions that it has not answered.
        runs: Names of the runs that have such questions.
    """

    name: str
    state: str
    since: float
    silent_s: float = 0.0
    doing: str = ""
    version: str = ""
    device: str = ""
    memory_bytes: int | None = None
    ahead_s: float | None = None
    sent_bytes: int = 0
    received_bytes: int = 0
    asked: int = 0
    runs: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunSnapshot:
    """A run that the service has in hand.

    Attributes:
        name: Name of its folder.
        state: "starting"; "running"; or "waiting", to be resumed when the service starts.
        pid: Its process; 0 if it has none.
    """

    name: str
    state: str
    pid: int = 0


class Desk(Protocol):
    """What a page, or a command, can ask a service."""

    def hospitals(self) -> tuple[HospitalSnapshot, ...]:
        """Return all hospitals that are enrolled or have come, by name."""
        ...

    def runs(self) -> tuple[RunSnapshot, ...]:
        """Return the runs in hand, by name; all others are folders alone."""
        ...

    def start(self, settings: Sequence[str], name: str | None = None) -> str:
        """Start a run, and return its name once its settings were checked and its folder is made.

        Args:
            settings: As `polyclinic-server run` takes them.
            name: Name of the run's folder; the present time if None.

        Raises:
            PolyclinicError: A setting is wrong, or the name is taken.
        """
        ...

    def stop(self, name: str) -> None:
        """Stop a run; what it has is kept, and it stays stopped until somebody resumes it.

        Raises:
            RunError: There is no such run in hand.
        """
        ...

    def resume(self, name: str, settings: Sequence[str] = ()) -> str:
        """Resume a run that was stopped, failed, or died; return its name, `latest` resolved.

        Args:
            name: Name of the run.
            settings: Those of its deployment that change.

        Raises:
            RunNotFound: There is no run of that name.
            RunError: It is finished, or goes on already.
        """
        ...
