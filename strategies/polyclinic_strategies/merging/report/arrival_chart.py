"""The published model's score after each arrival as the coordinates of an SVG, with what it is compared with as level lines."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from polyclinic.reporting.curves import LINE_HEIGHT, shorten, spread, styles, ticks
from polyclinic.reporting.results import Arm, Results
from polyclinic_strategies.merging.report.standings import SINGLE, reference_levels
from polyclinic_strategies.merging.report.timeline_events import Publication, Story

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 360, 48, 166, 14, 62
BEST_SINGLE_STYLE = ("#8a5a00", "8 3 2 3")
NAMED_SITES = 10  # with more hospitals than these, thin lines have no names at their ends
LETTER_WIDTH = 6.8
LONGEST_LABEL = 20
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Step:
    """One published model: every hospital's score of it; `complete` if every hospital of the run scored it."""

    number: int
    cause: str
    scores: Mapping[str, float]
    complete: bool

    @property
    def mean(self) -> float:
        """The mean over the hospitals that scored it."""
        return fmean(self.scores.values())


@dataclass(frozen=True)
class Level:
    """What published models are compared with, on the same images."""

    title: str
    value: float
    colour: str
    dash: str


@dataclass(frozen=True)
class Label:
    """Words beside the plot at `y`, and where the line ends that they name."""

    text: str
    y: float
    end: float
    colour: str
    strong: bool


@dataclass(frozen=True)
class ArrivalChart:
    """What the template draws: the mean with its dots, a thin line for each hospital, levels, and the labels at the right."""

    colour: str
    mean: str
    dots: tuple[tuple[float, float, str, bool], ...]
    sites: tuple[tuple[str, str], ...]
    levels: tuple[tuple[float, Level], ...]
    labels: tuple[Label, ...]
    x_ticks: tuple[tuple[float, str, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    bottom: int = HEIGHT - BOTTOM


def find_steps(results: Results, arm: Arm, story: Story | None) -> tuple[Step, ...]:
    """Every published model that any hospital scored on its validation images, in the order of publication."""
    scores: dict[int, dict[str, float]] = {}
    for m in results.metrics:
        if m.arm == arm.name and m.phase == "validate" and m.score is not None:
            scores.setdefault(m.round, {})[m.site] = m.score
    published = (
        {publication.number: publication for publication in story.publications} if story else {}
    )
    everybody = {hospital.name for hospital in results.hospitals}
    return tuple(
        Step(number, _cause(published.get(number)), found, found.keys() >= everybody)
        for number, found in sorted(scores.items())
    )


def find_levels(results: Results, arm: Arm) -> tuple[Level, ...]:
    """Other arms and the best single hospital, where they were validated on the same images."""
    means = reference_levels(results, arm)
    looks = styles(results.arms)
    levels = [
        Level(a.title, means[a.name], *looks[a.name]) for a in results.arms if a.name in means
    ]
    titles = (
        {e.name: e.title for e in results.comparison.entries if e.group == "single"}
        if results.comparison
        else {}
    )
    singles = [name for name in means if name in titles]
    if singles:
        best = max(singles, key=lambda name: means[name])
        levels.append(
            Level(f"best single: {best.removeprefix(SINGLE)}", means[best], *BEST_SINGLE_STYLE)
        )
    return tuple(levels)


def draw_arrivals(
    arm: Arm, steps: Sequence[Step], levels: Sequence[Level], arms: Sequence[Arm]
) -> ArrivalChart | None:
    """Place the scores on the canvas; None when nothing was scored yet."""
    if not steps:
        return None
    values = [score for step in steps for score in step.scores.values()] + [
        level.value for level in levels
    ]
    marks = ticks(min(values), max(values))
    low, high = marks[0], marks[-1]
    first, last = steps[0].number, steps[-1].number

    def x(number: int) -> float:
        share = (number - first) / (last - first) if last > first else 0.5
        return round(LEFT + 16 + share * (WIDTH - LEFT - RIGHT - 32), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    paths = {
        site: [(step.number, step.scores[site]) for step in steps if site in step.scores]
        for site in dict.fromkeys(site for step in steps for site in step.scores)
    }
    colour = styles(arms)[arm.name][0]
    ends = [(arm.title, steps[-1].mean, colour, True)] + [
        (level.title, level.value, level.colour, True) for level in levels
    ]
    if len(paths) <= NAMED_SITES:
        ends += [(site, points[-1][1], "#56636f", False) for site, points in paths.items()]
    placed = spread([y(value) for _, value, _, _ in ends], HEIGHT - BOTTOM + LINE_HEIGHT)
    return ArrivalChart(
        colour=colour,
        mean=" ".join(f"{x(step.number)},{y(step.mean)}" for step in steps),
        dots=tuple(
            (x(step.number), y(step.mean), _describe(step), not step.complete) for step in steps
        ),
        sites=tuple(
            (site, " ".join(f"{x(n)},{y(v)}" for n, v in points)) for site, points in paths.items()
        ),
        levels=tuple((y(level.value), level) for level in levels),
        labels=tuple(
            Label(shorten(text, LONGEST_LABEL), at, y(value), tone, strong)
            for (text, value, tone, strong), at in zip(ends, placed, strict=True)
        ),
        x_ticks=_number_ticks(steps, x),
        y_ticks=tuple((y(value), f"{value:.4g}") for value in marks),
    )


def _number_ticks(
    steps: Sequence[Step], x: Callable[[int], float]
) -> tuple[tuple[float, str, str], ...]:
    """The models' numbers, and under them whose arrival it was where there is room for names."""
    width = (WIDTH - LEFT - RIGHT - 32) / max(1, steps[-1].number - steps[0].number)
    every = max(1, math.ceil(22 / width))
    room = int(width / LETTER_WIDTH) - 1
    return tuple(
        (x(step.number), str(step.number), shorten(step.cause, min(room, 16)) if room >= 5 else "")
        for step in steps
        if (step.number - steps[0].number) % every == 0
    )


def _cause(publication: Publication | None) -> str:
    """Why a model was published, in a word or two."""
    if publication is None:
        return ""
    if publication.why == "parameters":
        return "retuned"
    more = f" +{len(publication.cause) - 1}" if len(publication.cause) > 1 else ""
    name = publication.cause[0] if publication.cause else ""
    return f"{MINUS}{name}{more}" if publication.why == "withdrawal" else f"{name}{more}"


def _describe(step: Step) -> str:
    whose = f" ({step.cause})" if step.cause else ""
    some = "" if step.complete else f", only {len(step.scores)} hospitals scored it"
    return f"model {step.number}{whose}: {step.mean:.3f}{some}"
