"""Tables about a deformation proxy for the terminal."""

from pathlib import Path

from rich.table import Table
from rich.text import Text

from polyclinic.reporting.formats import (
    EN_DASH,
    join_words,
    show_difference,
    show_mm,
    show_score,
    show_share,
)
from polyclinic.reporting.tables import fit, make_table
from polyclinic_strategies.proxy.report.narrative import (
    AUC_LIMIT,
    GUESSING,
    MISSED,
    find_proxy,
    find_targets,
    tell_result,
)
from polyclinic_strategies.proxy.report.page import compare_attackers, compare_dice, find_scored
from polyclinic_strategies.proxy.report.state import (
    MEAN,
    ORIGINALS,
    ProxyState,
    highest,
    read_proxy,
    strongest,
)


def proxy_tables(out: Path) -> list[Table]:
    """Make the tables of warps, attackers, and Dice by class; empty tables are left out.

    Raises:
        RunError: The folder has no readable proxy.json.
    """
    state = read_proxy(out)
    tables = (_warps_table(state), _attackers_table(state), _dice_table(state))
    return [fit(table) for table in tables if table.row_count]


def _warps_table(state: ProxyState) -> Table:
    missed = [target.what for target in find_targets(state) if target.verdict == MISSED]
    table = make_table(
        "what a proxy costs and hides",
        [""],
        ("Dice", "AUC", "highest", "rank 1", "moved", "folded"),
        caption=f"MISSED: {join_words(missed)}" if missed else tell_result(state),
    )
    direct = state.direct.dice
    if direct and not any(warp.name == ORIGINALS and warp.dice for warp in state.warps):
        table.add_row("without a proxy", show_score(direct.get(MEAN)), *[EN_DASH] * 5)
    for warp in state.warps:
        top, best = strongest(warp.attacks), highest(warp.attacks)
        auc, most, rank1 = (top.auc, best[1].auc, top.rank1) if top and best else (None, None, None)
        cells = (
            warp.title,
            show_score(warp.dice.get(MEAN)),
            show_score(auc),
            show_score(most),
            show_share(rank1),
            show_mm(warp.strength_mm),
            show_share(warp.folded),
        )
        style = "bold" if warp is find_proxy(state) else ""
        table.add_row(*(Text(cell, style=style) for cell in cells))
    return table


def _attackers_table(state: ProxyState) -> Table:
    tested = [warp for warp in state.warps if warp.attacks]
    table = make_table(
        f"AUC of each attacker, mean and in brackets the highest restart; {GUESSING} is guessing, "
        f"{AUC_LIMIT:.2f} the limit",
        ["attacker"],
        [warp.title for warp in tested],
        fold=True,
    )
    for row in compare_attackers([warp.attacks for warp in tested]):
        cells = [
            f"{cell.attack.auc:.3f} ({cell.attack.best.auc:.3f})" if cell else EN_DASH
            for cell in row.cells
        ]
        table.add_row(*map(Text, (row.name, *cells)))
    return table


def _dice_table(state: ProxyState) -> Table:
    table = make_table(
        "Dice of each class; in brackets the difference to that without a proxy",
        ["class"],
        ["without a proxy", *(warp.title for warp in find_scored(state))],
        fold=True,
    )
    for row in compare_dice(state):
        cells = [
            show_score(score) + (f" ({show_difference(apart)})" if apart is not None else "")
            for score, apart in row.cells
        ]
        table.add_row(*map(Text, (row.label, show_score(row.direct), *cells)))
    return table
