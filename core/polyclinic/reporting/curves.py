"""Curves over the rounds as the coordinates of a small SVG; the page's template draws them.

The colours are Okabe and Ito's, told apart by colour-blind readers (https://jfly.uni-koeln.de/color/); dashes tell the
reference arms from the federated ones on a black-and-white print.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from statistics import fmean
from typing import Literal

from polyclinic.reporting.measurements import Phase
from polyclinic.reporting.results import Arm, Results

FEDERATED_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
REFERENCE_STYLES = {"local": ("#6b7280", "2 3"), "pooled": ("#111827", "7 4")}
WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 48, 100, 14, 38
LINE_HEIGHT = 14
LONGEST_TITLE = 15


@dataclass(frozen=True)
class Curve:
    """One arm over the rounds; a round is in `partial` when not every hospital of the curve reported it."""

    arm: Arm
    mean: tuple[tuple[int, float], ...]
    sites: Mapping[str, tuple[tuple[int, float], ...]]
    partial: frozenset[int]


@dataclass(frozen=True)
class Line:
    """A curve in pixels. `dots` are x, y, the value in words, and whether only some hospitals reported."""

    title: str
    colour: str
    dash: str
    mean: str
    sites: tuple[str, ...]
    dots: tuple[tuple[float, float, str, bool], ...]
    label_y: float


@dataclass(frozen=True)
class Plane:
    """Where the values of both axes lie on the canvas."""

    first: float
    last: float
    low: float
    high: float

    def x(self, number: float) -> float:
        """In pixels from the left."""
        share = (number - self.first) / (self.last - self.first) if self.last > self.first else 0.5
        return round(LEFT + 10 + share * (WIDTH - LEFT - RIGHT - 20), 1)

    def y(self, value: float) -> float:
        """In pixels from the top."""
        return round(
            HEIGHT - BOTTOM - (value - self.low) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM),
            1,
        )

    def path(self, points: Iterable[tuple[float, float]]) -> str:
        """A line through points, as SVG wants it."""
        return " ".join(f"{self.x(number)},{self.y(value)}" for number, value in points)


@dataclass(frozen=True)
class Chart:
    """What the template draws: lines, and the ticks of both axes as pixel and text."""

    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    bottom: int = HEIGHT - BOTTOM


def curves(results: Results, phase: Phase, quantity: Literal["loss", "score"]) -> tuple[Curve, ...]:
    """One curve per arm with rounds that has any value of the quantity: mean over the hospitals that reported, and each of them."""
    found = []
    for arm in (arm for arm in results.arms if arm.has_rounds):
        sites: dict[str, list[tuple[int, float]]] = {}
        for m in sorted(results.metrics, key=lambda m: m.round):
            value = m.loss if quantity == "loss" else m.score
            if m.arm == arm.name and m.phase == phase and value is not None:
                sites.setdefault(m.site, []).append((m.round, value))
        values: dict[int, list[float]] = {}
        for number, value in sorted(point for points in sites.values() for point in points):
            values.setdefault(number, []).append(value)
        if values:
            partial = frozenset(
                number for number, reported in values.items() if len(reported) < len(sites)
            )
            mean = tuple((number, fmean(reported)) for number, reported in values.items())
            found.append(
                Curve(arm, mean, {site: tuple(points) for site, points in sites.items()}, partial)
            )
    return tuple(found)


def styles(arms: Sequence[Arm]) -> dict[str, tuple[str, str]]:
    """Colour and dash pattern per arm."""
    colours = cycle(FEDERATED_COLOURS)
    return {arm.name: REFERENCE_STYLES.get(arm.name) or (next(colours), "none") for arm in arms}


def draw(found: Sequence[Curve], arms: Sequence[Arm]) -> Chart | None:
    """Place curves on the canvas; None when there is nothing to draw."""
    points = [point for curve in found for site in curve.sites.values() for point in site]
    if not points:
        return None
    first, last = min(n for n, _ in points), max(n for n, _ in points)
    steps = ticks(min(v for _, v in points), max(v for _, v in points))
    plane = Plane(first, last, steps[0], steps[-1])
    x, y, path = plane.x, plane.y, plane.path
    label_ys = spread([y(curve.mean[-1][1]) for curve in found])
    style = styles(arms)
    lines = [
        Line(
            title=shorten(curve.arm.title),
            colour=style[curve.arm.name][0],
            dash=style[curve.arm.name][1],
            mean=path(curve.mean),
            sites=tuple(path(site) for site in curve.sites.values()),
            dots=tuple(
                (x(n), y(v), f"{curve.arm.title}, round {n}: {v:.3f}", n in curve.partial)
                for n, v in curve.mean
            ),
            label_y=label_y,
        )
        for curve, label_y in zip(found, label_ys, strict=True)
    ]
    every = max(1, math.ceil((last - first) / 10))
    return Chart(
        lines=tuple(lines),
        x_ticks=tuple((x(number), str(number)) for number in range(first, last + 1, every)),
        y_ticks=tuple((y(value), f"{value:.4g}") for value in steps),
    )


def ticks(low: float, high: float) -> list[float]:
    """Round numbers that enclose [low, high], about five steps apart."""
    span = max(high - low, 1e-3)
    magnitude = 10.0 ** math.floor(math.log10(span / 4))
    step = next(
        magnitude * factor for factor in (1, 2, 2.5, 5, 10) if magnitude * factor * 5 >= span
    )
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(step * n, 10) for n in range(first, max(last, first + 1) + 1)]


def spread(wanted: Sequence[float], lowest: float = HEIGHT - BOTTOM) -> list[float]:
    """Move text baselines apart, none below the lowest, so that the titles at the ends of lines do not cover each other."""
    placed = list(wanted)
    order = sorted(range(len(placed)), key=placed.__getitem__)
    for above, below in pairwise(order):
        placed[below] = max(placed[below], placed[above] + LINE_HEIGHT)
    for index in reversed(order):
        placed[index] = min(placed[index], lowest)
        lowest = placed[index] - LINE_HEIGHT
    return placed


def shorten(title: str, longest: int = LONGEST_TITLE) -> str:
    """A title that fits beside the plot."""
    return title if len(title) <= longest else title[: longest - 1] + "…"
