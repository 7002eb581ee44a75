"""The curves of a deformation proxy as the coordinates of SVGs: what it costs against what it hides, and the losses of its training."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

from polyclinic.reporting.curves import FEDERATED_COLOURS, ticks
from polyclinic_strategies.proxy.report.narrative import AUC_LIMIT, GUESSING
from polyclinic_strategies.proxy.report.record import LEARNED, ORIGINALS, RANDOM, ProxyRun

STYLES = {ORIGINALS: ("#6b7280", "2 3"), RANDOM: ("#D55E00", "7 4"), LEARNED: ("#0072B2", "none")}
OTHERS = tuple(
    colour
    for colour in FEDERATED_COLOURS
    if colour not in {colour for colour, _ in STYLES.values()}
)
MOST_POINTS = 240  # of one loss: more cannot be seen
LEFT, RIGHT, TOP, BOTTOM = 48, 24, 30, 42
LOSSES = {
    "segmentation": ("Segmentation", "focal Tversky loss of the unwarped answer; low is good"),
    "adversary": ("Adversary", "how badly it recognizes people; high is private"),
    "adversarial": (
        "Generator against adversary",
        "how much more alike two proxies of one person look to it than others; low is private",
    ),
    "stranger": (
        "Distance to a stranger",
        "squared difference from the brain that the key makes up; low is private",
    ),
    "smoothness": ("Roughness", "of the velocity; low is smooth"),
    "diversity": ("Sameness", "of two keys' proxies, beyond that of two strangers; low is diverse"),
    "unfolded": ("Folding", "how near the warp comes to it; low is safe"),
}


@dataclass(frozen=True)
class Line:
    """A series in pixels; dots are x, y, words, and what is written beside them."""

    title: str
    colour: str
    dash: str
    path: str
    dots: tuple[tuple[float, float, str, str], ...] = ()


@dataclass(frozen=True)
class Plot:
    """What the template draws; marks are vertical lines, x and text."""

    title: str
    note: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    x_title: str
    y_title: str = ""
    marks: tuple[tuple[float, str], ...] = ()
    width: int = 640
    height: int = 340
    left: int = LEFT
    top: int = TOP

    @property
    def right(self) -> int:
        """Where the axes end."""
        return self.width - RIGHT

    @property
    def bottom(self) -> int:
        """Where the axes begin."""
        return self.height - BOTTOM


class Axes:
    """From values to pixels.

    Args:
        xs, ys: Values that the axes enclose.
        width, height: Of the drawing.
    """

    def __init__(self, xs: Sequence[float], ys: Sequence[float], width: int, height: int) -> None:
        self.x_steps, self.y_steps = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
        self._across, self._up = width - LEFT - RIGHT, height - TOP - BOTTOM

    def x(self, value: float) -> float:
        """Pixels from the left."""
        return round(
            LEFT + (value - self.x_steps[0]) / (self.x_steps[-1] - self.x_steps[0]) * self._across,
            1,
        )

    def y(self, value: float) -> float:
        """Pixels from the top."""
        return round(
            TOP + (self.y_steps[-1] - value) / (self.y_steps[-1] - self.y_steps[0]) * self._up, 1
        )

    def path(self, points: Sequence[tuple[float, float]]) -> str:
        """Of a polyline."""
        return " ".join(f"{self.x(x)},{self.y(y)}" for x, y in points)

    def marks(self) -> tuple[tuple[tuple[float, str], ...], tuple[tuple[float, str], ...]]:
        """The ticks of both axes."""
        return tuple((self.x(x), f"{x:.4g}") for x in self.x_steps), tuple(
            (self.y(y), f"{y:.4g}") for y in self.y_steps
        )


def find_styles(run: ProxyRun) -> dict[str, tuple[str, str]]:
    """Colour and dash pattern per arm."""
    others = cycle(OTHERS)
    names = dict.fromkeys([*(arm.name for arm in run.arms), *(point.arm for point in run.curve)])
    return {name: STYLES.get(name) or (next(others), "none") for name in names}


def draw_curve(run: ProxyRun) -> Plot | None:
    """Dice of the round trip against the attackers' AUC, a line for each arm through its strengths; None without points."""
    if not run.curve:
        return None
    width, height = 640, 340
    aucs, trips = [point.auc for point in run.curve], [point.round_trip for point in run.curve]
    axes = Axes([*aucs, GUESSING, AUC_LIMIT], [*trips, max(trips) - 0.01], width, height)
    styles, lines = find_styles(run), []
    for name in dict.fromkeys(point.arm for point in run.curve):
        points = sorted(
            (point for point in run.curve if point.arm == name),
            key=lambda point: point.strength_mm or 0.0,
        )
        arm = run.arm(name)
        title = arm.title if arm else name
        dots = []
        for point in points:
            strength = f"{point.strength_mm:.1f} mm" if point.strength_mm is not None else ""
            words = f"{title}{f', {strength}' if strength else ''}: AUC {point.auc:.3f}, Dice of the round trip {point.round_trip:.3f}"
            dots.append((axes.x(point.auc), axes.y(point.round_trip), words, strength))
        path = axes.path([(point.auc, point.round_trip) for point in points])
        lines.append(Line(title, *styles[name], path, tuple(dots)))
    x_ticks, y_ticks = axes.marks()
    marks = ((axes.x(GUESSING), "guessing"), (axes.x(AUC_LIMIT), "limit"))
    return Plot(
        "Dice of the round trip against re-identification", "", tuple(lines), x_ticks, y_ticks,
        "AUC of the attackers (left is private)", "Dice of labels warped and unwarped", marks, width, height,
    )  # fmt: skip


def draw_losses(run: ProxyRun) -> tuple[Plot, ...]:
    """A small drawing for each loss, each on its own scale."""
    width, height = 360, 200
    plots = []
    for name in sorted(
        run.losses, key=lambda each: list(LOSSES).index(each) if each in LOSSES else len(LOSSES)
    ):
        title, note = LOSSES.get(name, (name, ""))
        plots.append(draw_series(title, note, run.losses[name], width, height))
    return tuple(plots)


def draw_series(
    title: str, note: str, points: Sequence[tuple[float, float]], width: int, height: int
) -> Plot:
    """One line over the steps.

    Args:
        title, note: Above it.
        points: Step and value, at least one; of very many, some are drawn.
        width, height: Of the drawing.
    """
    every = max(1, -(-len(points) // MOST_POINTS))
    shown = [*points[::every], *([points[-1]] if (len(points) - 1) % every else [])]
    axes = Axes([x for x, _ in shown], [y for _, y in shown], width, height)
    x_ticks, y_ticks = axes.marks()
    single = (
        (
            (
                axes.x(shown[0][0]),
                axes.y(shown[0][1]),
                f"step {shown[0][0]:g}: {shown[0][1]:.4g}",
                "",
            ),
        )
        if len(shown) == 1
        else ()
    )
    line = Line(title, "#0072B2", "none", axes.path(shown), single)
    return Plot(title, note, (line,), x_ticks, y_ticks, "step", width=width, height=height)
