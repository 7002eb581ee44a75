"""All runs of a folder and all hospitals, as a page shows them: looked at once a second."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from polyclinic.federation.events import EventLog
from polyclinic.web.looking import Looker
from polyclinic_server.page.fleet import Fleet, Line, NoFleet
from polyclinic_server.page.following import Following, Row
from polyclinic_server.runs.status import state_of

ACTIVE = ("waiting", "running")
MOST_RUNS = 200  # newest runs that are followed


@dataclass(frozen=True)
class Run:
    """A run, and its state now: `died` where nobody works at it any more."""

    following: Following
    state: str

    @property
    def name(self) -> str:
        """Its name."""
        return self.following.name

    @property
    def active(self) -> bool:
        """Whether it goes on."""
        return self.state in ACTIVE

    @property
    def share(self) -> float:
        """Share of the work that is done, 0 to 1."""
        if self.state == "finished":
            return 1.0
        return self.following.live.share if self.following.live else 0.0


@dataclass(frozen=True)
class Hospital:
    """A hospital, over all runs that go on.

    Attributes:
        site: Its name.
        line: Its line; None where it is not known.
        rows: What each run that goes on knows of it.
        refused: Why runs refused it.
    """

    site: str
    line: Line | None
    rows: tuple[tuple[str, Row], ...]
    refused: tuple[str, ...] = ()

    def foremost(self, most: int) -> tuple[tuple[str, Row], ...]:
        """Return what it does in some of its runs: trouble first, then work, then the newest."""
        return tuple(sorted(self.rows, key=_urgency)[:most])

    @property
    def condition(self) -> str:
        """Return one word: refused, gone, troubled, busy or ready."""
        if self.refused and not self.rows:
            return "refused"
        gone = [row for _, row in self.rows if row.doing == "offline"]
        if (self.line is not None and not self.line.online) or (
            self.line is None and gone and len(gone) == len(self.rows)
        ):
            return "gone"
        if self.refused or any(row.trouble and row.doing != "offline" for _, row in self.rows):
            return "troubled"
        busy = any(row.doing.startswith(WORK) for _, row in self.rows)
        return "busy" if busy else "ready"


WORK = ("training", "validating", "testing", "describing", "measuring", "fine-tuning")


def _urgency(held: tuple[str, Row]) -> tuple[bool, bool, float]:
    row = held[1]
    return (not row.trouble, not row.doing.startswith(WORK), -row.since)


@dataclass(frozen=True)
class View:
    """What the page shows at one moment."""

    version: str
    runs: tuple[Run, ...]
    hospitals: tuple[Hospital, ...]
    time: float

    def run(self, name: str) -> Run | None:
        """Return a run by its name."""
        return next((run for run in self.runs if run.name == name), None)


class Watch(Looker):
    """Looks at a folder of runs, and at a fleet.

    Args:
        runs: The folder.
        fleet: Who serves the hospitals.
        told: Told each run whose state is another one than before, and that state.
    """

    def __init__(
        self,
        runs: Path,
        fleet: Fleet | None = None,
        told: Callable[[Run, str], None] = lambda _run, _before: None,
    ) -> None:
        super().__init__()
        self._folder, self._fleet, self._told = runs, fleet or NoFleet(), told
        self._log = EventLog()
        self._followed: dict[str, Following] = {}
        self._states: dict[str, str] = {}
        self._sign: tuple[object, ...] = ()
        self._count = 0
        self.view = View("0", (), (), time.time())

    def attach(self, fleet: Fleet) -> None:
        """Look at a fleet that began to serve after the page."""
        self._fleet = fleet

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self.look()  # how the run ended

    def look(self) -> View:
        """Look once."""
        with self.lock:
            return self._look()

    def open(self, name: str) -> Run | None:
        """Return a run with its events, which are not read before of one that has ended."""
        with self.lock:
            run = self.view.run(name)
            if run is not None:
                run.following.look(events=True)
            return run

    def _look(self) -> View:
        runs = tuple(self._runs())
        lines = tuple(self._fleet.hospitals())
        sign = (
            tuple((run.name, run.state, run.following.version) for run in runs),
            tuple(
                (line.site, line.online, line.since, line.version, line.device) for line in lines
            ),
        )
        if sign != self._sign:
            self._sign, self._count = sign, self._count + 1
            hospitals = tuple(combine(runs, lines))
            self.view = View(str(self._count), runs, hospitals, time.time())
            self._tell(runs)
        return self.view

    def _runs(self) -> list[Run]:
        found = sorted(self._folder.glob("*/run.json"), key=_changed, reverse=True)[:MOST_RUNS]
        kept = {}
        for path in found:
            name = path.parent.name
            following = self._followed.get(name) or Following(path.parent, self._log)
            following.look(events=False)
            if _state(following) in ACTIVE:
                following.look(events=True)
            kept[name] = following
        self._followed = kept
        runs = [Run(each, _state(each)) for each in kept.values()]
        return sorted(runs, key=_order)

    def _tell(self, runs: Sequence[Run]) -> None:
        first = not self._states
        for run in runs:
            before = self._states.get(run.name, "")
            self._states[run.name] = run.state
            if before != run.state and not (first and not run.active):
                self._told(run, before)


def combine(runs: Sequence[Run], lines: Sequence[Line]) -> list[Hospital]:
    """Put together what runs that go on and a fleet know of hospitals, by name."""
    known = {line.site: line for line in lines}
    rows: dict[str, list[tuple[str, Row]]] = {}
    refused: dict[str, list[str]] = {}
    for run in runs:
        if run.active:
            for site, row in run.following.rows.items():
                rows.setdefault(site, []).append((run.name, row))
            for site, told in run.following.refused.items():
                refused.setdefault(site, []).append(told.text)
    return [
        Hospital(site, known.get(site), tuple(rows.get(site, ())), tuple(refused.get(site, ())))
        for site in sorted({*known, *rows, *refused})
    ]


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _state(following: Following) -> str:
    """Return a run's state; whether somebody works at it is looked for if it says so."""
    if following.state is None:
        return "unreadable"
    state = following.state.state
    return state_of(following.folder) if state in ACTIVE else state


def _order(run: Run) -> tuple[bool, str]:
    """Sort runs that go on first; then the newest."""
    started = run.following.state.started if run.following.state else ""
    return (not run.active, "".join(chr(0x10FFFF - ord(letter)) for letter in started))
