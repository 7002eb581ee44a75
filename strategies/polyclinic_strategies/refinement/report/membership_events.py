"""Each time that a hospital joined, changed or left in a refinement run.

What it got, how fast, and which hospitals had to send or receive for it. The coordinator counts the
bytes that messages hold. It asks hospitals for contributions now and then, and greets them when
they come online, whatever happens: these bytes are counted apart.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from polyclinic.federation.events import Event, Failed
from polyclinic.reporting.formats import plural
from polyclinic_strategies.merging.events import Contributed
from polyclinic_strategies.refinement.events import (
    JOIN,
    UPDATE,
    WITHDRAWAL,
    Delivered,
    Described,
    Moved,
    Recalculated,
    Refined,
    Traffic,
)

FAILED = "failed"
FAILURES = {"describe": "could not describe itself", "refined": "could not take its model"}


@dataclass(frozen=True)
class MembershipEvent:
    """One hospital that came (join), changed (update) or left (withdrawal), or that failed to.

    What is not known (yet) is None.

    Attributes:
        at: Seconds since the run began.
        what: The event in words, after the hospital's name.
        moved: Bytes that it moved.
        seconds: From the first question to the model's arrival.
        recalculated: Number of models that were computed anew.
        recalculated_s: Seconds that took.
        failed: Why it failed.
    """

    site: str
    why: str
    at: float
    what: str
    seconds: float | None = None
    moved: Moved | None = None
    recalculated: int | None = None
    recalculated_s: float | None = None
    failed: str = ""


def find_membership_events(events: Sequence[Event]) -> tuple[MembershipEvent, ...]:
    """Find all of them, in the order of time."""
    course = _Course(events[0].time if events else 0.0)
    for event in events:
        course.take(event)
    return tuple(course.found)


def find_models(events: Iterable[Event]) -> dict[str, Refined]:
    """Return every hospital's newest refined model."""
    return {event.site: event for event in events if isinstance(event, Refined) and event.site}


@dataclass
class _Course:
    """What is known while events are gone through."""

    begin: float
    subjects: dict[str, int] = field(default_factory=dict)
    contributions: dict[str, int] = field(default_factory=dict)
    cases: dict[str, int] = field(default_factory=dict)
    arrival: Recalculated | None = None  # the newest recalculation that an arrival caused
    found: list[MembershipEvent] = field(default_factory=list)

    def take(self, event: Event) -> None:
        """Take in one event; those of other kinds are left alone."""
        handle = _HANDLERS.get(type(event))
        if handle is not None:
            handle(self, event)

    def describe(self, event: Described) -> None:
        self.subjects[event.site] = event.subjects

    def contribute(self, event: Contributed) -> None:
        self.contributions[event.site] = self.contributions.get(event.site, 0) + 1
        self.cases[event.site] = event.num_examples or 0

    def recalculate(self, event: Recalculated) -> None:
        if event.why != WITHDRAWAL:
            self.arrival = event
            return
        for site in event.gone:
            self._add(event, site, WITHDRAWAL, "left", **_recalculation(event))

    def refine(self, event: Refined) -> None:
        if event.why == JOIN:
            images = _count(self.subjects.get(event.site), "image")
            what = f"joined with a description of {images}"
            self._add(event, event.site, JOIN, what, recalculated=1)
        elif event.why == UPDATE:
            cases = _count(self.cases.get(event.site), "training case")
            first = self.contributions.get(event.site, 0) <= 1
            how = "joined with" if first else "changed: sent"
            known = _recalculation(self.arrival) if self.arrival else {}
            self._add(event, event.site, UPDATE, f"{how} a contribution from {cases}", **known)
            self.arrival = None

    def deliver(self, event: Delivered) -> None:
        self._change(event.site, event.why, seconds=event.seconds)

    def count(self, event: Traffic) -> None:
        self._change(event.site, event.why, moved=event.sort())

    def fail(self, event: Failed) -> None:
        if event.phase in FAILURES:
            self._add(event, event.site, FAILED, FAILURES[event.phase], failed=event.reason)

    def _add(self, event: Event, site: str, why: str, what: str, **known: Any) -> None:
        self.found.append(MembershipEvent(site, why, event.time - self.begin, what, **known))

    def _change(self, site: str, why: str, **changes: Any) -> None:
        """Fill in the newest membership event that an event is about."""
        for place in reversed(range(len(self.found))):
            if (self.found[place].site, self.found[place].why) == (site, why):
                self.found[place] = replace(self.found[place], **changes)
                return


_HANDLERS: Mapping[type[Event], Callable[[_Course, Any], None]] = {
    Described: _Course.describe,
    Contributed: _Course.contribute,
    Recalculated: _Course.recalculate,
    Refined: _Course.refine,
    Delivered: _Course.deliver,
    Traffic: _Course.count,
    Failed: _Course.fail,
}


def _recalculation(event: Recalculated) -> dict[str, Any]:
    return {"recalculated": len(event.sites), "recalculated_s": event.seconds}


def _count(found: int | None, noun: str) -> str:
    return plural(found, noun) if found else f"some {noun}s"
