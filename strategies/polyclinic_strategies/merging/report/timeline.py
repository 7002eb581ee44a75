"""The arrivals of a merging arm: a row for each hospital, time from left to right.

Long idle times are cut out, and the cut is shown. Kinds of marks differ in shape as well as in
colour.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from polyclinic.reporting.axes import Axis, Frame, Tick, shorten
from polyclinic.reporting.formats import show_span
from polyclinic_strategies.merging.report.timeline_events import PublishedModel, Span, Story

WIDTH, ROW, LEFT, RIGHT, TOP, BOTTOM = 640, 30, 144, 16, 44, 44
INSET, OUTSET = 10, 14  # left and right of the first and the last moment
LONGEST_NAME = 17
CUT_S = 3600.0  # no shorter idle time is cut out
CUT_SHARE = 2 / 3  # an idle time is cut out if it is this much of what is left
CUT_WIDTH = 34
NUMBER_WIDTH = 11  # of a model's number: where there is no room, the number is left out
MINUTE, HOUR, DAY = 60, 3600, 86400
STEPS_S = (
    *(1, 2, 5, 10, 15, 30),
    *(MINUTE * minutes for minutes in (1, 2, 5, 10, 15, 30)),
    *(HOUR * hours for hours in (1, 2, 3, 6, 12)),
    *(DAY * days for days in (1, 2, 5, 7, 14)),
)
TICKS = 7
TICK_WIDTH = 52
MEANINGS = {
    "contribution": "contribution accepted",
    "duplicate": "sent again, counted once",
    "contribution_refused": "contribution refused",
    "withdrawn": "withdrawn",
}


@dataclass(frozen=True)
class TimelineRow:
    """One hospital.

    Attributes:
        title: The name, as much of it as there is room for.
        y: Of the row, in pixels.
        bars: When it was online, as pixel and width.
        marks: What it did, as pixel, kind and words.
    """

    name: str
    title: str
    y: float
    bars: tuple[tuple[float, float], ...]
    marks: tuple[tuple[float, str, str], ...]


@dataclass(frozen=True)
class Timeline:
    """What the template draws.

    Attributes:
        publications: Lines as pixel, words and label.
        restarts: Lines as pixel and words.
        cuts: What is left out, as first and last pixel and words.
        axis: Title of the axis.
        kinds: Kinds of marks that are drawn, with their meaning.
    """

    frame: Frame
    rows: tuple[TimelineRow, ...]
    publications: tuple[tuple[float, str, str], ...]
    restarts: tuple[Tick, ...]
    ticks: tuple[Tick, ...]
    cuts: tuple[tuple[float, float, str], ...]
    axis: str
    kinds: tuple[tuple[str, str], ...]


class TimeAxis:
    """From seconds to pixels, with some idle times cut out: an `Axis` for each piece between cuts.

    Args:
        moments: When something happened.
        length: Of the whole, in seconds.
    """

    def __init__(self, moments: Sequence[float], length: float) -> None:
        ordered = sorted({0.0, length, *(min(max(moment, 0.0), length) for moment in moments)})
        length = max(length, 1.0)
        self.cuts = find_cuts(ordered, length)
        edges = [0.0, *(edge for cut in self.cuts for edge in cut), length]
        spans = list(zip(edges[::2], edges[1::2], strict=True))
        self._kept = sum(end - begin for begin, end in spans)
        room = WIDTH - LEFT - RIGHT - INSET - OUTSET - CUT_WIDTH * len(self.cuts)
        self._pieces: list[Axis] = []
        start = float(LEFT + INSET)
        for begin, end in spans:
            stop = start + (end - begin) * room / self._kept
            self._pieces.append(Axis(begin, end, start, stop))
            start = stop + CUT_WIDTH

    def __call__(self, at: float) -> float:
        """Return the pixel of a moment; one within a cut is in its middle."""
        for piece in self._pieces:
            if at < piece.low:
                return round(piece.start - CUT_WIDTH / 2, 1)
            if at <= piece.high:
                return piece(at)
        return self._pieces[-1](at)

    def ticks(self) -> list[Tick]:
        """Place round times since the begin, and since the end of each cut after it."""
        step = next((step for step in STEPS_S if step * TICKS >= self._kept), STEPS_S[-1])
        found: list[Tick] = []
        for piece in self._pieces:
            for since in range(0, int(piece.high - piece.low) + 1, step):
                x = self(piece.low + since)
                if not found or x - found[-1][0] >= TICK_WIDTH:
                    after = f"+{show_span(since)}" if piece.low and since else ""
                    found.append((x, after or show_span(piece.low + since)))
        return found


def find_cuts(moments: Sequence[float], length: float) -> list[Span]:
    """Find the idle times to cut out: each dominates what the others leave."""
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
    """Place what happened on the canvas."""
    x = TimeAxis(_find_moments(story), story.length)
    height = TOP + ROW * len(story.presence) + BOTTOM
    return Timeline(
        frame=Frame(WIDTH, height, LEFT, WIDTH - RIGHT, TOP, height - BOTTOM),
        rows=tuple(
            _row(story, site, x, TOP + ROW * (number + 0.5))
            for number, site in enumerate(story.presence)
        ),
        publications=_draw_publications(story.publications, x),
        restarts=tuple(
            (x(at), f"coordinator started again, {show_span(at)}") for at in story.restarts
        ),
        ticks=tuple(x.ticks()),
        cuts=tuple((x(a), x(b), f"{show_span(b - a)} without events") for a, b in x.cuts),
        axis="time since the run began" if story.first else "time since merging began",
        kinds=tuple((kind, words) for kind, words in MEANINGS.items() if story.sites(kind)),
    )


def _find_moments(story: Story) -> list[float]:
    edges = [edge for spans in story.presence.values() for span in spans for edge in span]
    marks = [mark.at for mark in story.marks]
    return [*marks, *(model.at for model in story.publications), *story.restarts, *edges]


def _row(story: Story, site: str, x: TimeAxis, y: float) -> TimelineRow:
    bars = tuple((x(a), round(max(2.0, x(b) - x(a)), 1)) for a, b in story.presence[site])
    marks = tuple(
        (x(mark.at), mark.kind, f"{site}, {show_span(mark.at)}: {MEANINGS[mark.kind]}")
        for mark in story.marks
        if mark.kind in MEANINGS
        if mark.site == site
    )
    return TimelineRow(site, shorten(site, LONGEST_NAME), y, bars, marks)


def _draw_publications(
    models: Sequence[PublishedModel], x: TimeAxis
) -> tuple[tuple[float, str, str], ...]:
    """Place the published models; the newest ones have numbers, as far as there is room."""
    lines: list[tuple[float, str, str]] = []
    labelled = float("inf")  # pixel of the leftmost number
    for model in reversed(models):
        at, label = x(model.at), ""
        if labelled - at >= NUMBER_WIDTH:
            label, labelled = str(model.number), at
        lines.append((at, f"model {model.number} published, {show_span(model.at)}", label))
    return tuple(reversed(lines))
