"""Scores of a refinement run.

Hospitals that took part and hospitals that joined later with a description alone are never averaged
together.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from rich.table import Table
from rich.text import Text

from polyclinic.reporting.formats import join_words, plural, subtract
from polyclinic.reporting.results import LOCAL, POOLED, Arm, Participant, Results
from polyclinic.reporting.scores import Cell, score_table
from polyclinic.reporting.tables import fit, make_table, show_cell
from polyclinic_strategies.refinement.report.narrative import Gain, tell_advice, tell_lead
from polyclinic_strategies.refinement.report.state import CENTRE, REFINED, read_state

AVERAGED = "fedavg"  # the arm of one averaged model for everybody
HEADS = {
    LOCAL: "alone",
    AVERAGED: "averaging",
    CENTRE: "merging",
    REFINED: "refined",
    POOLED: "pooled",
}
BASELINES = {AVERAGED: "averaging", CENTRE: "one merged model for everybody"}
TOOK_PART, JOINED_LATER = "took part", "joined later with a description alone"


@dataclass(frozen=True)
class ScoreRow:
    """One hospital of the table, or a mean.

    The refined model's cell has the difference from the baseline.
    """

    name: str
    note: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Group:
    """Hospitals that are averaged together; the mean is None where no hospital has every score."""

    title: str
    rows: tuple[ScoreRow, ...]
    mean: ScoreRow | None


def find_columns(results: Results) -> tuple[tuple[str, Arm], ...]:
    """Return headings and arms of the table, from alone to pooled.

    Arms without any score are left out.
    """
    table = score_table(results, None)
    scored = [
        arm
        for arm in results.arms
        if any(table.score(site, arm.name) is not None for site in table.rows)
    ]
    others = [arm.name for arm in scored if arm.name not in HEADS]
    order = [LOCAL, AVERAGED, *others, CENTRE, REFINED, POOLED]
    return tuple(
        (HEADS.get(arm.name, arm.title), arm)
        for arm in sorted(scored, key=lambda arm: order.index(arm.name))
    )


def find_baseline(results: Results) -> str:
    """Return the arm that refinement is compared with; empty if neither has a score.

    It is averaging, or else the merged model.
    """
    table = score_table(results, None, leading(results))
    return next((name for name in BASELINES if table.mean_score(name) is not None), "")


def make_groups(
    results: Results, columns: Sequence[tuple[str, Arm]], baseline: str, gone: Collection[str] = ()
) -> tuple[Group, ...]:
    """Make the two groups of hospitals, each with its own mean.

    Args:
        results: The run's.
        columns: Headings and arms.
        baseline: Arm that refinement is compared with.
        gone: Hospitals that left.
    """
    found = []
    for title, sites in ((TOOK_PART, results.trained), (JOINED_LATER, results.later)):
        table = score_table(results, None, sites)
        rows = tuple(
            ScoreRow(
                hospital.name,
                _note(hospital, hospital.name in gone),
                _cells(table.rows[hospital.name], columns, baseline),
            )
            for hospital in results.hospitals
            if hospital.name in sites
        )
        mean = None
        if table.averaged:
            mean = ScoreRow("Mean", "", _cells(table.mean, columns, baseline))
            if len(table.averaged) < len(sites):
                mean = replace(mean, note=f"of {join_words(table.averaged)}")
        if rows:
            found.append(Group(title, rows, mean))
    return tuple(found)


def find_gains(results: Results, baseline: str, sites: Collection[str]) -> tuple[Gain, ...]:
    """Find the hospitals with a score of both models."""
    table = score_table(results, None)
    pairs = [(site, table.score(site, baseline), table.score(site, REFINED)) for site in sites]
    return tuple(
        Gain(site, before, after)
        for site, before, after in pairs
        if before is not None and after is not None
    )


def leading(results: Results) -> tuple[str, ...]:
    """Return whom the page is about: who joined later, unless none of them has a refined score."""
    table = score_table(results, None)
    scored = any(table.score(site, REFINED) is not None for site in results.later)
    return results.later if scored else results.trained


def tell_result(results: Results, baseline: str) -> str:
    """Tell the result in one sentence."""
    sites = leading(results)
    table = score_table(results, None, sites)
    count = len(table.averaged)
    joined, trained = (count, 0) if sites == results.later else (0, count)
    before, after = table.mean_score(baseline), table.mean_score(REFINED)
    measure = results.run.score_name
    return tell_lead(measure, joined, trained, before, after, BASELINES.get(baseline, ""))


def advise(results: Results) -> str:
    """Advise averaging where the run's own figures say so; empty where they do not.

    Raises:
        RunError: The part of run.json about refinement is damaged.
    """
    state, baseline = read_state(results), find_baseline(results)
    gains = find_gains(results, baseline, [each.name for each in results.hospitals])
    choice = state.choice if state else None
    decisions = (choice.newcomers, choice.contributors) if choice else ()
    return tell_advice(gains, BASELINES.get(baseline, ""), decisions)


def terminal_table(results: Results) -> Table:
    """Make the table of both groups for the terminal."""
    columns, baseline = find_columns(results), find_baseline(results)
    tested = score_table(results, None).source == "test"
    source = "test images" if tested else "validation images, no test yet"
    beside = f"; in brackets the difference to {BASELINES[baseline]}" if baseline else ""
    table = make_table(
        f"{results.run.score_name} on {source}{beside}",
        ["hospital"],
        [head for head, _ in columns],
        caption=" ".join(filter(None, (tell_result(results, baseline), advise(results)))),
    )
    for group in make_groups(results, columns, baseline):
        table.add_row(Text(group.title, style="bold"))
        for row in (*group.rows, *filter(None, (group.mean,))):
            name = row.name.lower() if row is group.mean else row.name
            table.add_row(Text(name), *(Text(show_cell(cell)) for cell in row.cells))
        table.add_section()
    return fit(table)


def _note(hospital: Participant, gone: bool) -> str:
    trained = ""
    if hospital.training and not hospital.describes:
        trained = plural(hospital.training, "training image")
    return " · ".join(filter(None, (hospital.modality, trained, "left later" if gone else "")))


def _cells(
    row: Mapping[str, Cell], columns: Sequence[tuple[str, Arm]], baseline: str
) -> tuple[Cell, ...]:
    before = row[baseline].score if baseline else None
    found = []
    for _, arm in columns:
        score = row[arm.name].score
        compared = arm.name == REFINED and score is not None and before is not None
        difference = subtract(score, before) if compared else None  # type: ignore[arg-type]
        found.append(Cell(score, difference))
    return tuple(found)
