"""The part of a report about an evaluation: the models, and how they compare case by case."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from polyclinic.reporting.formats import plural, show_difference, show_range, show_score
from polyclinic.reporting.measured.standing import Standing, find_standings
from polyclinic.reporting.results import Results
from polyclinic.reporting.section import Pointer, Section, Summary
from polyclinic.reporting.tables import fit, make_table
from polyclinic_strategies.evaluation.report.comparisons import Pair, find_pairs
from polyclinic_strategies.evaluation.state import PART, EvaluationState

TEMPLATES = Path(__file__).parent / "templates"
PROCEDURE = (
    "Nothing was trained. Every hospital scored every model on its own labelled test cases, or on "
    "its validation cases where it has no test cases. Cases and their scores stayed there.",
    "Two models are compared case by case at the hospital. Only the mean difference, its interval "
    "and the number of cases leave it.",
)
PARTICIPATION = (Pointer("Every hospital scored the models once. There are no rounds."),)


def make_section(results: Results) -> Section | None:
    """Make the section of a run that evaluated models; None of any other run."""
    state = results.part(PART, EvaluationState)
    if state is None:
        return None
    pairs, standings = find_pairs(results), find_standings(results)
    table = pair_table(pairs, results.run.score_name)
    return Section(
        TEMPLATES / "evaluation.html.j2",
        {"state": state, "pairs": pairs, "score_name": results.run.score_name},
        summary=summarize(standings, results.run.score_name),
        kinds={each.name: each.network for each in state.models},
        tables=(table,) if table else (),
        participation=PARTICIPATION,
        procedure=PROCEDURE,
        trains=False,
    )


def summarize(standings: Sequence[Standing], score_name: str) -> Summary:
    """Say how the model with the best worst hospital does."""
    if not standings:
        return Summary("No hospital has scored a model yet.")
    best = max(standings, key=lambda each: (each.score, each.mean))
    lead = (
        f"At its worst hospital, {best.worst}, {best.arm.title} reaches a {score_name} of "
        f"{show_score(best.score)}"
    )
    lead += f", {show_score(best.gap)} below the best one." if best.gap is not None else "."
    lead += f" The mean over {plural(best.hospitals, 'hospital')} is {show_score(best.mean)}."
    others = "No other evaluated model has a better worst hospital." if len(standings) > 1 else ""
    tiles = tuple(
        (show_score(each.score), f"{each.arm.title} at {each.worst}, its worst hospital")
        for each in standings[:4]
    )
    return Summary(lead, others, tiles)


def pair_table(pairs: Sequence[Pair], score_name: str) -> Table | None:
    """Make the table of comparisons for the terminal; None of one model."""
    if not pairs:
        return None
    table = make_table(
        f"Difference of {score_name}, case by case",
        ("model", "less"),
        ("difference", "95 % interval", "cases", ""),
        caption="over the cases of all hospitals",
        fold=True,
    )
    for each in pairs:
        pooled = each.pooled
        figures = (
            show_difference(pooled.value), show_range(pooled.low, pooled.high), str(pooled.n)
        )  # fmt: skip
        table.add_row(*map(Text, (each.model, each.other, *figures, each.verdict)))
    return fit(table)
