"""The part of a report about the universal model.

It shows which hospital taught it in which stage, what it is worth to each hospital, and how it
learned.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from polyclinic.reporting.axes import Plane, enclose, spread, ticks
from polyclinic.reporting.chart import COLOURS, SOLID, Chart, ChartLine
from polyclinic.reporting.curves import FRAME
from polyclinic.reporting.formats import (
    join_words,
    plural,
    show_difference,
    show_score,
    show_seconds,
    subtract,
)
from polyclinic.reporting.narrative import NO_TEST_YET, ONE_RUN, tell_verdict
from polyclinic.reporting.results import Results
from polyclinic.reporting.scores import headline
from polyclinic.reporting.section import Pointer, Section, Summary, Tile
from polyclinic_strategies.universal.report.state import (
    BEFORE,
    UNIVERSAL,
    ContributionState,
    StageState,
    UniversalState,
    read_state,
)

TEMPLATES = Path(__file__).parent / "templates"
DISTILLATION = "distillation"
MEANING_OF_MEAN = (
    "Scores of different tasks mean different things: use the mean to compare encoders only."
)
PROCEDURE = (
    "An encoder's score at a hospital is the score of a linear head that was fitted there to the "
    "encoder, which stays as it is. The head is fitted on the training images, with the penalty "
    "that is best on the validation images. This is the same for every encoder.",
)
PARTICIPATION = (
    Pointer(
        "The universal model has no rounds. The stages show which hospital taught it when.",
        "stages",
    ),
)

Pairs = Mapping[
    str, tuple[float, float]
]  # scores before the first and after the last stage, by site


@dataclass(frozen=True)
class Teaching:
    """A hospital in a stage, and its scores before the first stage and after the last."""

    taught: ContributionState
    weight: float | None
    trust: float | None
    before: float | None
    after: float | None

    @property
    def difference(self) -> float | None:
        """Difference of the three decimals that are shown."""
        if self.before is None or self.after is None:
            return None
        return subtract(self.after, self.before)


@dataclass(frozen=True)
class StageTable:
    """One stage on the page."""

    number: int
    words: str
    rows: tuple[Teaching, ...]
    distilled: bool


def make_section(results: Results) -> Section | None:
    """Make the section; None where a run has no universal model.

    Raises:
        RunError: The part of run.json about the universal model is damaged.
    """
    state = read_state(results)
    if state is None:
        return None
    return Section(
        template=TEMPLATES / "universal.html.j2",
        values={
            "how": tell_how(state),
            "library": tell_library(state),
            "stages": [make_table(results, state, stage) for stage in state.stages],
            "losses": draw_losses(state.stages),
        },
        css=TEMPLATES / "universal.css",
        summary=summarize(results, state),
        participation=PARTICIPATION,
        procedure=PROCEDURE,
    )


def summarize(results: Results, state: UniversalState) -> Summary:
    """Tell what came out."""
    table = headline(results)
    scores = {
        site: (table.score(site, BEFORE), table.score(site, UNIVERSAL)) for site in table.rows
    }
    pairs = {
        site: (before, after)
        for site, (before, after) in scores.items()
        if before is not None and after is not None
    }
    return Summary(
        _tell_lead(pairs),
        _tell_support(state, pairs, table.source == "validate"),
        _find_tiles(state, pairs),
    )


def make_table(results: Results, state: UniversalState, stage: StageState) -> StageTable:
    """Make the table of one stage's teachers."""
    table = headline(results)
    known = table.rows.keys()
    rows = tuple(
        Teaching(
            each,
            stage.weights.get(each.site),
            stage.trust.get(each.site),
            table.score(each.site, BEFORE) if each.site in known else None,
            table.score(each.site, UNIVERSAL) if each.site in known else None,
        )
        for each in stage.contributions
    )
    distilled = any(row.trust is not None for row in rows)
    return StageTable(stage.stage, tell_stage(state, stage), rows, distilled)


