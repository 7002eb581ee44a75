"""The part of a report about the universal model: who taught it in which stage, what it is worth to each hospital, how it learned."""

from dataclasses import dataclass

from polyclinic.reporting.curves import FEDERATED_COLOURS, Chart, Line, Plane, spread, ticks
from polyclinic.reporting.results import Results, headline
from polyclinic.reporting.summary import (
    NO_TEST_YET,
    ONE_RUN,
    join_words,
    plural,
    show,
    show_difference,
)
from polyclinic_strategies.refinement.report.narrative import show_seconds
from polyclinic_strategies.universal.report.record import BEFORE, UNIVERSAL, Record, Stage, Taught

NO_CLEAR_DIFFERENCE = 0.005


@dataclass(frozen=True)
class Teaching:
    """A hospital in a stage, and its scores before the first stage and after the last."""

    taught: Taught
    before: float | None
    after: float | None

    @property
    def difference(self) -> float | None:
        """Of the three decimals that are shown."""
        return (
            None
            if self.before is None or self.after is None
            else round(self.after, 3) - round(self.before, 3)
        )


@dataclass(frozen=True)
class StageTable:
    """One stage on the page."""

    number: int
    words: str
    rows: tuple[Teaching, ...]
    distilled: bool


@dataclass(frozen=True)
class Section:
    """Everything about the universal model on the page."""

    lead: str
    support: str
    tiles: tuple[tuple[str, str], ...]
    how: str
    stages: tuple[StageTable, ...]
    losses: Chart | None


def describe_universal(results: Results) -> Section | None:
    """All of it; None where a run has no universal model."""
    record = results.universal
    if record is None:
        return None
    rows = headline(results).rows
    scores = {
        site: tuple(row[arm].score if arm in row else None for arm in (BEFORE, UNIVERSAL))
        for site, row in rows.items()
    }
    pairs = {
        site: (before, after)
        for site, (before, after) in scores.items()
        if before is not None and after is not None
    }

    def table(stage: Stage) -> StageTable:
        taught = tuple(
            Teaching(each, *scores.get(each.site, (None, None))) for each in stage.taught
        )
        return StageTable(
            stage.number,
            _tell_stage(stage, record),
            taught,
            any(each.trust is not None for each in stage.taught),
        )

    return Section(
        lead=_lead(pairs),
        support=_support(results, record, pairs),
        tiles=_tiles(pairs, record),
        how=_tell_how(record),
        stages=tuple(map(table, record.stages)),
        losses=draw_losses(record.stages),
    )


def draw_losses(stages: tuple[Stage, ...]) -> Chart | None:
    """The loss of every stage's distillation over its steps; None where nothing was distilled."""
    found = [stage for stage in stages if stage.losses]
    if not found:
        return None
    values = [value for stage in found for value in stage.losses]
    marks, most = ticks(min(values), max(values)), max(stage.steps for stage in found)
    plane = Plane(0, most, marks[0], marks[-1])

    def path(stage: Stage) -> str:
        each = stage.steps / len(stage.losses)
        return plane.path((1 + place * each, value) for place, value in enumerate(stage.losses))

    places = spread([plane.y(stage.losses[-1]) for stage in found])
    colours = [FEDERATED_COLOURS[number % len(FEDERATED_COLOURS)] for number in range(len(found))]
    lines = [
        Line(f"stage {stage.number}", colour, "none", path(stage), (), (), place)
        for stage, colour, place in zip(found, colours, places, strict=True)
    ]
    whole = [step for step in ticks(0, most) if 0 <= step <= most and step == int(step)]
    x_ticks = tuple((plane.x(step), f"{step:.0f}") for step in whole)
    return Chart(tuple(lines), x_ticks, tuple((plane.y(value), f"{value:.4g}") for value in marks))


def _lead(pairs: dict[str, tuple[float, float]]) -> str:
    """What came out, also when it did not help."""
    if not pairs:
        return "There are no scores yet of the universal model and of the encoder that it started from."
    before, after = (sum(pair[side] for pair in pairs.values()) / len(pairs) for side in (0, 1))
    gain = round(after, 3) - round(before, 3)
    better = sum(round(new, 3) > round(old, 3) for old, new in pairs.values())
    made = (
        "made no clear difference"
        if abs(gain) < NO_CLEAR_DIFFERENCE
        else "helped"
        if gain > 0
        else "did not help"
    )
    return (
        f"Sharing one encoder {made} in this run ({show_difference(gain)}): averaged over {plural(len(pairs), 'hospital')}, each with a "
        f"task of its own, it scores {show(after)}, against {show(before)} for the encoder that it started from. It scores higher at "
        f"{better} of {len(pairs)}."
    )


def _support(results: Results, record: Record, pairs: dict[str, tuple[float, float]]) -> str:
    """The result in proportion."""
    worse = [
        f"{site} ({show_difference(round(new, 3) - round(old, 3))})"
        for site, (old, new) in pairs.items()
        if show(new) < show(old)
    ]
    words = [f"It did worse at {join_words(worse)}." if worse else ""]
    done = sum(stage.seconds is not None or not stage.taught for stage in record.stages)
    words.append(f"{done} of {record.planned} stages are done." if done < record.planned else "")
    words.append(
        "Scores of different tasks mean different things, so that the mean is only good for comparing encoders."
        if pairs
        else ""
    )
    words.append(NO_TEST_YET if pairs and headline(results).source == "validate" else "")
    return " ".join(filter(None, [*words, ONE_RUN]))


def _tiles(pairs: dict[str, tuple[float, float]], record: Record) -> tuple[tuple[str, str], ...]:
    """The few numbers on top."""
    teachers = {each.site for stage in record.stages for each in stage.taught}
    tasks = {each.task for stage in record.stages for each in stage.taught}
    found = [
        (str(len(teachers)), f"hospitals taught it, with {plural(len(tasks), 'kind')} of task")
    ]
    if pairs:
        better = sum(round(new, 3) > round(old, 3) for old, new in pairs.values())
        found.append(
            (f"{better} of {len(pairs)}", "hospitals better off than with the encoder before")
        )
    return tuple(found)


def _tell_how(record: Record) -> str:
    """How hospitals' encoders became one."""
    if record.combine != "distillation":
        return f"After each stage the hospitals' encoders were merged into one by the rule {record.combine}; no public images were needed."
    images = (
        f"{record.public_images} unlabelled" if record.public_images is not None else "unlabelled"
    )
    return (
        f"After each stage one encoder learned, on {images} images of the coordinator's, what the hospitals' encoders say of them. "
        "Weight is how much a hospital's encoder counted on these images on average (those unlike its own count less), trust how much it "
        "counted at all."
    )


def _tell_stage(stage: Stage, record: Record) -> str:
    if not stage.taught:
        return "Nobody contributed, and the encoder stayed as it was."
    words = [f"{plural(len(stage.taught), 'hospital')} contributed"]
    words += [f"in {show_seconds(stage.waited_s)}"] if stage.waited_s is not None else []
    how = "distilling" if record.combine == "distillation" else "merging"
    made = (
        f"; {how} took {show_seconds(stage.seconds)}."
        if stage.seconds is not None
        else "; no encoder has come of it yet."
    )
    return " ".join(words) + made
