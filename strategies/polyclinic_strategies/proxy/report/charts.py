"""Charts of a deformation proxy: what it costs and hides, and the losses of its training."""

from itertools import cycle

from polyclinic.reporting.axes import Plane, enclose
from polyclinic.reporting.chart import (
    COLOURS,
    SOLID,
    Chart,
    ChartLine,
    Dot,
    draw_series,
    make_frame,
)
from polyclinic_strategies.proxy.report.narrative import AUC_LIMIT, GUESSING
from polyclinic_strategies.proxy.report.state import LEARNED, ORIGINALS, RANDOM, Point, ProxyState

STYLES = {ORIGINALS: ("#6b7280", "2 3"), RANDOM: ("#D55E00", "7 4"), LEARNED: ("#0072B2", SOLID)}
OTHERS = tuple(
    colour for colour in COLOURS if colour not in {colour for colour, _ in STYLES.values()}
)
CURVE_SIZE, LOSS_SIZE = (640, 340), (360, 200)  # width and height, pixels
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


def find_styles(state: ProxyState) -> dict[str, tuple[str, str]]:
    """Choose colour and dash pattern of every warp."""
    others = cycle(OTHERS)
    names = dict.fromkeys(
        [*(warp.name for warp in state.warps), *(point.arm for point in state.curve)]
    )
    return {name: STYLES.get(name) or (next(others), SOLID) for name in names}


def draw_curve(state: ProxyState) -> Chart | None:
    """Draw Dice of the round trip against the attackers' AUC; None without points.

    There is a line for each warp, through its strengths.
    """
    if not state.curve:
        return None
    frame = make_frame(*CURVE_SIZE)
    trips = [point.round_trip for point in state.curve]
    x_steps = enclose([*(point.auc for point in state.curve), GUESSING, AUC_LIMIT])
    y_steps = enclose([*trips, max(trips) - 0.01])
    plane = Plane(frame.x(x_steps[0], x_steps[-1]), frame.y(y_steps[0], y_steps[-1]))
    styles = find_styles(state)
    names = dict.fromkeys(point.arm for point in state.curve)
    return Chart(
        title="Dice of the round trip against re-identification",
        frame=frame,
        lines=tuple(_line(state, name, styles[name], plane) for name in names),
        x_ticks=plane.x.ticks(x_steps),
        y_ticks=plane.y.ticks(y_steps),
        x_title="AUC of the attackers (left is private)",
        y_title="Dice of labels warped and unwarped",
        marks=((plane.x(GUESSING), "guessing"), (plane.x(AUC_LIMIT), "limit")),
    )


def _line(state: ProxyState, name: str, look: tuple[str, str], plane: Plane) -> ChartLine:
    points = sorted(
        (point for point in state.curve if point.arm == name),
        key=lambda point: point.strength_mm or 0.0,
    )
    warp = state.warp(name)
    title = warp.title if warp else name
    path = plane.path((point.auc, point.round_trip) for point in points)
    return ChartLine(title, *look, path, tuple(_dot(title, point, plane) for point in points))


def _dot(title: str, point: Point, plane: Plane) -> Dot:
    strength = f"{point.strength_mm:.1f} mm" if point.strength_mm is not None else ""
    who = ", ".join(filter(None, (title, strength)))
    words = f"{who}: AUC {point.auc:.3f}, Dice of the round trip {point.round_trip:.3f}"
    return Dot(plane.x(point.auc), plane.y(point.round_trip), words, beside=strength)


def draw_losses(state: ProxyState) -> tuple[Chart, ...]:
    """Draw each loss on its own scale, those that are known first."""
    order = list(LOSSES)
    names = sorted(
        state.losses, key=lambda name: order.index(name) if name in order else len(order)
    )
    return tuple(
        draw_series(*LOSSES.get(name, (name, "")), state.losses[name], *LOSS_SIZE) for name in names
    )