def draw_losses(stages: tuple[StageState, ...]) -> Chart | None:
    """Draw the loss of every stage's distillation; None where nothing was distilled."""
    found = [stage for stage in stages if stage.losses]
    if not found:
        return None
    marks = enclose(value for stage in found for value in stage.losses)
    most = max(stage.step_count for stage in found)
    plane = Plane(FRAME.x(0, most), FRAME.y(marks[0], marks[-1]))
    places = spread([plane.y(stage.losses[-1]) for stage in found], FRAME.bottom)
    lines = []
    for number, (stage, place) in enumerate(zip(found, places, strict=True)):
        every = stage.step_count / len(stage.losses)
        path = plane.path((1 + index * every, value) for index, value in enumerate(stage.losses))
        colour = COLOURS[number % len(COLOURS)]
        lines.append(ChartLine(f"stage {stage.stage}", colour, SOLID, path, title_y=place))
    whole = [int(step) for step in ticks(0, most) if 0 <= step <= most and step == int(step)]
    return Chart(
        title="Loss of the distillation, lower is better",
        frame=FRAME,
        lines=tuple(lines),
        x_ticks=plane.x.ticks(whole),
        y_ticks=plane.y.ticks(marks),
        x_title="step",
    )


def _tell_lead(pairs: Pairs) -> str:
    """Tell what came out, also when it did not help."""
    if not pairs:
        return "There are no scores yet of the universal model and of the encoder before it."
    before, after = (fmean(pair[side] for pair in pairs.values()) for side in (0, 1))
    over = f"averaged over {plural(len(pairs), 'hospital')}, each with a task of its own"
    return (
        f"Sharing one encoder {tell_verdict(subtract(after, before))}: {over}, it scores "
        f"{show_score(after)}. The encoder before the first stage scores {show_score(before)}. The "
        f"shared encoder scores higher at {_count_better(pairs)} of {len(pairs)}."
    )


def _count_better(pairs: Pairs) -> int:
    return sum(subtract(after, before) > 0 for before, after in pairs.values())


def _tell_support(state: UniversalState, pairs: Pairs, validated: bool) -> str:
    """Put the result in proportion."""
    differences = {site: subtract(after, before) for site, (before, after) in pairs.items()}
    worse = [f"{site} ({show_difference(gain)})" for site, gain in differences.items() if gain < 0]
    done = sum(stage.seconds is not None or not stage.contributions for stage in state.stages)
    words = [
        f"It does worse at {join_words(worse)}." if worse else "",
        f"{done} of {state.planned} stages are done." if done < state.planned else "",
        MEANING_OF_MEAN if pairs else "",
        NO_TEST_YET if pairs and validated else "",
        ONE_RUN,
    ]
    return " ".join(filter(None, words))


def _find_tiles(state: UniversalState, pairs: Pairs) -> tuple[Tile, ...]:
    """Choose the few figures on top."""
    taught = [each for stage in state.stages for each in stage.contributions]
    teachers, tasks = {each.site for each in taught}, {each.task for each in taught}
    caption = f"hospitals taught it, with {plural(len(tasks), 'kind')} of task"
    better = (
        f"{_count_better(pairs)} of {len(pairs)}",
        "hospitals do better than with the encoder before",
    )
    return ((str(len(teachers)), caption), *([better] if pairs else []))


def tell_how(state: UniversalState) -> str:
    """Tell how hospitals' encoders became one."""
    if state.combine != DISTILLATION:
        merged = (
            f"After each stage the rule {state.combine} merges the hospitals' encoders into one."
        )
        return f"{merged} No public images are needed."
    count = f"{state.public_images} " if state.public_images is not None else ""
    return (
        f"After each stage one encoder learns from the hospitals' encoders, on {count}unlabelled "
        "images of the coordinator. Weight is how much a hospital's encoder counted on these "
        "images on average; it counts less on images that are unlike the hospital's own. Trust is "
        "how much it counted at all."
    )


def tell_library(state: UniversalState) -> str:
    """Tell what the library holds, and who may get it; nothing where there is none."""
    if not state.library:
        return ""
    return (
        "library.safetensors, beside the universal encoder, also holds the encoders of "
        f"{plural(state.library, 'hospital')} of the last stage, without names. Hand it only to "
        "whom these hospitals agreed to. `polyclinic-client adapt --from` tries all of them."
    )


def tell_stage(state: UniversalState, stage: StageState) -> str:
    """Tell who contributed to a stage, and what came of it."""
    if not stage.contributions:
        return "No hospital contributed. The encoder stayed as it was."
    waited = f" in {show_seconds(stage.waited_s)}" if stage.waited_s is not None else ""
    how = "Distilling" if state.combine == DISTILLATION else "Merging"
    made = "The stage has made no encoder yet."
    if stage.seconds is not None:
        made = f"{how} took {show_seconds(stage.seconds)}."
    return f"{plural(len(stage.contributions), 'hospital')} contributed{waited}. {made}"
