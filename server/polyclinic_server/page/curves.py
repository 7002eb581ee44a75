"""The curves of a run that goes on, as the report draws them."""

import math
from itertools import cycle

from polyclinic.reporting.axes import Frame, Plane, enclose
from polyclinic.reporting.chart import COLOURS, MOST_POINTS, SOLID, Chart, ChartLine, Dot
from polyclinic_server.page.following import Following, Series

FRAME = Frame(560, 270, left=48, right=548, top=12, bottom=232, inset=10)
MOST_DOTS = 30
Points = list[tuple[float, float]]


def draw(following: Following, quantity: str, title: str) -> Chart | None:
    """Draw one line for each strategy of a run; None where there is nothing yet.

    Args:
        following: The run.
        quantity: `loss` or `score`.
        title: Above it.
    """
    titles = following.titles()
    found = [
        (titles[arm], series, thin_out(series.mean()))
        for (arm, what), series in following.curves.items()
        if what == quantity and arm in titles and series.sums
    ]
    if not found:
        return None
    values = [value for _, series, mean in found for value in _values(series, mean)]
    numbers = [number for _, _, mean in found for number, _ in mean]
    steps = enclose(values)
    first, last = int(min(numbers)), int(max(numbers))
    plane = Plane(FRAME.x(first, last), FRAME.y(steps[0], steps[-1]))
    every = max(1, math.ceil((last - first) / 8))
    lines = [
        _line(arm, series, mean, plane, colour)
        for (arm, series, mean), colour in zip(found, cycle(COLOURS), strict=False)
    ]
    return Chart(
        title=title,
        frame=FRAME,
        lines=tuple(lines),
        x_ticks=plane.x.ticks(range(first, last + 1, every)),
        y_ticks=plane.y.ticks(steps),
        x_title="round",
    )


def thin_out(points: Points) -> Points:
    """Leave out points of a line that could not be seen; the last one stays."""
    every = max(1, -(-len(points) // MOST_POINTS))
    return [*points[:-1:every], *points[-1:]]


def _values(series: Series, mean: Points) -> list[float]:
    own = [value for values in series.sites.values() for value in values.values()]
    return [*own, *(value for _, value in mean)]


def _line(title: str, series: Series, mean: Points, plane: Plane, colour: str) -> ChartLine:
    dots = mean if len(mean) <= MOST_DOTS else mean[-1:]
    return ChartLine(
        title=title,
        colour=colour,
        dash=SOLID,
        path=plane.path(mean),
        dots=tuple(Dot(plane.x(n), plane.y(v), f"{title}, round {n:g}: {v:.3f}") for n, v in dots),
        thin=tuple(
            plane.path(thin_out(sorted((float(n), v) for n, v in values.items())))
            for values in series.sites.values()
            if values
        ),
    )
