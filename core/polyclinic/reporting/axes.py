"""Axes of charts: from values to pixels, round ticks, and titles that do not cover each other."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

LINE_HEIGHT = 14  # pixels between two titles
LONGEST_TITLE = 15  # letters beside a plot

Tick = tuple[float, str]  # pixel and text


@dataclass(frozen=True)
class Axis:
    """A straight map from values to pixels.

    Attributes:
        low, high: Values at its ends.
        start, end: Pixels of its ends.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the pixel of a value; the middle where the axis has one value only."""
        if self.high <= self.low:
            return round((self.start + self.end) / 2, 1)
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, values: Iterable[float]) -> tuple[Tick, ...]:
        """Place values as ticks."""
        return tuple(
            (self(value), str(value) if isinstance(value, int) else f"{value:.4g}")
            for value in values
        )


@dataclass(frozen=True)
class Frame:
    """Size of a drawing and of the margins around its plot, in pixels.

    Attributes:
        width, height: Of the drawing.
        left, right, top, bottom: Where the plot ends on each side, from the left or the top.
        inset: Space within the plot, left and right of the first and the last value.
    """

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    inset: int = 0

    def x(self, low: float, high: float) -> Axis:
        """Return the axis from left to right."""
        return Axis(low, high, self.left + self.inset, self.right - self.inset)

    def y(self, low: float, high: float) -> Axis:
        """Return the axis upwards."""
        return Axis(low, high, self.bottom, self.top)


@dataclass(frozen=True)
class Plane:
    """Both axes of a plot."""

    x: Axis
    y: Axis

    def path(self, points: Iterable[tuple[float, float]]) -> str:
        """Write a line through points as SVG wants it."""
        return " ".join(f"{self.x(number)},{self.y(value)}" for number, value in points)


def ticks(low: float, high: float) -> list[float]:
    """Find round numbers that enclose [low, high], about five steps apart."""
    span = max(high - low, 1e-3)
    magnitude = 10.0 ** math.floor(math.log10(span / 4))
    factors = (magnitude * factor for factor in (1, 2, 2.5, 5, 10))
    step = next(factor for factor in factors if factor * 5 >= span)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(step * n, 10) for n in range(first, max(last, first + 1) + 1)]


def enclose(values: Iterable[float]) -> list[float]:
    """Find round numbers that enclose some values."""
    known = list(values)
    return ticks(min(known), max(known))


def spread(wanted: Sequence[float], lowest: float) -> list[float]:
    """Move the baselines of titles apart, none below the lowest, so that they do not overlap."""
    placed = list(wanted)
    order = sorted(range(len(placed)), key=placed.__getitem__)
    for above, below in pairwise(order):
        placed[below] = max(placed[below], placed[above] + LINE_HEIGHT)
    for index in reversed(order):
        placed[index] = min(placed[index], lowest)
        lowest = placed[index] - LINE_HEIGHT
    return placed


def shorten(title: str, longest: int = LONGEST_TITLE) -> str:
    """Cut a title to the letters that there is room for."""
    return title if len(title) <= longest else title[: longest - 1] + "…"
