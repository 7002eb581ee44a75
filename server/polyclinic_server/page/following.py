"""A run, followed while it goes on: what is new in its folder is read, and little of it is kept."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from polyclinic.errors import PolyclinicError
from polyclinic.federation.events import (
    Answered,
    ArmStart,
    Event,
    EventLog,
    Failed,
    Joined,
    Left,
    Missing,
    Refused,
    RoundEnd,
    SiteEvent,
)
from polyclinic.federation.live_state import LiveState
from polyclinic.federation.run_folder import RunFolder
from polyclinic.federation.run_state import RunState
from polyclinic.system.text import clean_lines
from polyclinic.web.looking import mark_of
from polyclinic_server.runs.event_tail import EventTail

MOST_LINES = 300  # events that are shown
MOST_SITES = 12  # hospitals with a curve of their own
MOST_ROUNDS = 20_000
MOST_HOSPITALS = 2_000
LARGEST = 1e9  # figure that is drawn: sums of any number of them are finite
EVENTS = "events.jsonl"
FILES = ("run.json", EVENTS)
BAD = (Failed, Missing, Left, Refused)


@dataclass(frozen=True)
class Told:
    """An event, in words."""

    time: float
    text: str
    bad: bool


@dataclass
class Row:
    """What a run knows of a hospital.

    Attributes:
        doing: What it does, in words.
        since: When that began, in seconds since 1970.
        trouble: What went wrong last; empty once it answers such a question again.
        failed: Phase of the question that went wrong.
    """

    site: str
    doing: str = "joined"
    since: float = 0.0
    trouble: str = ""
    failed: str = ""
    modality: str = ""
    training: int | None = None
    loss: float | None = None
    score: float | None = None
    seconds: float | None = None
    version: str = ""


@dataclass
class Series:
    """A figure over the rounds: sums for the mean, and lines of the first hospitals."""

    sums: dict[int, tuple[float, int]] = field(default_factory=dict)
    sites: dict[str, dict[int, float]] = field(default_factory=dict)

    def add(self, number: int, site: str, value: float) -> None:
        """Add a hospital's value of a round."""
        if number not in self.sums and len(self.sums) >= MOST_ROUNDS:
            return
        total, count = self.sums.get(number, (0.0, 0))
        self.sums[number] = (total + value, count + 1)
        if site in self.sites or len(self.sites) < MOST_SITES:
            self.sites.setdefault(site, {})[number] = value

    def forget_after(self, number: int) -> None:
        """Forget the rounds that begin again after this one."""
        self.sums = {n: held for n, held in self.sums.items() if n <= number}
        for site, values in self.sites.items():
            self.sites[site] = {n: value for n, value in values.items() if n <= number}

    def mean(self) -> list[tuple[float, float]]:
        """Return the mean over the hospitals that reported, by round."""
        return [(n, total / count) for n, (total, count) in sorted(self.sums.items()) if count]


