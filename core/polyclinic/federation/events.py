"""Typed events of a run, written to events.jsonl and read back by the same models.

The field `kind` says which model an event has. A method adds kinds of its own (`Method.events`).
Control characters are removed from all text, which may come from hospitals; code that shows the
text as markup must escape it.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, FiniteFloat, ValidationError

from polyclinic.learning.measures.estimates import Estimate
from polyclinic.system.text import clean, parse_json

if TYPE_CHECKING:
    from polyclinic.federation.live_state import LiveState

Word = Annotated[str, BeforeValidator(clean)]  # short text, without control characters


def _finite(value: object) -> object:
    """Replace NaN and infinity, which JSON cannot hold, by None."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


Figure = Annotated[float | None, BeforeValidator(_finite)]


def _known(values: object) -> object:
    """Leave out figures that are missing, NaN or infinite."""
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
        kind: Name of the event's class in files; every class has its own.
        time: Seconds since 1970.
        arm: Name of the strategy that the event belongs to; empty before the first.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: str
    time: FiniteFloat = 0.0
    arm: Word = ""

    @property
    def contributors(self) -> tuple[str, ...]:
        """Hospitals of which this event says that their contribution counts."""
        return ()

    def tell(self, live: "LiveState") -> str | None:  # noqa: ARG002
        """Update the live state of the run.

        Returns:
            A line to print, or None.
        """
        return None

    def to_line(self) -> dict[str, Any]:
        """Return the event as plain JSON values; fields that were not set are left out."""
        given = self.model_dump(mode="json", exclude_unset=True)
        return {"time": self.time, "arm": self.arm, "kind": self.kind, **given}


class SiteEvent(Event):
    """An event that concerns one hospital."""

    site: Word


class ArmStart(Event):
    """A strategy begins, or goes on after a restart.

    Attributes:
        title: Name of the strategy in tables.
        rounds: Number of rounds.
        offset: Rounds that were complete before a restart.
        expected: Number of contributions that end the first phase; 0 if not known.
    """

    kind: Literal["arm_start"] = "arm_start"
    title: Word = ""
    rounds: int = 0
    offset: int = 0
    expected: int = 0

    def tell(self, live: "LiveState") -> str | None:
        """Begin the strategy."""
        return live.begin(self.arm, self.title, self.rounds, self.offset, self.expected)


class ArmEnd(Event):
    """A strategy has ended."""

    kind: Literal["arm_end"] = "arm_end"

    def tell(self, live: "LiveState") -> str | None:
        """Conclude the strategy."""
        return live.end_arm()


class RoundEnd(Event):
    """A round has ended, and its weights are saved."""

    kind: Literal["round_end"] = "round_end"
    round: int

    def tell(self, live: "LiveState") -> str | None:
        """Conclude the round."""
        return live.end_step(f"round {live.round} of {live.rounds}")


class Resumed(Event):
    """The coordinator was started again and goes on; `sites` contributed before."""

    kind: Literal["resumed"] = "resumed"
    sites: tuple[Word, ...] = ()

    def tell(self, live: "LiveState") -> str | None:
        """Count the hospitals that contributed before."""
        live.contributed |= set(self.sites)
        return f"the coordinator goes on where it stopped, {live.tally()}"


class Joined(SiteEvent):
    """A hospital takes part; `training`, `validation` and `test` are numbers of cases."""

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
    """A hospital came back."""

    kind: Literal["returned"] = "returned"  # type: ignore[assignment]

    def tell(self, live: "LiveState") -> str | None:
        """Show the hospital again."""
        live.set_doing(self.site, "joined").describes |= self.mode == "describe"
        return f"{self.site} is back"


class Left(SiteEvent):
    """A hospital went offline."""

    kind: Literal["left"] = "left"

    def tell(self, live: "LiveState") -> str | None:
        """Show that the hospital is offline."""
        live.set_doing(self.site, "offline")
        return f"{self.site} went offline"


class Refused(SiteEvent):
    """A hospital may not take part."""

    kind: Literal["refused"] = "refused"
    reason: Word = ""

    def tell(self, live: "LiveState") -> str | None:  # noqa: ARG002
        """Return the reason; a hospital that was refused gets no row in the table."""
        return f"{self.site} was refused: {self.reason}"


class Waiting(Event):
    """The coordinator waits for hospitals.

    Attributes:
        present: Hospitals that are online and ready.
        wanted: Number of hospitals that ends the wait at once.
        preparing: Hospitals that still prepare their cases, where these are waited for.
    """

    kind: Literal["waiting"] = "waiting"
    present: tuple[Word, ...] = ()
    wanted: int = 0
    preparing: tuple[Word, ...] = ()

    def tell(self, live: "LiveState") -> str | None:  # noqa: ARG002
        """Return how many hospitals are online."""
        here = f"waiting for hospitals: {len(self.present)} of {self.wanted} are here"
        busy = ", ".join(self.preparing)
        return f"{here}; still preparing their cases, and waited for: {busy}" if busy else here


class ExchangeEvent(SiteEvent):
    """An event about one question to a hospital.

    Attributes:
        phase: Type of the question: train, evaluate, evaluate.test or a method's own.
        round: Number of the round; 0 where there are no rounds.
    """

    phase: Word
    round: int = 0


