"""What happened in a merging arm: who was online, what arrived, what was published.

Hospitals contribute at times of their own, so that there are no rounds and the events tell the
course.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polyclinic.federation.events import ArmEnd, ArmStart, Event, Failed, Joined, Left, Resumed
from polyclinic.reporting.results import Arm, Results, unseen
from polyclinic.system.text import clean
from polyclinic_strategies.merging.events import (
    Contributed,
    ContributionRejected,
    Duplicate,
    Published,
    SetAside,
    Withdrawn,
)

NOT_TOLD = frozenset({"fraction_bits"})  # how a rule calculates, not what it does
ASKED = frozenset({"collect", "base"})  # questions about a contribution

Span = tuple[float, float]


@dataclass(frozen=True)
class Mark:
    """Something that one hospital did.

    Attributes:
        at: Seconds since the arm began.
        kind: Of the event.
        reason: Why it was refused or withdrawn.
        error: Type of the refusal.
    """

    site: str
    at: float
    kind: str
    reason: str = ""
    error: str = ""


@dataclass(frozen=True)
class PublishedModel:
    """A published model.

    Attributes:
        at: Seconds since the arm began.
        why: arrival, parameters or withdrawal.
        parameters: Of the rule, in words.
        sites: Hospitals whose contributions it is made of.
        cause: Hospitals whose arrival or departure made it.
    """

    number: int
    at: float
    why: str
    rule: str
    parameters: str
    sites: tuple[str, ...]
    cause: tuple[str, ...]


@dataclass(frozen=True)
class Story:
    """A merging arm from its begin to its end, in seconds since its begin.

    Attributes:
        first: Whether it begins with the run.
        presence: When each hospital was online.
        restarts: When the coordinator was started again.
    """

    first: bool
    length: float
    presence: Mapping[str, tuple[Span, ...]]
    marks: tuple[Mark, ...]
    publications: tuple[PublishedModel, ...]
    restarts: tuple[float, ...]

    def sites(self, kind: str) -> tuple[str, ...]:
        """List the hospitals with a mark of that kind, in the order of their first."""
        return tuple(dict.fromkeys(mark.site for mark in self.marks if mark.kind == kind))

    @property
    def most_present(self) -> int:
        """Largest number of hospitals that were online at once."""
        spans = [span for found in self.presence.values() for span in found]
        steps = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
        present = most = 0
        for _, change in steps:
            present += change
            most = max(most, present)
        return most

    @property
    def rule(self) -> str:
        """Rule and parameters of the newest published model; empty if there is none."""
        if not self.publications:
            return ""
        newest = self.publications[-1]
        return ", ".join(filter(None, (newest.rule, newest.parameters)))


def tell_story(results: Results, arm: Arm) -> Story | None:
    """Find out what happened in one merging arm; None if it has not begun."""
    events = results.events
    starts = [event.time for event in events if isinstance(event, ArmStart)]
    mine = [event.time for event in events if isinstance(event, ArmStart) and event.arm == arm.name]
    if not mine:
        return None
    first = starts[0] >= mine[0]
    begin = events[0].time if first else mine[0]
    ends = [event.time for event in events if isinstance(event, ArmEnd) and event.arm == arm.name]
    end = ends[-1] if ends else events[-1].time
    within = [event for event in events if begin <= event.time <= end]
    own = [event for event in within if event.arm == arm.name]
    marks = tuple(mark for event in own if (mark := _mark(event, begin)))
    return Story(
        first=first,
        length=end - begin,
        presence=_find_presence(results, [mark.site for mark in marks], begin, end),
        marks=marks,
        publications=_find_publications(own, begin),
        restarts=tuple(event.time - begin for event in within if isinstance(event, Resumed)),
    )


def describe_parameters(parameters: Mapping[str, Any]) -> str:
    """Write in words what a rule was called with."""
    told = {
        clean(name).replace("_", " "): value
        for name, value in parameters.items()
        if name not in NOT_TOLD and value is not None
    }
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {clean(value)}"
        for name, value in told.items()
    )


def _mark(event: Event, begin: float) -> Mark | None:
    match event:
        case ContributionRejected(site=site, reason=reason, error=error) if site:
            return Mark(site, event.time - begin, event.kind, reason, error)
        case Withdrawn(site=site, reason=reason) | SetAside(site=site, reason=reason) if site:
            return Mark(site, event.time - begin, event.kind, reason)
        case Failed(site=site, reason=reason, phase=phase) if site and phase in ASKED:
            return Mark(site, event.time - begin, event.kind, reason)
        case Contributed(site=site) | Duplicate(site=site) if site:
            return Mark(site, event.time - begin, event.kind)
    return None


def _find_presence(
    results: Results, marked: Sequence[str], begin: float, end: float
) -> dict[str, tuple[Span, ...]]:
    """Find when each hospital was online, also hospitals that run.json does not know."""
    moves = [
        event
        for event in results.events
        if isinstance(event, Joined | Left) and event.site and event.time <= end
    ]
    names = [hospital.name for hospital in results.hospitals]
    names += unseen([*marked, *(event.site for event in moves)], names)
    return {
        site: _find_spans((event for event in moves if event.site == site), begin, end)
        for site in names
    }


def _find_spans(moves: Iterable[Joined | Left], begin: float, end: float) -> tuple[Span, ...]:
    """Find the spans from each coming to the next going, as far as they lie within the arm."""
    spans: list[Span] = []
    since: float | None = None
    for event in moves:
        if isinstance(event, Left) and since is not None:
            spans.append((since, event.time))
            since = None
        elif isinstance(event, Joined) and since is None:
            since = event.time
    if since is not None:
        spans.append((since, end))
    return tuple((max(a, begin) - begin, b - begin) for a, b in spans if b > begin)


def _find_publications(own: Sequence[Event], begin: float) -> tuple[PublishedModel, ...]:
    """Find every published model once.

    A coordinator that was started again announces the newest model again.
    """
    found: dict[int, PublishedModel] = {}
    causes: list[str] = []
    for event in own:
        if isinstance(event, Contributed | Withdrawn):
            causes.append(event.site)
        elif isinstance(event, Published) and event.number not in found:
            found[event.number] = PublishedModel(
                number=event.number,
                at=event.time - begin,
                why=event.why or "arrival",
                rule=event.rule,
                parameters=describe_parameters(event.parameters),
                sites=event.sites,
                cause=tuple(dict.fromkeys(causes)),
            )
            causes = []
    return tuple(found[number] for number in sorted(found))
