"""What happens in a run: typed events, written to events.jsonl and read back by the same models.

An event is discriminated by its `kind`. A method adds kinds of its own (`Method.events`). Names that came
from hospitals are cleaned of control characters here; whoever shows them escapes them.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, FiniteFloat, ValidationError

from polyclinic.system.text import clean

if TYPE_CHECKING:
    from polyclinic.federation.live_state import LiveState

Word = Annotated[str, BeforeValidator(clean)]  # short text, without control characters


def _finite(value: object) -> object:
    """A figure that does not exist is None: JSON has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


Figure = Annotated[float | None, BeforeValidator(_finite)]


def _known(values: object) -> object:
    """Leave out figures that do not exist."""
    if not isinstance(values, Mapping):
        return values
    return {key: value for key, value in values.items() if _finite(value) is not None}


DOING = {"train": "training", "evaluate": "validating", "evaluate.test": "testing"}
Figures = Annotated[Mapping[Word, float], BeforeValidator(_known)]


class Event(BaseModel):
    """One line of events.jsonl.

    Example:
        ```python
        # an event that a method adds
        class Shuffled(polyclinic.Event):
            kind: Literal["shuffled"] = "shuffled"
            swaps: int = 0
        ```

    Attributes:
        kind: Discriminates the events; every class has one of its own.
        time: Seconds since 1970.
        arm: Strategy of the run that the event belongs to; empty before the first.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: str
    time: FiniteFloat = 0.0
    arm: Word = ""

    def tell(self, live: "LiveState") -> str | None:  # noqa: ARG002
        """Change what is known of the run; return a line worth printing, if it is one."""
        return None

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

    def tell(self, live: "LiveState") -> str | None:
        """Begin the strategy."""
        return live.begin(self.arm, self.title, self.rounds, self.offset, self.expected)


class ArmEnd(Event):
    """A strategy is at its end."""

    kind: Literal["arm_end"] = "arm_end"

    def tell(self, live: "LiveState") -> str | None:
        """Conclude the strategy."""
        return live.end_arm()


class RoundEnd(Event):
    """A round is over and its weights are kept."""

    kind: Literal["round_end"] = "round_end"
    round: int

    def tell(self, live: "LiveState") -> str | None:
        """Conclude the round."""
        return live.end_step(f"round {live.round} of {live.rounds}")


class Resumed(Event):
    """A coordinator that was started again goes on."""

    kind: Literal["resumed"] = "resumed"
    sites: tuple[Word, ...] = ()

    def tell(self, live: "LiveState") -> str | None:
        """Count who has contributed before."""
        live.contributed |= set(self.sites)
        return f"the coordinator goes on where it stopped, {live.tally()}"


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

    def tell(self, live: "LiveState") -> str | None:
        """Show the hospital."""
        row = live.set_doing(self.site, "joined")
        row.describes |= self.mode == "describe"
        training = "?" if self.training is None else self.training
        cases = "with a description alone" if row.describes else f"{training} training cases"
        return f"{self.site} joined ({self.modality}, {cases})"


class Returned(Joined):
    """A hospital is back."""

    kind: Literal["returned"] = "returned"  # type: ignore[assignment]

    def tell(self, live: "LiveState") -> str | None:
        """Show the hospital again."""
        live.set_doing(self.site, "joined").describes |= self.mode == "describe"
        return f"{self.site} is back"


class Left(SiteEvent):
    """A hospital went offline."""

    kind: Literal["left"] = "left"

    def tell(self, live: "LiveState") -> str | None:
        """Show that it is away."""
        live.set_doing(self.site, "offline")
        return f"{self.site} went offline"


class Refused(SiteEvent):
    """A hospital may not take part."""

    kind: Literal["refused"] = "refused"
    reason: Word = ""

    def tell(self, live: "LiveState") -> str | None:  # noqa: ARG002
        """Tell why; it gets no row."""
        return f"{self.site} was refused: {self.reason}"


class Waiting(Event):
    """The coordinator waits for hospitals."""

    kind: Literal["waiting"] = "waiting"
    present: tuple[Word, ...] = ()
    wanted: int = 0

    def tell(self, live: "LiveState") -> str | None:  # noqa: ARG002
        """Tell how many are here."""
        return f"waiting for hospitals: {len(self.present)} of {self.wanted} are here"


class ExchangeEvent(SiteEvent):
    """Part of a question to a hospital, in a phase (train, evaluate, evaluate.test, ...) of a round."""

    phase: Word
    round: int = 0


class Asked(ExchangeEvent):
    """A hospital was asked."""

    kind: Literal["asked"] = "asked"
    again: bool = False

    def tell(self, live: "LiveState") -> str | None:
        """Show what it does now."""
        live.round = self.round or live.round
        again = " again" if self.again else ""
        live.set_doing(self.site, f"{DOING.get(self.phase, self.phase)}{again}")
        return None


class Answered(ExchangeEvent):
    """A hospital answered; a figure that does not exist is None."""

    kind: Literal["answered"] = "answered"
    num_examples: int | None = None
    loss: Figure = None
    score: Figure = None
    scores: Figures = {}
    seconds: Figure = None

    def tell(self, live: "LiveState") -> str | None:
        """Show its figures, unless they are of a model that the strategy is compared with."""
        live.round = self.round or live.round
        scored = not live.in_rounds and self.phase == "evaluate"
        row = live.set_doing(self.site, f"scored model {self.round}" if scored else "done")
        if self.arm in ("", live.arm):
            if self.phase == "train":
                row.loss = self.loss
            else:
                row.score = self.score
        return None


FIGURES = ("num_examples", "loss", "score", "scores", "seconds")


def answer_of(figures: Mapping[str, Any], phase: str, round: int, site: str) -> Answered:
    """Make the event of a hospital's answer; of what it sent only figures are taken.

    Raises:
        pydantic.ValidationError: A figure is not a number.
    """
    known = {name: figures[name] for name in FIGURES if name in figures}
    return Answered(phase=phase, round=round, site=site, **known)


class Failed(ExchangeEvent):
    """A hospital could not do what it was asked."""

    kind: Literal["failed"] = "failed"
    reason: Word = ""

    def tell(self, live: "LiveState") -> str | None:
        """Show that it failed."""
        live.set_doing(self.site, "failed")
        return f"{self.site} failed: {self.reason}"


class Missing(ExchangeEvent):
    """A hospital did not answer in time."""

    kind: Literal["missing"] = "missing"
    reason: Word = ""

    def tell(self, live: "LiveState") -> str | None:
        """Show that it is missing."""
        live.set_doing(self.site, "missing")
        return f"{self.site} is missing: {self.reason}"


class Progress(Event):
    """How far something is: at a hospital, or at the coordinator where `site` is empty."""

    kind: Literal["progress"] = "progress"
    site: Word = ""
    text: Word = ""

    def tell(self, live: "LiveState") -> str | None:
        """Show how far it is; a coordinator's progress is the table's news, not a line."""
        if self.site:
            live.set_doing(self.site, self.text)
        else:
            live.news = self.text
        return None


class Note(Event):
    """A sentence worth reading."""

    kind: Literal["note"] = "note"
    text: Word = ""

    def tell(self, live: "LiveState") -> str | None:  # noqa: ARG002
        """Tell it."""
        return self.text


class Link(Event):
    """Something about the connection to the hospitals."""

    kind: Literal["superlink"] = "superlink"
    text: Word = ""

    def tell(self, live: "LiveState") -> str | None:  # noqa: ARG002
        """Tell it."""
        return self.text


EVENTS: tuple[type[Event], ...] = (
    ArmStart, ArmEnd, RoundEnd, Resumed, Joined, Returned, Left, Refused, Waiting, Asked, Answered, Failed,
    Missing, Progress, Note, Link,
)  # fmt: skip


class EventLog:
    """Reads events of every kind that is installed here.

    Args:
        classes: Event classes; those of every run and of the installed methods if not given.
    """

    def __init__(self, classes: tuple[type[Event], ...] | None = None) -> None:
        self._classes = by_kind(installed_events() if classes is None else classes)

    def parse(self, line: str) -> Event | None:
        """Read one line; None where it is damaged, or of a method that is not installed."""
        try:
            values = json.loads(line)
            found = self._classes[values["kind"]].model_validate(values)
            return found if "time" in found.model_fields_set else None
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
