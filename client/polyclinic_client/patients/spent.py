"""What training has told about this hospital's patients so far, over all runs: STATE/spent.json.

    {"run": "brain-2026", "strategy": "fedavg", "round": 3, "share": 0.1, ...}

An entry is on the disk before the result of its training leaves, and none is ever removed. All
entries count as being about the same patients.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter

from polyclinic.errors import ConfigError
from polyclinic.learning.private.accounting import MOST_NOISE, MOST_STEPS, Spending, epsilon
from polyclinic.system.durable import DIGEST, make_folder, write_durably
from polyclinic.system.text import parse_json
from polyclinic_client.policy.policy import read_policy

FILE, LOCK = "spent.json", "spent.lock"
LARGEST_BYTES = 64 * 2**20
Words = Annotated[str, Field(max_length=200)]


class SpentDamaged(ConfigError):
    """What was spent cannot be read, so nothing is trained with a budget."""

    shareable = False  # the text names a file

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(
            f"{path} cannot be read ({problem}), so how much training has told about patients is "
            "not known, and nothing is trained privately. Restore it from a backup; or show it to "
            "the data-protection officer and move it away to begin anew."
        )


class Entry(BaseModel):
    """One round of training.

    Attributes:
        time: Seconds since 1970.
        run: Name of the run.
        strategy: Name of the run's strategy.
        round: Number of the round.
        question: Digest of all that the answer depends on: the same one again gets the same bytes.
        patients: Number of patients that were trained on.
        delta: For which epsilon counts.
        share: Chance of each patient to be drawn in a step.
        noise: Noise multiplier.
        steps: Number of steps.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    time: FiniteFloat
    run: Words
    strategy: Words
    round: Annotated[int, Field(ge=0, le=1_000_000)]
    question: Annotated[str, Field(pattern=f"^{DIGEST.pattern}$")]
    patients: Annotated[int, Field(ge=1, le=10**9)]
    delta: Annotated[float, Field(gt=0, lt=1)]
    share: Annotated[float, Field(gt=0, le=1)]
    noise: Annotated[float, Field(gt=0, le=MOST_NOISE)]
    steps: Annotated[int, Field(ge=1, le=MOST_STEPS)]

    @property
    def spent(self) -> Spending:
        """The steps, as accounting takes them."""
        return Spending(self.share, self.noise, self.steps)


_ENTRIES = TypeAdapter(tuple[Entry, ...])


@dataclass(frozen=True)
class Told:
    """What trainings have told about one patient, at most.

    Attributes:
        epsilon: 0 where there were none.
        delta: The smallest of the entries'.
        runs: Number of runs.
        rounds: Number of rounds.
    """

    epsilon: float
    delta: float
    runs: int
    rounds: int


class Spent:
    """One hospital's record.

    Args:
        state: The hospital's state folder.
    """

    def __init__(self, state: Path) -> None:
        self.path, self._lock = state / FILE, state / LOCK

    def entries(self) -> tuple[Entry, ...]:
        """Read all entries, oldest first.

        Raises:
            SpentDamaged: They cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                content = file.read(LARGEST_BYTES + 1)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise SpentDamaged(self.path, error.strerror or str(error)) from error
        if len(content) > LARGEST_BYTES:
            raise SpentDamaged(self.path, f"it is longer than {LARGEST_BYTES} bytes")
        try:
            return _ENTRIES.validate_python(parse_json(content))
        except ValueError as error:
            raise SpentDamaged(self.path, "it holds something else") from error

    def note(self, entry: Entry) -> None:
        """Write an entry; it is on the disk when this returns.

        Raises:
            SpentDamaged: The earlier entries cannot be read.
            DiskFull: No room: what was trained must not leave.
        """
        with self._locked():
            lines = [each.model_dump_json() for each in (*self.entries(), entry)]
            write_durably(self.path, "[" + ",\n ".join(lines) + "]\n")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        make_folder(self.path.parent)
        number = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(number, fcntl.LOCK_EX)
            yield
        finally:
            os.close(number)


def told_by(entries: Sequence[Entry]) -> Told:
    """Sum up what entries tell about one patient."""
    delta = min((each.delta for each in entries), default=1e-5)
    found = epsilon((each.spent for each in entries), delta)
    return Told(found, delta, len({each.run for each in entries}), len(entries))


def describe_spent(state: Path, run: str | None = None) -> str:
    """Say what training has told about one patient so far, and what may be told.

    Args:
        state: The hospital's state folder.
        run: Only what was told for this run.

    Raises:
        SpentDamaged, PolicyDamaged: It is not known.
    """
    entries = [each for each in Spent(state).entries() if run in (None, each.run)]
    told, policy = told_by(entries), read_policy(state)
    budget = policy.epsilon_budget if run is None else policy.epsilon
    of = "without a budget" if budget is None else f"of a budget of {budget:g}"
    if not told.rounds:
        return f"epsilon 0 {of}"
    return (
        f"epsilon {told.epsilon:.4g} {of} (delta {told.delta:.3g}), in {told.rounds} rounds of "
        f"{told.runs} runs"
    )
