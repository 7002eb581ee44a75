"""Curves of a run's figures over its rounds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from statistics import fmean
from typing import Literal

from polyclinic.federation.metrics import Phase
from polyclinic.reporting.axes import Frame, Plane, enclose, shorten, spread
from polyclinic.reporting.chart import COLOURS, SOLID, Chart, ChartLine, Dot
from polyclinic.reporting.results import LOCAL, POOLED, Arm, Results

FRAME = Frame(560, 300, left=48, right=460, top=14, bottom=262, inset=10)
REFERENCE_STYLES = {LOCAL: ("#6b7280", "2 3"), POOLED: ("#111827", "7 4")}

Points = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Curve:
    """One arm over the rounds.

    Attributes:
        mean: Mean over the hospitals that reported, by round.
        sites: Points of every hospital.
        partial: Rounds that not every hospital of the curve reported.
    """

    arm: Arm
    mean: Points
    sites: Mapping[str, Points]
    partial: frozenset[int]


def curves(results: Results, phase: Phase, quantity: Literal["loss", "score"]) -> tuple[Curve, ...]:
    """Make one curve for each arm with rounds that has any value of the quantity."""
    return tuple(
        _curve(arm, sites)
        for arm in results.arms
        if arm.has_rounds and (sites := _collect(results, arm, phase, quantity))
    )


def _collect(
    results: Results, arm: Arm, phase: Phase, quantity: Literal["loss", "score"]
) -> dict[str, list[tuple[int, float]]]:
    sites: dict[str, list[tuple[int, float]]] = {}
    for metric in sorted(results.metrics, key=lambda metric: metric.round):
        value = metric.loss if quantity == "loss" else metric.score
        if metric.arm == arm.name and metric.phase == phase and value is not None:
            sites.setdefault(metric.site, []).append((metric.round, value))
    return sites


def _curve(arm: Arm, sites: Mapping[str, Sequence[tuple[int, float]]]) -> Curve:
    values: dict[int, list[float]] = {}
    for number, value in sorted(point for points in sites.values() for point in points):
        values.setdefault(number, []).append(value)
    return Curve(
        arm,
        mean=tuple((number, fmean(reported)) for number, reported in values.items()),
        sites={site: tuple(points) for site, points in sites.items()},
        partial=frozenset(
            number for number, reported in values.items() if len(reported) < len(sites)
        ),
    )


def styles(arms: Sequence[Arm]) -> dict[str, tuple[str, str]]:
    """Choose colour and dash pattern of every arm."""
    colours = cycle(COLOURS)
    return {arm.name: REFERENCE_STYLES.get(arm.name) or (next(colours), SOLID) for arm in arms}


def draw_curves(title: str, found: Sequence[Curve], arms: Sequence[Arm]) -> Chart | None:
    """Place curves on the canvas; None when there is nothing to draw."""
    points = [point for curve in found for site in curve.sites.values() for point in site]
    if not points:
        return None
    first, last = min(n for n, _ in points), max(n for n, _ in points)
    steps = enclose(value for _, value in points)
    plane = Plane(FRAME.x(first, last), FRAME.y(steps[0], steps[-1]))
    places = spread([plane.y(curve.mean[-1][1]) for curve in found], FRAME.bottom)
    look = styles(arms)
    every = max(1, math.ceil((last - first) / 10))
    return Chart(
        title=title,
        frame=FRAME,
        lines=tuple(
            _line(curve, plane, look[curve.arm.name], place)
            for curve, place in zip(found, places, strict=True)
        ),
        x_ticks=plane.x.ticks(range(first, last + 1, every)),
        y_ticks=plane.y.ticks(steps),
        x_title="round",
    )


def _line(curve: Curve, plane: Plane, look: tuple[str, str], title_y: float) -> ChartLine:
    colour, dash = look
    title = curve.arm.title
    return ChartLine(
        title=shorten(title),
        colour=colour,
        dash=dash,
        path=plane.path(curve.mean),
        dots=tuple(
            Dot(plane.x(n), plane.y(v), f"{title}, round {n}: {v:.3f}", n in curve.partial)
            for n, v in curve.mean
        ),
        thin=tuple(plane.path(site) for site in curve.sites.values()),
        title_y=title_y,
    )
