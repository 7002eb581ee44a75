"""The part of a report about merging: what happened, what it is worth, and who was refused.

Every figure has a sentence after it that says what came out, also when merging is worse.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from polyclinic.reporting.formats import plural, show_difference, show_percent, show_score
from polyclinic.reporting.results import Arm, Results
from polyclinic.reporting.section import ArmNote, Pointer, Section
from polyclinic.reporting.tables import fit, make_table
from polyclinic_strategies.merging.events import Contributed
from polyclinic_strategies.merging.report.arrival_chart import (
    ArrivalChart,
    Level,
    draw_arrivals,
    find_levels,
    find_steps,
)
from polyclinic_strategies.merging.report.narrative import (
    SUBJECT,
    tell_arrivals,
    tell_development,
    tell_place,
    tell_procedure,
    tell_restoration,
    tell_result,
    tell_travels,
    tell_worth,
)
from polyclinic_strategies.merging.report.notices import Notice, find_missing, find_notices
from polyclinic_strategies.merging.report.standings import MergingFigures, Travel, compare
from polyclinic_strategies.merging.report.timeline import Timeline, draw_timeline
from polyclinic_strategies.merging.report.timeline_events import tell_story

METHOD = "merging"
TEMPLATES = Path(__file__).parent / "templates"
ROLES = {
    "published": "published",
    "rule": "other rule",
    "single": "single hospital",
    "singles": "single hospitals",
    "control": "control",
    "reference": "reference",
}
PROCEDURE = (
    "For merging every hospital trains by itself, for as long as the configuration says, from the "
    "base or, if the run is so configured, from a model that was published before. It sends once "
    "how its model differs from that start. The coordinator combines these differences by a rule. "
    "Images do not move.",
)

TintedRow = tuple[Travel, tuple[tuple[float | None, str], ...]]


@dataclass(frozen=True)
class ArmReport:
    """One merging arm on the page; figures that nothing was measured for are None or empty."""

    arm: Arm
    procedure: str
    timeline: Timeline | None
    happened: str
    chart: ArrivalChart | None
    levels: tuple[Level, ...]
    developed: str
    figures: MergingFigures
    worth: tuple[str, ...]
    how_restored: str
    restored: str
    heat: tuple[TintedRow, ...]
    travelled: str
    notices: tuple[Notice, ...]


def make_section(results: Results) -> Section | None:
    """Make the section; None where no hospital contributed to merging."""
    reports = [report_arm(results, arm) for arm in results.arms if arm.kind == METHOD]
    if not reports:
        return None
    return Section(
        template=TEMPLATES / "merging.html.j2",
        values={"reports": reports, "roles": ROLES},
        css=TEMPLATES / "merging.css",
        arms={report.arm.name: note_arm(report.figures) for report in reports},
        tables=tuple(
            terminal_table(report.figures, results.run.score_name)
            for report in reports[:1]
            if report.figures.published.mean is not None
        ),
        participation=tuple(
            Pointer(
                f"{report.arm.title} has no rounds. Its timeline shows who was online and when "
                "contributions arrived.",
                f"arrivals-{number}",
            )
            for number, report in enumerate(reports, start=1)
        ),
        procedure=PROCEDURE,
    )


def report_arm(results: Results, arm: Arm) -> ArmReport:
    """Collect what the page shows of one merging arm."""
    story = tell_story(results, arm)
    steps, levels = find_steps(results, arm, story), find_levels(results, arm)
    figures = compare(results, arm, story.rule if story else "")
    entries = results.run.comparison.entries if results.run.comparison else ()
    restored = [each.note for each in entries if each.group in ("restored", "unrestored")]
    heirs = {
        event.site
        for event in results.events
        if isinstance(event, Contributed) and event.arm == arm.name and event.start
    }
    return ArmReport(
        arm=arm,
        procedure=tell_procedure(len(heirs)),
        timeline=draw_timeline(story) if story and story.presence else None,
        happened=tell_arrivals(story) if story else "",
        chart=draw_arrivals(arm, steps, levels, results.arms),
        levels=levels,
        developed=tell_development(steps, levels),
        figures=figures,
        worth=tell_worth(figures, results.run.score_name),
        how_restored=restored[0] if restored else "",
        restored=tell_restoration(figures.restorations),
        heat=paint(figures.travels),
        travelled=tell_travels(results, figures.travels),
        notices=(*find_notices(story.marks if story else ()), *find_missing(results, arm)),
    )


def note_arm(figures: MergingFigures) -> ArmNote:
    """Say in the summary of the run what the best single hospital's model is beside it."""
    best, gain = figures.best, figures.published.difference
    caption = f"{figures.arm.title} beside {best.title}, the best single hospital" if best else ""
    tiles = ((show_difference(gain), caption),) if best and gain is not None else ()
    return ArmNote(SUBJECT, tell_result(figures), tell_place(figures), tiles)


def paint(travels: Sequence[Travel]) -> tuple[TintedRow, ...]:
    """Choose the background of every score: white is the lowest, the deepest blue the highest."""
    known = [score for travel in travels for score in travel.scores if score is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)

    def tint(score: float | None) -> str:
        share = 0.0 if score is None or high <= low else (score - low) / (high - low)
        return f"rgba(0,114,178,{0.55 * share:.2f})"

    return tuple(
        (travel, tuple((score, tint(score)) for score in travel.scores)) for travel in travels
    )


def terminal_table(figures: MergingFigures, score_name: str) -> Table:
    """Make the table of the rules side by side, for the terminal."""
    where = f"the test images of {plural(len(figures.averaged), 'hospital')}"
    scale = "recovery: 0 % is the best single hospital, 100 % is pooled"
    table = make_table(
        f"{figures.arm.title}: mean {score_name} on {where}",
        ("model", "what it is"),
        ("mean", "to best single", "recovery"),
        caption=f"no recovery: {figures.undefined}" if figures.undefined else scale,
    )
    for row in figures.standings:
        compared = row.difference is not None and row is not figures.best
        difference = show_difference(row.difference or 0.0) if compared else ""
        note = row.note if row.role in ("published", "rule") else ""
        what = ", ".join(filter(None, (ROLES[row.role], note)))
        cells = (row.title, what, show_score(row.mean), difference, show_percent(row.recovery))
        style = "bold" if row.role == "published" else ""
        table.add_row(*(Text(cell, style=style) for cell in cells))
    return fit(table)
