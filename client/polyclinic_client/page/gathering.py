"""What the hospital's page shows: files of the state folder, looked at once a second."""

from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from polyclinic.errors import PolyclinicError
from polyclinic.web.looking import Looker, mark_of
from polyclinic_client.page.scan_task import SAYS
from polyclinic_client.policy.decisions import ASKED, DECISIONS, Request, requests
from polyclinic_client.policy.policy import FILE as POLICY
from polyclinic_client.policy.standing import WAITS, standing_of
from polyclinic_client.sent.journal import FILE, Entry, Journal
from polyclinic_client.sent.kinds import SIGNALS
from polyclinic_client.site.status import CONNECTION, FINE_TUNING, WORKER, Status, StatusFile

MOST_ENTRIES = 500  # newest that are shown
MOST_REQUESTS = 100
MOST_MODELS = 200
PLACES = ("refined.safetensors", "runs/*/*/*.safetensors", "bases/*.safetensors")


@dataclass(frozen=True)
class Asking:
    """Something that was asked for, and where it stands."""

    request: Request
    standing: str

    @property
    def waits(self) -> bool:
        """Whether a person has to decide."""
        return self.standing == WAITS


@dataclass(frozen=True)
class ModelFile:
    """A model that lies here."""

    name: str
    bytes: int
    time: float


@dataclass
class Sums:
    """What left of one kind for one run."""

    count: int = 0
    bytes: int = 0
    last: float = 0.0
    epsilon: float = 0.0


@dataclass
class Left:
    """What left, as far as the journal was read.

    Attributes:
        sums: By run and kind.
        newest: The newest entries that hold more than the line's signs of life.
        signals: Number of the others.
        problem: Why the journal cannot be read any further.
    """

    sums: dict[tuple[str, str], Sums] = field(default_factory=dict)
    newest: deque[Entry] = field(default_factory=lambda: deque(maxlen=MOST_ENTRIES))
    signals: int = 0
    problem: str = ""

    def add(self, entry: Entry) -> None:
        """Count an entry."""
        if entry.kind in SIGNALS:
            self.signals += 1
            return
        sums = self.sums.setdefault((entry.run, entry.kind), Sums())
        sums.count, sums.bytes, sums.last = sums.count + 1, sums.bytes + entry.bytes, entry.time
        sums.epsilon = max(sums.epsilon, entry.epsilon or 0.0)
        self.newest.append(entry)

    def total(self) -> int:
        """Return the bytes of all that left."""
        return sum(each.bytes for each in self.sums.values())


class Gathering(Looker):
    """Looks at a hospital's state folder.

    Args:
        state: The folder.
    """

    def __init__(self, state: Path) -> None:
        super().__init__()
        self.state = state
        self.left = Left()
        self._journal, self._offset = Journal(state / FILE), 0
        self._sign: tuple[object, ...] = ()
        self._count = 0

    @property
    def version(self) -> str:
        """Return what changes with everything that is shown."""
        return str(self._count)

    def changed(self) -> None:
        """Note a change that is in no file."""
        with self.lock:
            self._count += 1

    def look(self) -> None:
        """Look once."""
        with self.lock:
            names = (FILE, WORKER, FINE_TUNING, CONNECTION, POLICY, ASKED, DECISIONS, SAYS)
            sign = tuple(mark_of(self.state / name) for name in names)
            if sign == self._sign:
                return
            before, self._sign = self._sign, sign
            self._count += 1
            if not before or before[0] != sign[0]:
                self._read_left()

    def _read_left(self) -> None:
        try:
            if self._offset > mark_of(self._journal.path)[1]:  # begun anew
                self.left, self._offset = Left(), 0
            for entry, end in self._journal.entries_from(self._offset):
                self._offset = end
                self.left.add(entry)
            self.left.problem = ""
        except PolyclinicError as error:
            self.left.problem = str(error)

    def statuses(self) -> Mapping[str, Status]:
        """Return what the client, its worker and fine-tuning say of themselves."""
        files = {"connection": CONNECTION, "worker": WORKER, "fine-tuning": FINE_TUNING}
        return {name: StatusFile(self.state / file).read() for name, file in files.items()}

    def asked(self) -> list[Asking]:
        """Return what was asked for, the newest first."""
        found = requests(self.state)[:MOST_REQUESTS]
        return [Asking(each, standing_of(self.state, each)) for each in found]

    def models(self) -> list[ModelFile]:
        """Return the models that lie here, the newest first."""
        found = []
        for place in PLACES:
            for path in self.state.glob(place):
                with suppress(OSError):
                    told = path.stat()
                    name = path.relative_to(self.state).as_posix()
                    found.append(ModelFile(name, told.st_size, told.st_mtime))
        return sorted(found, key=lambda each: each.time, reverse=True)[:MOST_MODELS]
