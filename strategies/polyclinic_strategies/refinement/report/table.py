"""Scores of a refinement run: hospitals that took part, and those that joined later with a description alone, never averaged together."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from rich.console import Console
from rich.table import Table
from rich.text import Text

from polyclinic.reporting.results import Arm, Cell, Results, score_table
from polyclinic.reporting.summary import join_words, plural, show, show_difference
from polyclinic_strategies.refinement.report.narrative import Gain, tell_lead
from polyclinic_strategies.refinement.report.record import CENTRE, REFINED

TERMINAL_WIDTH = 100
HEADS = {
    "local": "alone",
    "fedavg": "averaging",
    CENTRE: "merging",
    REFINED: "refined",
    "pooled": "pooled",
}
BASELINES = {"fedavg": "averaging", CENTRE: "one merged model for everybody"}
TOOK_PART, JOINED_LATER = "took part", "joined later with a description alone"


@dataclass(frozen=True)
class Row:
    """One hospital of the table, or a mean; the refined model's cell has the difference to the baseline."""

    name: str
    note: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Group:
    """Hospitals that are averaged together; the mean is None where no hospital has a score in every column."""

    title: str
    rows: tuple[Row, ...]
    mean: Row | None


def find_columns(results: Results) -> tuple[tuple[str, Arm], ...]:
    """Headings and arms of the table, from alone to pooled; arms without any score have none."""
    rows = score_table(results, None).rows
    scored = [
        arm for arm in results.arms if any(row[arm.name].score is not None for row in rows.values())
    ]
    others = [arm.name for arm in scored if arm.name not in HEADS]
    order = ["local", "fedavg", *others, CENTRE, REFINED, "pooled"]
    return tuple(
        (HEADS.get(arm.name, arm.title), arm)
        for arm in sorted(scored, key=lambda arm: order.index(arm.name))
    )


def find_baseline(results: Results) -> str:
    """The arm that refinement is compared with: averaging, or else the merged model; empty if neither has a score."""
    mean = score_table(results, None, leading(results)).mean
    return next((name for name in BASELINES if name in mean and mean[name].score is not None), "")


def make_groups(
    results: Results, columns: Sequence[tuple[str, Arm]], baseline: str, gone: Collection[str] = ()
) -> tuple[Group, ...]:
    """The two groups of hospitals, each with its own mean."""
    found = []
    hospitals = {hospital.name: hospital for hospital in results.hospitals}
    for title, sites in ((TOOK_PART, results.trained), (JOINED_LATER, results.later)):
        table = score_table(results, None, sites)
        rows = []
        for site in sites:
            hospital = hospitals[site]
            trained = (
                plural(hospital.training, "training image")
                if hospital.training and title == TOOK_PART
                else ""
            )
            note = " · ".join(
                filter(None, (hospital.modality, trained, "left later" if site in gone else ""))
            )
            rows.append(Row(site, note, _cells(table.rows[site], columns, baseline)))
        mean = Row("Mean", "", _cells(table.mean, columns, baseline)) if table.averaged else None
        if mean and len(table.averaged) < len(sites):
            mean = replace(mean, note=f"of {join_words(table.averaged)}")
        if rows:
            found.append(Group(title, tuple(rows), mean))
    return tuple(found)


def find_gains(results: Results, baseline: str, sites: Collection[str]) -> tuple[Gain, ...]:
    """Hospitals with a score of both models."""
    rows = score_table(results, None).rows
    found = []
    for site in sites:
        before, after = (
            rows[site][name].score if name in rows[site] else None for name in (baseline, REFINED)
        )
        if before is not None and after is not None:
            found.append(Gain(site, before, after))
    return tuple(found)


def leading(results: Results) -> tuple[str, ...]:
    """Whom the page is about: who joined later, unless none of them has a score of its refined model."""
    rows = score_table(results, None).rows
    scored = any(
        REFINED in rows[site] and rows[site][REFINED].score is not None for site in results.later
    )
    return results.later if scored else results.trained


def tell_result(results: Results, baseline: str) -> str:
    """The result in one sentence."""
    sites = leading(results)
    table = score_table(results, None, sites)
    later = sites == results.later
    before, after = (
        table.mean[name].score if name in table.mean else None for name in (baseline, REFINED)
    )
    counts = (len(table.averaged), 0) if later else (0, len(table.averaged))
    return tell_lead(results.score_name, *counts, before, after, BASELINES.get(baseline, ""))


def terminal_refinement_table(results: Results) -> Table | None:
    """Hospitals that took part and those that joined later, at most 100 columns wide; None where a run did not refine."""
    if results.refinement is None:
        return None
    columns, baseline = find_columns(results), find_baseline(results)
    source = (
        "test images"
        if score_table(results, None).source == "test"
        else "validation images, no test yet"
    )
    beside = f"; in brackets the difference to {BASELINES[baseline]}" if baseline else ""
    table = Table(
        title=Text(f"{results.score_name} on {source}{beside}"),
        caption=Text(tell_result(results, baseline)),
    )
    table.add_column("hospital", overflow="fold")
    for head, _ in columns:
        table.add_column(Text(head), justify="right")
    for group in make_groups(results, columns, baseline):
        table.add_row(Text(group.title, style="bold"))
        for row in (*group.rows, *filter(None, (group.mean,))):
            differences = (
                "" if cell.difference is None else f" ({show_difference(cell.difference)})"
                for cell in row.cells
            )
            cells = (
                Text(show(cell.score) + words)
                for cell, words in zip(row.cells, differences, strict=True)
            )
            table.add_row(Text(row.name.lower() if row is group.mean else row.name), *cells)
        table.add_section()
    if Console(width=10 * TERMINAL_WIDTH).measure(table).maximum > TERMINAL_WIDTH:
        table.width = TERMINAL_WIDTH
    return table


def _cells(
    row: Mapping[str, Cell], columns: Sequence[tuple[str, Arm]], baseline: str
) -> tuple[Cell, ...]:
    before = row[baseline].score if baseline else None
    found = []
    for _, arm in columns:
        score = row[arm.name].score
        compared = arm.name == REFINED and score is not None and before is not None
        found.append(
            Cell(
                score,
                round(round(score or 0.0, 3) - round(before or 0.0, 3), 3) if compared else None,
            )
        )
    return tuple(found)
