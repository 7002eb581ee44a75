"""What happened in a merging arm, in the order of time: who was there, what arrived, what was published.

Hospitals come, contribute and go as they like, so the events are all that tells the story; there are no rounds.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polyclinic.reporting.measurements import clean
from polyclinic.reporting.results import Arm, Results

MARKS = ("contribution", "duplicate", "contribution_refused", "withdrawn")
NOT_TOLD = frozenset({"fraction_bits"})  # how a rule calculates, not what it does


@dataclass(frozen=True)
class Event:
    """A line of events.jsonl; `details` is all that it says."""

    time: float
    kind: str
    arm: str
    site: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Mark:
    """Something that one hospital did, `at` seconds after the story began."""

    site: str
    at: float
    kind: str
    reason: str = ""
    error: str = ""


@dataclass(frozen=True)
class Publication:
    """A published model, and whose arrival or departure made it."""

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

    `first` tells whether it begins with the run; `presence` are each hospital's times of coming and going.
    """

    first: bool
    length: float
    presence: Mapping[str, tuple[tuple[float, float], ...]]
    marks: tuple[Mark, ...]
    publications: tuple[Publication, ...]
    restarts: tuple[float, ...]

    def sites(self, kind: str) -> tuple[str, ...]:
        """The hospitals with a mark of that kind, in the order of their first."""
        return tuple(dict.fromkeys(mark.site for mark in self.marks if mark.kind == kind))

    @property
    def most_present(self) -> int:
        """How many hospitals were there at once, at most."""
        steps = sorted(
            (at, change)
            for spans in self.presence.values()
            for a, b in spans
            for at, change in ((a, 1), (b, -1))
        )
        present = most = 0
        for _, change in steps:
            present += change
            most = max(most, present)
        return most


def read_events(run_folder: Path) -> tuple[Event, ...]:
    """The readable lines of events.jsonl, in the order of time."""
    path = run_folder / "events.jsonl"
    lines = path.read_bytes().decode("utf-8", "replace").split("\n") if path.is_file() else []
    found = []
    for line in lines:
        try:
            found.append(_parse(json.loads(line)))
        except (KeyError, TypeError, ValueError, RecursionError):
            continue
    return tuple(sorted(found, key=lambda event: event.time))


def tell_story(events: Sequence[Event], results: Results, arm: Arm) -> Story | None:
    """The story of one merging arm; None if it has not begun."""
    starts = [event.time for event in events if event.kind == "arm_start" and event.arm == arm.name]
    if not starts:
        return None
    first = not any(event.kind == "arm_start" and event.time < starts[0] for event in events)
    begin = events[0].time if first else starts[0]
    ends = [event.time for event in events if event.kind == "arm_end" and event.arm == arm.name]
    end = ends[-1] if ends else events[-1].time
    within = [event for event in events if begin <= event.time <= end]
    mine = [event for event in within if event.arm == arm.name]
    marks = [
        Mark(
            e.site,
            e.time - begin,
            e.kind,
            clean(e.details.get("reason")),
            clean(e.details.get("error")),
        )
        for e in mine
        if e.kind in MARKS and e.site
    ]
    coming = [
        event
        for event in events
        if event.kind in ("joined", "returned", "left") and event.site and event.time <= end
    ]
    names = [hospital.name for hospital in results.hospitals]
    names += [
        site
        for site in dict.fromkeys([mark.site for mark in marks] + [e.site for e in coming])
        if site not in names
    ]
    return Story(
        first=first,
        length=end - begin,
        presence={
            site: _presence((event for event in coming if event.site == site), begin, end)
            for site in names
        },
        marks=tuple(marks),
        publications=_publications(mine, begin),
        restarts=tuple(event.time - begin for event in within if event.kind == "resumed"),
    )


def describe_parameters(parameters: Mapping[str, Any]) -> str:
    """What a rule was called with, in words."""
    told = {
        clean(name).replace("_", " "): value
        for name, value in parameters.items()
        if name not in NOT_TOLD and value is not None
    }
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {clean(value)}"
        for name, value in told.items()
    )


def _parse(line: Mapping[str, Any]) -> Event:
    time = float(line["time"])
    if not math.isfinite(time):
        raise ValueError("no time")
    return Event(time, str(line["kind"]), clean(line.get("arm")), clean(line.get("site")), line)


def _presence(coming: Iterable[Event], begin: float, end: float) -> tuple[tuple[float, float], ...]:
    """From each coming to the next going, as far as it lies within the story."""
    spans: list[tuple[float, float]] = []
    since: float | None = None
    for event in coming:
        if event.kind == "left" and since is not None:
            spans.append((since, event.time))
            since = None
        elif event.kind != "left" and since is None:
            since = event.time
    if since is not None:
        spans.append((since, end))
    return tuple((max(a, begin) - begin, b - begin) for a, b in spans if b > begin)


def _publications(mine: Sequence[Event], begin: float) -> tuple[Publication, ...]:
    """Every published model once: a coordinator that was started again tells of the newest again."""
    found: dict[int, Publication] = {}
    causes: list[str] = []
    for event in mine:
        if event.kind in ("contribution", "withdrawn"):
            causes.append(event.site)
        number = event.details.get("number")
        if event.kind != "published" or not isinstance(number, int) or number in found:
            continue
        details = event.details
        parameters, sites = details.get("parameters"), details.get("sites")
        found[number] = Publication(
            number=number,
            at=event.time - begin,
            why=clean(details.get("why") or "arrival"),
            rule=clean(details.get("rule")),
            parameters=describe_parameters(parameters if isinstance(parameters, Mapping) else {}),
            sites=tuple(map(clean, sites)) if isinstance(sites, list) else (),
            cause=tuple(dict.fromkeys(causes)),
        )
        causes = []
    return tuple(found[number] for number in sorted(found))
