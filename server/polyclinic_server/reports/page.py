"""One self-contained HTML page about a run, for physicians and a hospital's board; the same tables for the terminal.

The page loads nothing: charts and pictures are inside it, and its own policy forbids scripts and every address. What
came from hospitals is escaped by the template.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from polyclinic.reporting import curves as charts
from polyclinic.reporting.page import PNG, TERMINAL_WIDTH, make_environment, write_page
from polyclinic.reporting.results import Cell, Results, ScoreTable, by_label, headline, read_results
from polyclinic.reporting.summary import (
    SCORE_WORDS,
    show,
    show_date,
    show_difference,
    show_duration,
    show_recovery,
    show_rounds,
    summarize,
    tiles,
)
from polyclinic_server.reports.participation import absences, rosters
from polyclinic_strategies.merging.report import section as merging_section
from polyclinic_strategies.merging.report.section import ROLES, sections
from polyclinic_strategies.merging.report.timeline import show_span
from polyclinic_strategies.merging.report.timeline_events import read_events
from polyclinic_strategies.refinement.report import section as refinement_section
from polyclinic_strategies.refinement.report.narrative import list_bytes, show_bytes, show_seconds
from polyclinic_strategies.refinement.report.section import describe_refinement
from polyclinic_strategies.universal.report import section as universal_section
from polyclinic_strategies.universal.report.section import describe_universal

TEMPLATES = Path(__file__).parent / "templates"
METHOD_TEMPLATES = tuple(
    Path(str(module.__file__)).with_name("templates")
    for module in (merging_section, refinement_section, universal_section)
)


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI, and what is under it."""

    source: str
    title: str
    score: float | None = None
    name: str = ""


def write_report(run_folder: Path) -> Path:
    """Write report.html into a run's folder, all of it or nothing, and return its path.

    Raises:
        RunError: the folder has no readable run.json, or cannot be written to.
    """
    return write_page(run_folder, render(read_results(run_folder)))


def render(results: Results) -> str:
    """The page as text."""
    environment = make_environment(TEMPLATES, *METHOD_TEMPLATES)
    words = {
        "score": show,
        "difference": show_difference,
        "recovery": show_recovery,
        "date": show_date,
        "rounds": show_rounds,
    }
    environment.filters |= {
        **words,
        "bytes": show_bytes,
        "seconds": show_seconds,
        "span": show_span,
        "each_bytes": list_bytes,
    }
    table = headline(results)
    gallery = read_pictures(results, table)
    pictured = {site: [picture.name for picture in pictures] for site, pictures in gallery.items()}
    refinement = describe_refinement(
        results, read_events(results.folder) if results.refinement else (), pictured
    )
    universal = describe_universal(results)
    return environment.get_template("report.html.j2").render(
        results=results,
        table=table,
        labels=by_label(results),
        later_labels=by_label(results, results.later),
        summary=summarize(results),
        tiles=universal.tiles if universal else tiles(results),
        universal=universal,
        score_words=SCORE_WORDS.get(results.score_name, ""),
        plots=[
            (
                f"{results.score_name} on validation images, higher is better",
                _chart(results, "score"),
            ),
            ("Training loss, lower is better", _chart(results, "loss")),
        ],
        styles=charts.styles(results.arms),
        gallery=gallery,
        colours=read_legend(results) if gallery else {},
        rosters=rosters(results),
        absences=absences(results),
        merging=sections(results),
        roles=ROLES,
        refinement=refinement,
        in_rounds=has_rounds(results),
        duration=show_duration(results.started, results.finished),
        test_images=sum(
            hospital.test or 0 for hospital in results.hospitals if hospital.name in results.trained
        ),
    )


def has_rounds(results: Results) -> bool:
    """Whether anything was, or will be, trained in rounds: a run may have merging arms and their references alone."""
    if all(arm.has_rounds for arm in results.arms):
        return True
    return any(arm.federated and arm.has_rounds for arm in results.arms) or any(
        m.phase == "train" for m in results.metrics
    )