class Following:
    """One run.

    Args:
        path: Its folder.
        log: Reader of events.

    Attributes:
        name: Its name.
        state: What run.json says; None while it cannot be read.
        problem: Why it cannot be read.
        rows: Hospitals by name.
        told: Newest events, in words.
        curves: Series by strategy and quantity, `loss` or `score`.
        version: Counts changes.
    """

    def __init__(self, path: Path, log: EventLog) -> None:
        self.folder = RunFolder(path)
        self.name = self.folder.name
        self._log = log
        self.state: RunState | None = None
        self.problem = ""
        self.version = 0
        self._seen: tuple[object, ...] = ()
        self._begin()

    def _begin(self) -> None:
        self._tail = EventTail(self.folder.path / EVENTS, 0, self._log)
        self.live: LiveState | None = None
        self.rows: dict[str, Row] = {}
        self.refused: dict[str, Told] = {}
        self.told: deque[Told] = deque(maxlen=MOST_LINES)
        self.curves: dict[tuple[str, str], Series] = {}
        self.round_times: deque[float] = deque(maxlen=6)  # of the newest rounds' ends
        self.rounds_done = 0  # of the present strategy

    def look(self, *, events: bool) -> None:
        """Read what is new.

        Args:
            events: Whether the events are read, too.
        """
        seen = tuple(mark_of(self.folder.path / name) for name in FILES[: 1 + events])
        if seen == self._seen[: len(seen)]:
            return
        try:
            self.state, self.problem = self.folder.state(), ""
        except PolyclinicError as error:
            self.state, self.problem = None, str(error)
        if events and self.state is not None:
            self._read_events(self.state)
        self._seen = seen
        self.version += 1

    def _read_events(self, state: RunState) -> None:
        if not (self.folder.path / EVENTS).is_file():
            return
        if self._tail.is_another_file:
            self._begin()
        live = self.live = self.live or state.live_state()
        for event in self._tail.events():
            self._take(event, live)

    def _take(self, event: Event, live: LiveState) -> None:
        site = getattr(event, "site", "")
        crowded = site and site not in live.rows and len(live.rows) >= MOST_HOSPITALS
        if crowded:
            return
        text = event.tell(live)
        if text:
            self.told.append(Told(event.time, clean_lines(text), isinstance(event, BAD)))
        if isinstance(event, ArmStart):
            self.round_times.clear()
            if live.in_rounds:
                for quantity in ("loss", "score"):
                    self._series(event.arm, quantity).forget_after(event.offset)
        if isinstance(event, ArmStart | RoundEnd):
            self.round_times.append(event.time)
            self.rounds_done = event.offset if isinstance(event, ArmStart) else event.round
        if isinstance(event, Refused):
            if len(self.refused) >= MOST_HOSPITALS:
                self.refused.pop(next(iter(self.refused)))
            self.refused[event.site] = Told(event.time, event.reason, bad=True)
        elif isinstance(event, SiteEvent) and event.site in live.rows:
            self._update(self.rows.setdefault(event.site, Row(event.site)), event, live)

    def _update(self, row: Row, event: SiteEvent, live: LiveState) -> None:
        shown = live.rows[event.site]
        if row.doing != shown.doing or not row.since:
            row.since = event.time
        row.doing, row.loss, row.score = shown.doing, shown.loss, shown.score
        if isinstance(event, Joined):
            row.modality, row.training = event.modality, event.training
            row.version, row.trouble = event.version, ""
            self.refused.pop(event.site, None)
        elif isinstance(event, Failed | Missing):
            row.trouble, row.failed = event.reason or row.doing, event.phase
        elif isinstance(event, Left):
            row.trouble, row.failed = "offline", ""
        elif isinstance(event, Answered):
            row.seconds = event.seconds
            if row.failed in ("", event.phase):
                row.trouble = ""
            self._plot(event)

    def _plot(self, event: Answered) -> None:
        drawn = {"train": ("loss", event.loss), "evaluate": ("score", event.score)}
        quantity, value = drawn.get(event.phase, ("", None))
        if value is not None and abs(value) <= LARGEST:
            self._series(event.arm, quantity).add(event.round, event.site, value)

    def _series(self, arm: str, quantity: str) -> Series:
        return self.curves.setdefault((arm, quantity), Series())

    def left_s(self) -> float | None:
        """Return the seconds that the rounds of the present strategy still take; None if unknown.

        It is the mean time of its newest rounds, times the rounds that are left.
        """
        live, times = self.live, self.round_times
        if live is None or not live.in_rounds or len(times) < 2 or not live.rounds:
            return None
        pace = (times[-1] - times[0]) / (len(times) - 1)
        return max(0.0, pace * (live.rounds - self.rounds_done))

    def titles(self) -> Mapping[str, str]:
        """Return the strategies' titles, by their names."""
        return self.state.titles if self.state else {}
