"""A chart of lines as the coordinates of an SVG; the macro `draw` of chart.html.j2 draws it.

The colours are Okabe and Ito's (https://jfly.uni-koeln.de/color/), which colour-blind readers can
tell apart. Dashes tell references from federated strategies on a black-and-white print.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from polyclinic.reporting.axes import Frame, Plane, Tick, enclose

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
SOLID = "none"
MOST_POINTS = 240  # of one line: more cannot be seen
MARGINS = (48, 24, 30, 42)  # left, right, top, bottom, of a chart without titles beside its plot


@dataclass(frozen=True)
class Dot:
    """A point of a line, in pixels.

    Attributes:
        words: What is shown to whoever points at it.
        partial: Whether it is a mean over fewer hospitals than elsewhere: it is drawn open.
        beside: Text beside it.
    """

    x: float
    y: float
    words: str
    partial: bool = False
    beside: str = ""


@dataclass(frozen=True)
class ChartLine:
    """A series.

    Attributes:
        title: Beside its end, or in the key.
        colour, dash: SVG's.
        path: Points of its polyline.
        dots: Points that are marked.
        thin: Polylines of what it is the mean of.
        title_y: Baseline of the title beside the plot, in pixels; None: no title is written there.
    """

    title: str
    colour: str
    dash: str
    path: str
    dots: tuple[Dot, ...] = ()
    thin: tuple[str, ...] = ()
    title_y: float | None = None


@dataclass(frozen=True)
class Chart:
    """What the template draws.

    Attributes:
        note: A smaller sentence under the title.
        x_title: Under the horizontal axis.
        marks: Vertical lines, as pixel and text.
        y_title: What the vertical axis shows; it stands beside the chart.
    """

    title: str
    frame: Frame
    lines: tuple[ChartLine, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_title: str
    note: str = ""
    marks: tuple[Tick, ...] = ()
    y_title: str = ""


def make_frame(width: int, height: int) -> Frame:
    """Make the frame of a chart without titles beside its plot."""
    left, right, top, bottom = MARGINS
    return Frame(width, height, left, width - right, top, height - bottom)


def draw_series(
    title: str, note: str, points: Sequence[tuple[float, float]], width: int, height: int
) -> Chart:
    """Draw one line over the steps of a training.

    Args:
        title: Above it.
        note: Under the title.
        points: Step and value, at least one; of very many, some are drawn.
        width: Of the drawing, in pixels.
        height: Of the drawing, in pixels.
    """
    every = max(1, -(-len(points) // MOST_POINTS))
    last = [points[-1]] if (len(points) - 1) % every else []
    shown = [*points[::every], *last]
    frame = make_frame(width, height)
    x_steps, y_steps = enclose(x for x, _ in shown), enclose(y for _, y in shown)
    plane = Plane(frame.x(x_steps[0], x_steps[-1]), frame.y(y_steps[0], y_steps[-1]))
    dots = tuple(Dot(plane.x(x), plane.y(y), f"step {x:g}: {y:.4g}") for x, y in shown)
    line = ChartLine(title, COLOURS[0], SOLID, plane.path(shown), dots if len(dots) == 1 else ())
    return Chart(
        title=title,
        frame=frame,
        lines=(line,),
        x_ticks=plane.x.ticks(x_steps),
        y_ticks=plane.y.ticks(y_steps),
        x_title="step",
        note=note,
    )