def _chart(results: Results, quantity: str) -> charts.Chart | None:
    found = (
        charts.curves(results, "train", "loss")
        if quantity == "loss"
        else charts.curves(results, "validate", "score")
    )
    return charts.draw(found, results.arms)


def read_pictures(results: Results, table: ScoreTable) -> dict[str, list[Picture]]:
    """Image, truth and one prediction per arm of every hospital that has a folder under pictures/.

    The folders are listed rather than joined from the hospitals' names, so a name can lead nowhere else.
    """
    root = results.folder / "pictures"
    folders = (
        {folder.name: folder for folder in root.iterdir() if folder.is_dir()}
        if root.is_dir()
        else {}
    )
    found = {}
    for hospital in results.hospitals:
        if hospital.name not in folders:
            continue
        wanted: list[tuple[str, str, float | None]] = [
            ("image", f"{hospital.modality} image".strip(), None),
            ("truth", "reference", None),
        ]
        wanted += [
            (arm.name, arm.title, table.rows[hospital.name][arm.name].score) for arm in results.arms
        ]
        files = {file.stem: file.read_bytes() for file in folders[hospital.name].glob("*.png")}
        pictures = [
            Picture(f"data:image/png;base64,{b64encode(files[stem]).decode()}", title, score, stem)
            for stem, title, score in wanted
            if files.get(stem, b"").startswith(PNG)
        ]
        if pictures:
            found[hospital.name] = pictures
    return found


def read_legend(results: Results) -> dict[str, str]:
    """The colour of every tissue in the pictures; empty where pictures show none."""
    if results.task != "segmentation":
        return {}
    from polyclinic.imaging.pictures import label_colours

    return label_colours(results.labels)


def terminal_table(results: Results) -> Table:
    """The headline table, at most 100 columns wide."""
    table = headline(results)
    lines = [([site], row) for site, row in table.rows.items()]
    return _terminal(results, table, ["hospital"], [*lines, (["mean"], table.mean)])


def terminal_label_table(results: Results) -> Table:
    """The same per tissue or class, at most 100 columns wide."""
    tables = by_label(results)
    table = headline(results)
    lines = [([site, label], tables[label].rows[site]) for site in table.rows for label in tables]
    lines += [(["mean", label], tables[label].mean) for label in tables]
    return _terminal(
        results,
        table,
        ["hospital", "class" if results.task == "classification" else "tissue"],
        lines,
    )


def _terminal(
    results: Results,
    table: ScoreTable,
    heads: Sequence[str],
    lines: Sequence[tuple[list[str], Mapping[str, Cell]]],
) -> Table:
    """Names are Text, not markup: a hospital's name cannot style the table."""
    images = "test images" if table.source == "test" else "validation images, no test yet"
    drawn = Table(
        title=Text(f"{results.score_name} on {images}; in brackets the difference to local"),
        caption=Text("bold: best federated arm of the row"),
    )
    for head in heads:
        drawn.add_column(head, overflow="fold")
    arms = [arm for arm in results.arms if any(row[arm.name].score is not None for _, row in lines)]
    for arm in arms:
        drawn.add_column(Text(arm.title), justify="right")
    for number, (names, row) in enumerate(lines):
        ends = number + 1 == len(lines) or lines[number + 1][0][0] != names[0]
        before_mean = number + 1 < len(lines) and lines[number + 1][0][0] == "mean" != names[0]
        section = before_mean or (len(heads) > 1 and ends)
        drawn.add_row(
            *map(Text, names), *(_terminal_cell(row[arm.name]) for arm in arms), end_section=section
        )
    if Console(width=10 * TERMINAL_WIDTH).measure(drawn).maximum > TERMINAL_WIDTH:
        drawn.width = TERMINAL_WIDTH
    return drawn


def _terminal_cell(cell: Cell) -> Text:
    difference = "" if cell.difference is None else f" ({show_difference(cell.difference)})"
    return Text(show(cell.score) + difference, style="bold" if cell.best else "")
