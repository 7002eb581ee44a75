"""Each time that a hospital came, changed or left in a refinement run: what it got, how fast, and who had to send or receive for it.

The counts of bytes are the coordinator's, of what messages hold. That hospitals are asked for news now and then, and greeted
when they come online, goes on whatever happens: it is counted apart.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from polyclinic.reporting.measurements import clean, count, number
from polyclinic_strategies.merging.report.timeline_events import Event
from polyclinic_strategies.refinement.report.record import read_shares

NEWS, GREETING = "query.collect", "query.hello"
UPDATE, WITHDRAWAL = "update", "withdrawal"


@dataclass(frozen=True)
class Traffic:
    """Bytes of one occasion, both ways together: its own hospital's, those of all others that moved any, and of what goes on anyway."""

    own: int
    others: Mapping[str, int]
    regular: int


@dataclass(frozen=True)
class Occasion:
    """One hospital that came (join), changed (update) or left (withdrawal); what is not known (yet) is None.

    `at` is in seconds since the run began, `seconds` from the first question to the model's arrival.
    """

    site: str
    why: str
    at: float
    what: str
    seconds: float | None = None
    traffic: Traffic | None = None
    recalculated: int | None = None
    recalculated_s: float | None = None
    failed: str = ""


@dataclass(frozen=True)
class Model:
    """What a hospital's newest refined model is made of; `distance` is that to the nearest hospital when it was made."""

    site: str
    why: str
    shares: Mapping[str, float]
    nearest: str = ""
    distance: float | None = None
    fallback: str = ""


@dataclass
class _Course:
    """What is known while events are gone through."""

    begin: float
    subjects: dict[str, int] = field(default_factory=dict)
    contributions: dict[str, int] = field(default_factory=dict)
    cases: dict[str, int] = field(default_factory=dict)
    arrival: Event | None = None  # the newest recalculation that an arrival caused
    found: list[Occasion] = field(default_factory=list)

    def change(self, event: Event, **changes: Any) -> None:
        """Fill in the newest occasion that an event is about."""
        why = clean(event.details.get("why"))
        for place in reversed(range(len(self.found))):
            if self.found[place].site == event.site and self.found[place].why == why:
                self.found[place] = replace(self.found[place], **changes)
                return


def find_occasions(events: Sequence[Event]) -> tuple[Occasion, ...]:
    """All of them, in the order of time."""
    course = _Course(events[0].time if events else 0.0)
    for event in events:
        _take(course, event)
    return tuple(course.found)


def find_models(events: Iterable[Event]) -> dict[str, Model]:
    """Every hospital's newest refined model."""
    return {
        event.site: read_model(event) for event in events if event.kind == "refined" and event.site
    }


def read_model(event: Event) -> Model:
    """What an event says of a refined model."""
    details = event.details
    words = [clean(details.get(key)) for key in ("nearest", "fallback")]
    return Model(
        event.site,
        clean(details.get("why")),
        read_shares(details.get("coefficients")),
        words[0],
        number(details.get("distance")),
        words[1],
    )


def find_moved(site: str, why: str, found: object) -> Traffic:
    """Bytes by hospital and type of message, sorted out.

    A hospital that changed handed its contribution over when it was asked for news: there this is its own traffic.
    """
    own = regular = 0
    others: dict[str, int] = {}
    for name, kinds in (found if isinstance(found, Mapping) else {}).items():
        for kind, raw in (kinds if isinstance(kinds, Mapping) else {}).items():
            moved = count(raw) or 0
            mine = clean(name) == site
            if (kind == NEWS and not (mine and why == UPDATE)) or (kind == GREETING and not mine):
                regular += moved
            elif mine:
                own += moved
            elif moved:
                others[clean(name)] = others.get(clean(name), 0) + moved
    return Traffic(own, others, regular)


def list_sites(found: object) -> list[str]:
    """Names from an event."""
    return [clean(site) for site in found] if isinstance(found, list) else []


def _take(course: _Course, event: Event) -> None:
    details, at = event.details, event.time - course.begin
    why = clean(details.get("why"))
    if event.kind == "described":
        course.subjects[event.site] = count(details.get("subjects")) or 0
    elif event.kind == "contribution":
        course.contributions[event.site] = course.contributions.get(event.site, 0) + 1
        course.cases[event.site] = count(details.get("num_examples")) or 0
    elif event.kind == "recalculated" and why == WITHDRAWAL:
        known = _recalculation(event)
        course.found += [
            Occasion(site, why, at, "left", **known) for site in list_sites(details.get("gone"))
        ]
    elif event.kind == "recalculated":
        course.arrival = event
    elif event.kind == "refined" and why == "join":
        what = (
            f"joined with a description of {_count_words(course.subjects.get(event.site), 'image')}"
        )
        course.found.append(Occasion(event.site, why, at, what, recalculated=1))
    elif event.kind == "refined" and why == UPDATE:
        first = course.contributions.get(event.site, 0) <= 1
        what = f"{'joined with' if first else 'handed in'} a contribution from {_count_words(course.cases.get(event.site), 'training case')}"
        known = _recalculation(course.arrival) if course.arrival else {}
        course.found.append(
            Occasion(event.site, why, at, what if first else f"changed: {what}", **known)
        )
        course.arrival = None
    elif event.kind == "delivered":
        course.change(event, seconds=number(details.get("seconds")))
    elif event.kind == "traffic":
        course.change(event, traffic=find_moved(event.site, why, details.get("bytes")))
    elif event.kind == "failed" and details.get("phase") in ("describe", "refined"):
        what = (
            "could not describe itself"
            if details["phase"] == "describe"
            else "could not take its model"
        )
        course.found.append(
            Occasion(event.site, "failed", at, what, failed=clean(details.get("reason")))
        )


def _recalculation(event: Event) -> dict[str, Any]:
    return {
        "recalculated": len(list_sites(event.details.get("sites"))),
        "recalculated_s": number(event.details.get("seconds")),
    }


def _count_words(found: int | None, noun: str) -> str:
    return f"{found or 'some'} {noun}{'' if found == 1 else 's'}"