class Asked(ExchangeEvent):
    """A hospital was asked."""

    kind: Literal["asked"] = "asked"
    again: bool = False

    def tell(self, live: "LiveState") -> str | None:
        """Show what the hospital does now."""
        live.round = self.round or live.round
        again = " again" if self.again else ""
        live.set_doing(self.site, f"{DOING.get(self.phase, self.phase)}{again}")
        return None


class Answered(ExchangeEvent):
    """A hospital answered; a figure that is missing or NaN is None.

    Attributes:
        num_examples: Number of cases behind the figures.
        loss: Mean loss.
        score: Mean score, 0 to 1 for Dice and balanced accuracy.
        scores: Score by class.
        seconds: Time that the hospital took.
        epsilon: What training for the run has told about one patient so far, if it is told.
        measures: Measures with support and intervals, by class and name.
        comparisons: Mean difference by case to each of other models, by their names.
    """

    kind: Literal["answered"] = "answered"
    num_examples: int | None = None
    loss: Figure = None
    score: Figure = None
    scores: Figures = {}
    seconds: Figure = None
    epsilon: Figure = None
    measures: Mapping[Word, Mapping[Word, Estimate]] = {}
    comparisons: Mapping[Word, Estimate] = {}

    def tell(self, live: "LiveState") -> str | None:
        """Show the figures, unless they belong to a model that the strategy is compared with."""
        live.round = self.round or live.round
        scored = not live.in_rounds and self.phase == "evaluate"
        row = live.set_doing(self.site, f"scored model {self.round}" if scored else "done")
        if self.arm in ("", live.arm):
            if self.phase == "train":
                row.loss = self.loss
            else:
                row.score = self.score
        return None


class Failed(ExchangeEvent):
    """A hospital could not do what it was asked."""

    kind: Literal["failed"] = "failed"
    reason: Word = ""

    def tell(self, live: "LiveState") -> str | None:
        """Show that the hospital failed, and return the reason."""
        live.set_doing(self.site, "failed")
        return f"{self.site} failed: {self.reason}"


class Missing(ExchangeEvent):
    """A hospital did not answer in time."""

    kind: Literal["missing"] = "missing"
    reason: Word = ""

    def tell(self, live: "LiveState") -> str | None:
        """Show that the hospital is missing, and return the reason."""
        live.set_doing(self.site, "missing")
        return f"{self.site} is missing: {self.reason}"


class Progress(Event):
    """Progress of some work at a hospital, or at the coordinator if `site` is empty."""

    kind: Literal["progress"] = "progress"
    site: Word = ""
    text: Word = ""

    def tell(self, live: "LiveState") -> str | None:
        """Show the progress in the table; no line is printed."""
        if self.site:
            live.set_doing(self.site, self.text)
        else:
            live.news = self.text
        return None


class Note(Event):
    """A sentence for the person who watches the run."""

    kind: Literal["note"] = "note"
    text: Word = ""

    def tell(self, live: "LiveState") -> str | None:  # noqa: ARG002
        """Return the sentence."""
        return self.text


class Link(Event):
    """A sentence about the connection to the hospitals."""

    kind: Literal["superlink"] = "superlink"
    text: Word = ""

    def tell(self, live: "LiveState") -> str | None:  # noqa: ARG002
        """Return the sentence."""
        return self.text


EVENTS: tuple[type[Event], ...] = (
    ArmStart, ArmEnd, RoundEnd, Resumed, Joined, Returned, Left, Refused, Waiting, Asked,
    Answered, Failed, Missing, Progress, Note, Link,
)  # fmt: skip


class EventLog:
    """Reader of events, of every kind that is installed.

    Args:
        classes: Event classes; default: those of every run and of the installed methods.
    """

    def __init__(self, classes: tuple[type[Event], ...] | None = None) -> None:
        self._classes = by_kind(installed_events() if classes is None else classes)

    def parse(self, line: str) -> Event | None:
        """Read one line; return None if it is damaged, or of a method that is not installed."""
        try:
            values = parse_json(line)
            found = self._classes[values["kind"]].model_validate(values)
            return found if "time" in found.model_fields_set else None
        except (ValueError, TypeError, KeyError, ValidationError):
            return None

    def read(self, path: Path) -> tuple[Event, ...]:
        """Return the events of a file in the order of time, without the lines `parse` refuses."""
        text = path.read_bytes().decode("utf-8", "replace") if path.is_file() else ""
        found = [event for line in text.split("\n") if line.strip() and (event := self.parse(line))]
        return tuple(sorted(found, key=lambda event: event.time))


def by_kind(classes: tuple[type[Event], ...]) -> dict[str, type[Event]]:
    """Index event classes by their kind."""
    return {str(each.model_fields["kind"].default): each for each in classes}


def installed_events() -> tuple[type[Event], ...]:
    """Return the event classes of every run, and those of the installed methods."""
    from polyclinic.federation.method import methods

    own = [each for method in methods().values() for each in method.load("events") or ()]
    return (*EVENTS, *own)
