"""The worst hospital and the gap, in a terminal."""

from rich.table import Table
from rich.text import Text

from polyclinic.reporting.formats import show_range, show_score
from polyclinic.reporting.measured.standing import Standing, find_standings
from polyclinic.reporting.results import Results
from polyclinic.reporting.tables import fit, make_table

HEADS = ("model", "worst hospital")
FIGURES = ("score", "95 % interval", "cases", "gap to best", "mean")


def standing_table(results: Results) -> Table | None:
    """Make the table of the worst hospitals; None where no hospital told an interval."""
    found = find_standings(results)
    if not any(each.figure for each in found):
        return None
    table = make_table(
        f"{results.run.score_name} at the worst hospital",
        HEADS,
        FIGURES,
        caption="* fewer than ten cases: descriptive",
    )
    for each in found:
        table.add_row(*map(Text, (each.arm.title, each.worst, *_figures(each))))
    return fit(table)


def _figures(standing: Standing) -> tuple[str, ...]:
    figure = standing.figure
    few = "*" if standing.descriptive else ""
    return (
        f"{show_score(standing.score)}{few}",
        show_range(figure.low, figure.high) if figure else "",
        "" if standing.cases is None else str(standing.cases),
        show_score(standing.gap),
        show_score(standing.mean),
    )
