"""The curves of runs that go on, as the report draws them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

from polyclinic.reporting.axes import Frame, Plane, enclose
from polyclinic.reporting.chart import COLOURS, MOST_POINTS, SOLID, Chart, ChartLine, Dot
from polyclinic_server.page.following import Following, Series

FRAME = Frame(560, 270, left=48, right=548, top=12, bottom=232, inset=10)
MOST_DOTS = 30
DASHES = (SOLID, "7 4", "2 3", "10 3 2 3")  # of the strategies of one run among several
MODELS = "round, or number of the published model"
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Curve:
    """A series that is drawn.

    Attributes:
        title: In the key.
        series: The figures.
        colour, dash: SVG's.
        sites: Whether each hospital has a thin line.
    """

    title: str
    series: Series
    colour: str
    dash: str = SOLID
    sites: bool = True


def draw(following: Following, quantity: str, title: str) -> Chart | None:
    """Draw one line for each strategy of a run; None where there is nothing yet.

    Args:
        following: The run.
        quantity: `loss` or `score`.
        title: Above it.
    """
    found = zip(_series(following, quantity), cycle(COLOURS), strict=False)
    return _chart([Curve(arm, series, colour) for (arm, series), colour in found], title, "round")


def draw_together(followings: Sequence[Following], quantity: str, title: str) -> Chart | None:
    """Draw the strategies of several runs in one picture: a colour for each run.

    Args:
        followings: The runs.
        quantity: `loss` or `score`.
        title: Above it.
    """
    curves = [
        Curve(f"{following.name}: {arm}", series, colour, dash, sites=False)
        for following, colour in zip(followings, cycle(COLOURS), strict=False)
        for (arm, series), dash in zip(_series(following, quantity), cycle(DASHES), strict=False)
    ]
    rounds = all(each.live is None or not each.live.without_rounds for each in followings)
    return _chart(curves, title, "round" if rounds else MODELS)


def _series(following: Following, quantity: str) -> list[tuple[str, Series]]:
    """Return the series of a run's strategies, by their titles."""
    titles = following.titles()
    return [
        (titles[arm], series)
        for (arm, what), series in following.curves.items()
        if what == quantity and arm in titles and series.sums
    ]


def _chart(curves: Sequence[Curve], title: str, x_title: str) -> Chart | None:
    if not curves:
        return None
    drawn = [(curve, thin_out(curve.series.mean())) for curve in curves]
    steps = enclose(value for curve, mean in drawn for value in _values(curve, mean))
    numbers = [number for _, mean in drawn for number, _ in mean]
    first, last = int(min(numbers)), int(max(numbers))
    plane = Plane(FRAME.x(first, last), FRAME.y(steps[0], steps[-1]))
    every = max(1, math.ceil((last - first) / 8))
    return Chart(
        title=title,
        frame=FRAME,
        lines=tuple(_line(curve, mean, plane) for curve, mean in drawn),
        x_ticks=plane.x.ticks(range(first, last + 1, every)),
        y_ticks=plane.y.ticks(steps),
        x_title=x_title,
    )


def thin_out(points: Points) -> Points:
    """Leave out points of a line that could not be seen; the last one stays."""
    every = max(1, -(-len(points) // MOST_POINTS))
    return [*points[:-1:every], *points[-1:]]


def _values(curve: Curve, mean: Points) -> list[float]:
    sites = curve.series.sites.values() if curve.sites else ()
    return [*(value for values in sites for value in values.values()), *(v for _, v in mean)]


def _line(curve: Curve, mean: Points, plane: Plane) -> ChartLine:
    dots = mean if curve.sites and len(mean) <= MOST_DOTS else mean[-1:]
    sites = curve.series.sites.values() if curve.sites else ()
    return ChartLine(
        title=curve.title,
        colour=curve.colour,
        dash=curve.dash,
        path=plane.path(mean),
        dots=tuple(
            Dot(plane.x(n), plane.y(v), f"{curve.title}, round {n:g}: {v:.3f}") for n, v in dots
        ),
        thin=tuple(
            plane.path(thin_out(sorted((float(n), v) for n, v in values.items())))
            for values in sites
            if values
        ),
    )
