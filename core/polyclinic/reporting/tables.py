"""Tables for the terminal. Names are Text, not markup: a hospital's name cannot style a table."""

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from polyclinic.reporting.formats import show_difference, show_score
from polyclinic.reporting.results import Results
from polyclinic.reporting.scores import Cell, ScoreTable, by_label, headline
from polyclinic.reporting.section import make_sections

WIDTH = 100  # columns: what any terminal shows
WIDE = 1000  # columns: more than a table ever needs


def make_table(
    title: str,
    names: Iterable[str],
    figures: Iterable[str],
    *,
    caption: str = "",
    fold: bool = False,
) -> Table:
    """Make an empty table with some columns of names and some of figures.

    Args:
        title: Above it.
        names: Heads of the columns of names.
        figures: Heads of the columns of figures.
        caption: Under it.
        fold: Whether figures that do not fit are folded; else their end is left out.
    """
    table = Table(title=Text(title), caption=Text(caption) if caption else None)
    for head in names:
        table.add_column(Text(head), overflow="fold")
    for head in figures:
        table.add_column(Text(head), justify="right", overflow="fold" if fold else "ellipsis")
    return table


def fit(table: Table) -> Table:
    """Fold what does not fit into `WIDTH` columns."""
    if Console(width=WIDE).measure(table).maximum > WIDTH:
        table.width = WIDTH
    return table


def show_cell(cell: Cell) -> str:
    """Write a score with its difference in brackets."""
    difference = "" if cell.difference is None else f" ({show_difference(cell.difference)})"
    return show_score(cell.score) + difference


def terminal_tables(results: Results) -> list[Table]:
    """Make the tables that end a run: scores, and what methods add, or put in their place."""
    sections = make_sections(results)
    own = [] if any(section.leads for section in sections) else [terminal_table(results)]
    return own + [table for section in sections for table in section.tables]


def terminal_table(results: Results) -> Table:
    """Make the table of mean scores, at most `WIDTH` columns wide."""
    table = headline(results)
    lines = [([site], row) for site, row in table.rows.items()]
    return _score_table(results, table, ["hospital"], [*lines, (["mean"], table.mean)])


def terminal_label_table(results: Results) -> Table:
    """Make the table of scores by class, at most `WIDTH` columns wide."""
    tables, table = by_label(results), headline(results)
    lines = [([site, label], tables[label].rows[site]) for site in table.rows for label in tables]
    lines += [(["mean", label], tables[label].mean) for label in tables]
    return _score_table(results, table, ["hospital", "class"], lines)


def _score_table(
    results: Results,
    table: ScoreTable,
    heads: Sequence[str],
    lines: Sequence[tuple[list[str], Mapping[str, Cell]]],
) -> Table:
    images = "test images" if table.source == "test" else "validation images, no test yet"
    arms = [arm for arm in results.arms if any(row[arm.name].score is not None for _, row in lines)]
    drawn = make_table(
        f"{results.run.score_name} on {images}; in brackets the difference to local",
        heads,
        [arm.title for arm in arms],
        caption="bold: best federated arm of the row",
    )
    first = [names[0] for names, _ in lines]
    for (names, row), after in zip(lines, [*first[1:], ""], strict=False):
        ends = after != names[0]
        cells = (
            Text(show_cell(row[arm.name]), style="bold" if row[arm.name].best else "")
            for arm in arms
        )
        section = (after == "mean" and ends) or (len(heads) > 1 and ends)
        drawn.add_row(*map(Text, names), *cells, end_section=section)
    return fit(drawn)
