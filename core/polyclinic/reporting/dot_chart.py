"""Scores of every hospital under a few models: a row for each hospital, a mark for each model.

Models differ in shape as well as in colour. The macro `dot_chart` of marks.html.j2 draws it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from polyclinic.reporting.axes import Axis, Frame, Tick, enclose, shorten

WIDTH, LEFT, RIGHT, TOP, BOTTOM, ROW, HEADING = 480, 132, 20, 8, 40, 28, 26
LONGEST_NAME = 17
TICK_WIDTH = 40

Score = float | None
Scores = tuple[str, Sequence[Score]]  # of one hospital, under each model


@dataclass(frozen=True)
class HospitalDots:
    """One hospital.

    Attributes:
        title: The name, as much of it as there is room for.
        y: Of the row, in pixels.
        marks: Pixel, shape and words of each score.
    """

    name: str
    title: str
    y: float
    marks: tuple[tuple[float, str, str], ...]


@dataclass(frozen=True)
class DotChart:
    """What the template draws.

    Attributes:
        headings: Of the groups, as pixel and text.
        key: Shape and title of every model.
    """

    frame: Frame
    rows: tuple[HospitalDots, ...]
    headings: tuple[Tick, ...]
    x_ticks: tuple[Tick, ...]
    key: tuple[tuple[str, str], ...]


def draw_dots(
    groups: Sequence[tuple[str, Sequence[Scores]]], models: Sequence[tuple[str, str]]
) -> DotChart | None:
    """Place scores on the canvas; None when there are none.

    Args:
        groups: Heading, and hospitals with a score for each model. Hospitals without any are left
            out.
        models: Shape (square, diamond or circle) and title, in the order of the scores.
    """
    known = [
        (heading, [(site, scores) for site, scores in hospitals if set(scores) - {None}])
        for heading, hospitals in groups
    ]
    values = [score for _, rows in known for _, row in rows for score in row if score is not None]
    if not values:
        return None
    steps = enclose(values)
    x = Axis(steps[0], steps[-1], LEFT, WIDTH - RIGHT)
    headings: list[Tick] = []
    drawn: list[HospitalDots] = []
    y: float = TOP
    for heading, hospitals in known:
        if hospitals:
            headings.append((y + HEADING - 9, heading))
            y += HEADING
        for site, scores in hospitals:
            drawn.append(_row(site, scores, models, x, y + ROW / 2))
            y += ROW
    every = 1 if all(b - a >= TICK_WIDTH for a, b in pairwise(map(x, steps))) else 2
    height = round(y + BOTTOM)
    return DotChart(
        frame=Frame(WIDTH, height, LEFT, WIDTH - RIGHT, TOP, height - BOTTOM),
        rows=tuple(drawn),
        headings=tuple(headings),
        x_ticks=x.ticks(steps[::every]),
        key=tuple(models),
    )


def _row(
    site: str, scores: Sequence[Score], models: Sequence[tuple[str, str]], x: Axis, y: float
) -> HospitalDots:
    marks = tuple(
        (x(score), shape, f"{site}, {title}: {score:.3f}")
        for score, (shape, title) in zip(scores, models, strict=True)
        if score is not None
    )
    return HospitalDots(site, shorten(site, LONGEST_NAME), y, marks)
