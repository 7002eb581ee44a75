"""The arrivals of a merging arm as the coordinates of an SVG: a row for each hospital, time from left to right.

Long idle times are cut out, and the cut is shown. Kinds differ in shape as well as in colour.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from polyclinic.reporting.curves import shorten
from polyclinic_strategies.merging.report.timeline_events import Story

WIDTH, ROW, LEFT, RIGHT, TOP, BOTTOM = 640, 30, 144, 16, 44, 44
LONGEST_NAME = 17
CUT_S = 3600.0  # no shorter idle time is cut out
CUT_SHARE = 2 / 3  # an idle time is cut out if it is this much of what is left
CUT_WIDTH = 34
NUMBER_WIDTH = 11  # of a publication's number: where there is no room, the number is left out
STEPS_S = (
    1,
    2,
    5,
    10,
    15,
    30,
    60,
    120,
    300,
    600,
    900,
    1800,
    3600,
    7200,
    10800,
    21600,
    43200,
    86400,
    172800,
    432000,
    604800,
    1209600,
)
TICKS = 7
TICK_WIDTH = 52
WORDS = {
    "contribution": "contribution accepted",
    "duplicate": "sent again, counted once",
    "contribution_refused": "contribution refused",
    "withdrawn": "withdrawn",
}


@dataclass(frozen=True)
class Row:
    """One hospital: bars as x and width, marks as x, kind and words."""

    name: str
    title: str
    y: float
    bars: tuple[tuple[float, float], ...]
    marks: tuple[tuple[float, str, str], ...]


@dataclass(frozen=True)
class Timeline:
    """What the template draws; lines are x, words and label."""

    rows: tuple[Row, ...]
    publications: tuple[tuple[float, str, str], ...]
    restarts: tuple[tuple[float, str], ...]
    ticks: tuple[tuple[float, str], ...]
    cuts: tuple[tuple[float, float, str], ...]
    axis: str
    kinds: tuple[str, ...]
    height: int
    width: int = WIDTH
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP

    @property
    def bottom(self) -> int:
        """Where the rows end."""
        return self.height - BOTTOM


class Scale:
    """Seconds to pixels, with some idle times cut out.

    Args:
        moments: When something happened.
        length: Of the whole, in seconds.
    """

    def __init__(self, moments: Sequence[float], length: float) -> None:
        ordered = sorted({0.0, length, *(min(max(moment, 0.0), length) for moment in moments)})
        self.length = max(length, 1.0)
        self.cuts = find_cuts(ordered, self.length)
        kept = self.length - sum(b - a for a, b in self.cuts)
        self._per_s = (WIDTH - LEFT - RIGHT - 24 - CUT_WIDTH * len(self.cuts)) / kept

    def x(self, at: float) -> float:
        """Where a moment is; one within a cut is in its middle."""
        pixels, before = LEFT + 10.0, 0.0
        for a, b in self.cuts:
            if at <= a:
                break
            pixels += (a - before) * self._per_s + (CUT_WIDTH if at >= b else CUT_WIDTH / 2)
            before = max(b, min(at, b))
            if at < b:
                return round(pixels, 1)
        return round(pixels + (at - before) * self._per_s, 1)

    def ticks(self) -> list[tuple[float, str]]:
        """Round times since the begin, and since the end of each cut after it."""
        kept = self.length - sum(b - a for a, b in self.cuts)
        step = next((step for step in STEPS_S if step * TICKS >= kept), STEPS_S[-1])
        found: list[tuple[float, str]] = []
        edges = [0.0, *(edge for cut in self.cuts for edge in cut), self.length]
        for begin, end in zip(edges[::2], edges[1::2], strict=True):
            for since in range(0, int(end - begin) + 1, step):
                x = self.x(begin + since)
                if not found or x - found[-1][0] >= TICK_WIDTH:
                    found.append(
                        (x, f"+{show_span(since)}" if begin and since else show_span(begin + since))
                    )
        return found


def find_cuts(moments: Sequence[float], length: float) -> list[tuple[float, float]]:
    """The idle times to cut out: each dominates what the others leave."""
    left, cuts = length, []
    for a, b in sorted(pairwise(moments), key=lambda gap: gap[0] - gap[1]):
        idle = b - a
        if idle < CUT_S or idle < CUT_SHARE * left:
            break
        margin = min(idle / 4, max(60.0, (left - idle) * 0.05))
        cuts.append((a + margin, b - margin))
        left -= idle - 2 * margin
    return sorted(cuts)


def draw_timeline(story: Story) -> Timeline:
    """Place a story on the canvas."""
    moments = (
        [mark.at for mark in story.marks]
        + [p.at for p in story.publications]
        + list(story.restarts)
    )
    moments += [edge for spans in story.presence.values() for span in spans for edge in span]
    scale = Scale(moments, story.length)
    rows = []
    for number, (site, spans) in enumerate(story.presence.items()):
        bars = tuple((scale.x(a), round(max(2.0, scale.x(b) - scale.x(a)), 1)) for a, b in spans)
        marks = tuple(
            (scale.x(mark.at), mark.kind, f"{site}, {show_span(mark.at)}: {WORDS[mark.kind]}")
            for mark in story.marks
            if mark.site == site
        )
        rows.append(Row(site, shorten(site, LONGEST_NAME), TOP + ROW * (number + 0.5), bars, marks))
    lines: list[tuple[float, str, str]] = []
    for publication in reversed(story.publications):
        x = scale.x(publication.at)
        label = (
            str(publication.number)
            if not lines or min(each[0] for each in lines if each[2]) - x >= NUMBER_WIDTH
            else ""
        )
        lines.append(
            (x, f"model {publication.number} published, {show_span(publication.at)}", label)
        )
    return Timeline(
        rows=tuple(rows),
        publications=tuple(reversed(lines)),
        restarts=tuple(
            (scale.x(at), f"coordinator started again, {show_span(at)}") for at in story.restarts
        ),
        ticks=tuple(scale.ticks()),
        cuts=tuple(
            (scale.x(a), scale.x(b), f"{show_span(b - a)} without news") for a, b in scale.cuts
        ),
        axis="time since the run began" if story.first else "time since merging began",
        kinds=tuple(kind for kind in WORDS if any(mark.kind == kind for mark in story.marks)),
        height=TOP + ROW * len(rows) + BOTTOM,
    )


def show_span(seconds: float) -> str:
    """A time as a person says it, in its two largest units."""
    whole = round(seconds)
    days, hours, minutes, rest = whole // 86400, whole // 3600 % 24, whole // 60 % 60, whole % 60
    if days:
        return f"{days} d {hours} h" if hours else f"{days} d"
    if hours:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    if minutes:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{rest} s" if rest else "0"
