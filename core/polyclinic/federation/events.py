"""What happens in a run: typed events, written to events.jsonl and read back by the same models.

An event is discriminated by its `kind`. A method adds kinds of its own (`Method.events`). Names that came
from hospitals are cleaned of control characters here; whoever shows them escapes them.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError

from polyclinic.system.text import clean

Word = Annotated[str, BeforeValidator(clean)]  # short text, without control characters


def _finite(value: object) -> object:
    """A figure that does not exist is None: JSON has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


Figure = Annotated[float | None, BeforeValidator(_finite)]


def _known(values: Mapping[str, float | None]) -> Mapping[str, float]:
    return {key: value for key, value in values.items() if value is not None}


Figures = Annotated[Mapping[Word, Figure], AfterValidator(_known)]


class Event(BaseModel):
    """One line of events.jsonl.

    Attributes:
        kind: Discriminates the events; every class has one of its own.
        time: Seconds since 1970.
        arm: Strategy of the run that the event belongs to; empty before the first.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: str
    time: float = 0.0
    arm: Word = ""

    def to_line(self) -> dict[str, Any]:
        """Return what is written: plain values, without what was left to its default."""
        given = self.model_dump(mode="json", exclude_unset=True)
        return {"time": self.time, "arm": self.arm, "kind": self.kind, **given}


class SiteEvent(Event):
    """Something that one hospital did."""

    site: Word


class ArmStart(Event):
    """A strategy begins, or goes on after a restart; `expected` contributions end its first phase."""

    kind: Literal["arm_start"] = "arm_start"
    title: Word = ""
    rounds: int = 0
    offset: int = 0
    expected: int = 0


class ArmEnd(Event):
    """A strategy is at its end."""

    kind: Literal["arm_end"] = "arm_end"


class RoundEnd(Event):
    """A round is over and its weights are kept."""

    kind: Literal["round_end"] = "round_end"
    round: int


class Resumed(Event):
    """A coordinator that was started again goes on."""

    kind: Literal["resumed"] = "resumed"
    sites: tuple[Word, ...] = ()


class Joined(SiteEvent):
    """A hospital takes part; counts of cases by split."""

    kind: Literal["joined"] = "joined"
    modality: Word = ""
    mode: Word = "train"
    version: Word = ""
    task: Word = ""
    training: int | None = None
    validation: int | None = None
    test: int | None = None


class Returned(Joined):
    """A hospital is back."""

    kind: Literal["returned"] = "returned"  # type: ignore[assignment]


class Left(SiteEvent):
    """A hospital went offline."""

    kind: Literal["left"] = "left"


class Refused(SiteEvent):
    """A hospital may not take part."""

    kind: Literal["refused"] = "refused"
    reason: Word = ""


class Waiting(Event):
    """The coordinator waits for hospitals."""

    kind: Literal["waiting"] = "waiting"
    present: tuple[Word, ...] = ()
    wanted: int = 0


class ExchangeEvent(SiteEvent):
    """Part of a question to a hospital, in a phase (train, evaluate, evaluate.test, ...) of a round."""

    phase: Word
    round: int = 0


class Asked(ExchangeEvent):
    """A hospital was asked."""

    kind: Literal["asked"] = "asked"
    again: bool = False


class Answered(ExchangeEvent):
    """A hospital answered; a figure that does not exist is None."""

    kind: Literal["answered"] = "answered"
    num_examples: int | None = None
    loss: Figure = None
    score: Figure = None
    scores: Figures = {}
    seconds: Figure = None


class Failed(ExchangeEvent):
    """A hospital could not do what it was asked."""

    kind: Literal["failed"] = "failed"
    reason: Word = ""


class Missing(ExchangeEvent):
    """A hospital did not answer in time."""

    kind: Literal["missing"] = "missing"
    reason: Word = ""


class Progress(Event):
    """How far something is: at a hospital, or at the coordinator where `site` is empty."""

    kind: Literal["progress"] = "progress"
    site: Word = ""
    text: Word = ""


class Note(Event):
    """A sentence worth reading."""

    kind: Literal["note"] = "note"
    text: Word = ""


class Link(Event):
    """Something about the connection to the hospitals."""

    kind: Literal["superlink"] = "superlink"
    text: Word = ""


EVENTS: tuple[type[Event], ...] = (
    ArmStart, ArmEnd, RoundEnd, Resumed, Joined, Returned, Left, Refused, Waiting, Asked, Answered, Failed,
    Missing, Progress, Note, Link,
)  # fmt: skip


class EventLog:
    """Reads events of every kind that is installed here.

    Args:
        classes: Event classes; those of every run and of the installed methods if not given.
    """

    _installed: ClassVar[dict[str, type[Event]] | None] = None

    def __init__(self, classes: tuple[type[Event], ...] | None = None) -> None:
        self._classes = by_kind(installed_events() if classes is None else classes)

    def parse(self, line: str) -> Event | None:
        """Read one line; None where it is damaged, or of a method that is not installed."""
        try:
            values = json.loads(line)
            return self._classes[values["kind"]].model_validate(values)
        except (ValueError, TypeError, KeyError, ValidationError, RecursionError):
            return None

    def read(self, path: Path) -> tuple[Event, ...]:
        """Read the readable lines of a file, in the order of time."""
        text = path.read_bytes().decode("utf-8", "replace") if path.is_file() else ""
        found = [event for line in text.split("\n") if line.strip() and (event := self.parse(line))]
        return tuple(sorted(found, key=lambda event: event.time))


def by_kind(classes: tuple[type[Event], ...]) -> dict[str, type[Event]]:
    """Index event classes by their kind."""
    return {str(each.model_fields["kind"].default): each for each in classes}


def installed_events() -> tuple[type[Event], ...]:
    """Event classes of every run, and those of the installed methods."""
    from polyclinic.federation.method import methods

    own = [each for method in methods().values() for each in method.load("events") or ()]
    return (*EVENTS, *own)
