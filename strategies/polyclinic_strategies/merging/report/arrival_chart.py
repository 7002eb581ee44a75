"""The published model's score after each arrival, with what it is compared with as level lines."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from polyclinic.reporting.axes import (
    LINE_HEIGHT,
    Axis,
    Frame,
    Plane,
    Tick,
    enclose,
    shorten,
    spread,
)
from polyclinic.reporting.chart import Dot
from polyclinic.reporting.curves import styles
from polyclinic.reporting.formats import MINUS
from polyclinic.reporting.results import Arm, Results
from polyclinic_strategies.merging.report.standings import SINGLE, reference_levels
from polyclinic_strategies.merging.report.timeline_events import PublishedModel, Story

FRAME = Frame(640, 360, left=48, right=474, top=14, bottom=298, inset=16)
BEST_SINGLE_STYLE = ("#8a5a00", "8 3 2 3")
SITE_COLOUR = "#56636f"
NAMED_SITES = 10  # with more hospitals than these, thin lines have no names at their ends
LETTER_WIDTH = 6.8
TICK_WIDTH = 22
SHORTEST_CAUSE, LONGEST_CAUSE = 5, 16
LONGEST_LABEL = 20


@dataclass(frozen=True)
class Step:
    """One published model.

    Attributes:
        cause: Whose arrival or departure it was, in a word or two.
        scores: Of every hospital that scored it, on validation images.
        complete: Whether every hospital of the run scored it.
    """

    number: int
    cause: str
    scores: Mapping[str, float]
    complete: bool

    @property
    def mean(self) -> float:
        """Mean over the hospitals that scored it."""
        return fmean(self.scores.values())


@dataclass(frozen=True)
class Level:
    """Something that published models are compared with, on the same images."""

    title: str
    value: float
    colour: str
    dash: str


@dataclass(frozen=True)
class EndLabel:
    """Words beside the plot at `y`, for the line that ends at `end`; in pixels."""

    text: str
    y: float
    end: float
    colour: str
    strong: bool


@dataclass(frozen=True)
class ArrivalChart:
    """What the template draws.

    Attributes:
        mean: Polyline of the means.
        sites: Name and polyline of every hospital.
        levels: Level lines with their pixel.
        x_ticks: Pixel, number of the model, and its cause.
    """

    frame: Frame
    colour: str
    mean: str
    dots: tuple[Dot, ...]
    sites: tuple[tuple[str, str], ...]
    levels: tuple[tuple[float, Level], ...]
    labels: tuple[EndLabel, ...]
    x_ticks: tuple[tuple[float, str, str], ...]
    y_ticks: tuple[Tick, ...]


def find_steps(results: Results, arm: Arm, story: Story | None) -> tuple[Step, ...]:
    """Find the published models that any hospital scored, in the order of publication."""
    scores: dict[int, dict[str, float]] = {}
    for m in results.metrics:
        if m.arm == arm.name and m.phase == "validate" and m.score is not None:
            scores.setdefault(m.round, {})[m.site] = m.score
    published = {model.number: model for model in story.publications} if story else {}
    everybody = {hospital.name for hospital in results.hospitals}
    return tuple(
        Step(number, _cause(published.get(number)), found, found.keys() >= everybody)
        for number, found in sorted(scores.items())
    )


def find_levels(results: Results, arm: Arm) -> tuple[Level, ...]:
    """Find other arms and the best single hospital that were validated on the same images."""
    means = reference_levels(results, arm)
    looks = styles(results.arms)
    levels = [
        Level(other.title, means[other.name], *looks[other.name])
        for other in results.arms
        if other.name in means
    ]
    compared = results.run.comparison.entries if results.run.comparison else ()
    singles = [each.name for each in compared if each.group == "single" and each.name in means]
    if singles:
        best = max(singles, key=lambda name: means[name])
        title = f"best single: {best.removeprefix(SINGLE)}"
        levels.append(Level(title, means[best], *BEST_SINGLE_STYLE))
    return tuple(levels)


def draw_arrivals(
    arm: Arm, steps: Sequence[Step], levels: Sequence[Level], arms: Sequence[Arm]
) -> ArrivalChart | None:
    """Place the scores on the canvas; None when nothing was scored yet."""
    if not steps:
        return None
    marks = enclose(
        [score for step in steps for score in step.scores.values()]
        + [level.value for level in levels]
    )
    plane = Plane(FRAME.x(steps[0].number, steps[-1].number), FRAME.y(marks[0], marks[-1]))
    paths = {
        site: [(step.number, step.scores[site]) for step in steps if site in step.scores]
        for site in dict.fromkeys(site for step in steps for site in step.scores)
    }
    colour = styles(arms)[arm.name][0]
    ends = [(arm.title, steps[-1].mean, colour, True)]
    ends += [(level.title, level.value, level.colour, True) for level in levels]
    if len(paths) <= NAMED_SITES:
        ends += [(site, points[-1][1], SITE_COLOUR, False) for site, points in paths.items()]
    return ArrivalChart(
        frame=FRAME,
        colour=colour,
        mean=plane.path((step.number, step.mean) for step in steps),
        dots=tuple(
            Dot(plane.x(step.number), plane.y(step.mean), _describe(step), not step.complete)
            for step in steps
        ),
        sites=tuple((site, plane.path(points)) for site, points in paths.items()),
        levels=tuple((plane.y(level.value), level) for level in levels),
        labels=_labels(ends, plane.y),
        x_ticks=_number_ticks(steps, plane.x),
        y_ticks=plane.y.ticks(marks),
    )


def _labels(ends: Sequence[tuple[str, float, str, bool]], y: Axis) -> tuple[EndLabel, ...]:
    placed = spread([y(value) for _, value, _, _ in ends], FRAME.bottom + LINE_HEIGHT)
    return tuple(
        EndLabel(shorten(text, LONGEST_LABEL), at, y(value), colour, strong)
        for (text, value, colour, strong), at in zip(ends, placed, strict=True)
    )


def _number_ticks(steps: Sequence[Step], x: Axis) -> tuple[tuple[float, str, str], ...]:
    """Place the models' numbers, and under them whose arrival it was where there is room."""
    first, last = steps[0].number, steps[-1].number
    width = (x.end - x.start) / max(1, last - first)
    every = max(1, math.ceil(TICK_WIDTH / width))
    room = min(int(width / LETTER_WIDTH) - 1, LONGEST_CAUSE)
    return tuple(
        (
            x(step.number),
            str(step.number),
            shorten(step.cause, room) if room >= SHORTEST_CAUSE else "",
        )
        for step in steps
        if (step.number - first) % every == 0
    )


def _cause(model: PublishedModel | None) -> str:
    """Say why a model was published, in a word or two."""
    if model is None:
        return ""
    if model.why == "parameters":
        return "retuned"
    more = f" +{len(model.cause) - 1}" if len(model.cause) > 1 else ""
    name = model.cause[0] if model.cause else ""
    return f"{MINUS if model.why == 'withdrawal' else ''}{name}{more}"


def _describe(step: Step) -> str:
    whose = f" ({step.cause})" if step.cause else ""
    some = "" if step.complete else f", only {len(step.scores)} hospitals scored it"
    return f"model {step.number}{whose}: {step.mean:.3f}{some}"
