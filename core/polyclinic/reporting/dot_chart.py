"""Scores of every hospital under a few models as the coordinates of an SVG: a row for each hospital, a mark for each model.

Models differ in shape as well as in colour.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from polyclinic.reporting.curves import shorten, ticks

WIDTH, LEFT, RIGHT, TOP, BOTTOM, ROW, HEADING = 480, 132, 20, 8, 40, 28, 26
LONGEST_NAME = 17


@dataclass(frozen=True)
class Dots:
    """One hospital: marks as x, shape and words, and the line from its lowest to its highest."""

    name: str
    title: str
    y: float
    marks: tuple[tuple[float, str, str], ...]


@dataclass(frozen=True)
class DotChart:
    """What the template draws; headings are y and text, the key is shape and title."""

    rows: tuple[Dots, ...]
    headings: tuple[tuple[float, str], ...]
    x_ticks: tuple[tuple[float, str], ...]
    key: tuple[tuple[str, str], ...]
    height: int
    width: int = WIDTH
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP

    @property
    def bottom(self) -> int:
        """Where the rows end."""
        return self.height - BOTTOM


def draw_dots(
    groups: Sequence[tuple[str, Sequence[tuple[str, Sequence[float | None]]]]],
    models: Sequence[tuple[str, str]],
) -> DotChart | None:
    """Place scores on the canvas; None when there are none.

    Args:
        groups: Heading, and hospitals with a score for each model; hospitals without any are left out.
        models: Shape (square, diamond or circle) and title, in the order of the scores.
    """
    known = [
        score for _, rows in groups for _, scores in rows for score in scores if score is not None
    ]
    if not known:
        return None
    marks = ticks(min(known), max(known))

    def x(score: float) -> float:
        return round(LEFT + (score - marks[0]) / (marks[-1] - marks[0]) * (WIDTH - LEFT - RIGHT), 1)

    y: float = TOP
    headings, drawn = [], []
    for heading, hospitals in groups:
        rows = [
            (site, scores)
            for site, scores in hospitals
            if any(score is not None for score in scores)
        ]
        if not rows:
            continue
        headings.append((y + HEADING - 9, heading))
        y += HEADING
        for site, scores in rows:
            found = [
                (x(score), shape, f"{site}, {title}: {score:.3f}")
                for score, (shape, title) in zip(scores, models, strict=True)
                if score is not None
            ]
            drawn.append(Dots(site, shorten(site, LONGEST_NAME), y + ROW / 2, tuple(found)))
            y += ROW
    every = 1 if all(b - a >= 40 for a, b in pairwise(map(x, marks))) else 2
    return DotChart(
        rows=tuple(drawn),
        headings=tuple(headings),
        x_ticks=tuple((x(value), f"{value:.4g}") for value in marks[::every]),
        key=tuple(models),
        height=round(y + BOTTOM),
    )
