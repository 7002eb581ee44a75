"""The part of a report about merging whenever hospitals like: what happened, what it is worth, and who was refused.

Every figure has a sentence after it that says what came out, computed from the figure, also when merging is worse.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from polyclinic.reporting.curves import styles
from polyclinic.reporting.results import Arm, Results
from polyclinic.reporting.summary import plural, show, show_difference, show_recovery
from polyclinic_strategies.merging.report.arrival_chart import (
    ArrivalChart,
    Level,
    draw_arrivals,
    find_levels,
    find_steps,
)
from polyclinic_strategies.merging.report.narrative import (
    Notice,
    missing,
    notices,
    tell_arrivals,
    tell_development,
    tell_restoration,
    tell_travels,
    tell_worth,
)
from polyclinic_strategies.merging.report.standings import Figures, Travel, compare
from polyclinic_strategies.merging.report.timeline import Timeline, draw_timeline
from polyclinic_strategies.merging.report.timeline_events import (
    Publication,
    Story,
    read_events,
    tell_story,
)

TERMINAL_WIDTH = 100
ROLES = {
    "published": "published",
    "rule": "other rule",
    "single": "single hospital",
    "singles": "single hospitals",
    "control": "control",
    "reference": "reference",
}


@dataclass(frozen=True)
class Section:
    """One merging arm on the page; figures that nothing was measured for are None or empty."""

    arm: Arm
    colour: str
    timeline: Timeline | None
    happened: str
    chart: ArrivalChart | None
    levels: tuple[Level, ...]
    developed: str
    figures: Figures
    worth: tuple[str, ...]
    how_restored: str
    restored: str
    heat: tuple[tuple[Travel, tuple[tuple[float | None, str], ...]], ...]
    travelled: str
    notices: tuple[Notice, ...]


def sections(results: Results) -> tuple[Section, ...]:
    """One for each merging arm that the run has."""
    events = read_events(results.folder) if any(arm.merging for arm in results.arms) else ()
    found = []
    for arm in (arm for arm in results.arms if arm.merging):
        story = tell_story(events, results, arm)
        steps, levels = find_steps(results, arm, story), find_levels(results, arm)
        figures = compare(results, arm, describe_rule(story))
        otherwise = (
            [e.note for e in results.comparison.entries if e.group in ("restored", "unrestored")]
            if results.comparison
            else []
        )
        found.append(
            Section(
                arm=arm,
                colour=styles(results.arms)[arm.name][0],
                timeline=draw_timeline(story) if story and story.presence else None,
                happened=tell_arrivals(story) if story else "",
                chart=draw_arrivals(arm, steps, levels, results.arms),
                levels=levels,
                developed=tell_development(steps, levels),
                figures=figures,
                worth=tell_worth(figures, results.score_name),
                how_restored=otherwise[0] if otherwise else "",
                restored=tell_restoration(figures.restorations),
                heat=paint(figures.travels),
                travelled=tell_travels(results, figures.travels),
                notices=(*notices(story.marks if story else ()), *missing(results, arm)),
            )
        )
    return tuple(found)


def describe_rule(story: Story | None) -> str:
    """How the newest published model was merged, with the parameters that were chosen."""
    newest: Publication | None = story.publications[-1] if story and story.publications else None
    return ", ".join(filter(None, (newest.rule, newest.parameters))) if newest else ""


def paint(
    travels: Sequence[Travel],
) -> tuple[tuple[Travel, tuple[tuple[float | None, str], ...]], ...]:
    """Every score with its background: white is the lowest of the table, the deepest blue the highest."""
    known = [score for travel in travels for score in travel.scores if score is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)

    def tint(score: float | None) -> str:
        share = 0.0 if score is None or high <= low else (score - low) / (high - low)
        return f"rgba(0,114,178,{0.55 * share:.2f})"

    return tuple(
        (travel, tuple((score, tint(score)) for score in travel.scores)) for travel in travels
    )


def terminal_merging_table(results: Results) -> Table | None:
    """The rules side by side, at most 100 columns wide; None if no merging arm was tested."""
    arm = next((arm for arm in results.arms if arm.merging), None)
    figures = (
        compare(results, arm, describe_rule(tell_story(read_events(results.folder), results, arm)))
        if arm
        else None
    )
    if figures is None or figures.published.mean is None:
        return None
    table = Table(
        title=Text(
            f"{figures.arm.title}: mean {results.score_name} on the test images of {plural(len(figures.averaged), 'hospital')}"
        ),
        caption=Text(
            f"no recovery: {figures.undefined}"
            if figures.undefined
            else "recovery: 0 % is the best single hospital, 100 % is pooled"
        ),
    )
    for head in ("model", "what it is"):
        table.add_column(head, overflow="fold")
    for head in ("mean", "to best single", "recovery"):
        table.add_column(head, justify="right")
    for row in figures.standings:
        difference = (
            "" if row.difference is None or row is figures.best else show_difference(row.difference)
        )
        what = ", ".join(
            filter(None, (ROLES[row.role], row.note if row.role in ("published", "rule") else ""))
        )
        style = "bold" if row.role == "published" else ""
        cells = (row.title, what, show(row.mean), difference, show_recovery(row.recovery))
        table.add_row(*(Text(cell, style=style) for cell in cells))
    if Console(width=10 * TERMINAL_WIDTH).measure(table).maximum > TERMINAL_WIDTH:
        table.width = TERMINAL_WIDTH
    return table
