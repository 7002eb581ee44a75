"""One self-contained page about a deformation proxy: what it hides from whom, and what it costs; the same in short for the terminal.

The page loads nothing and runs nothing, as that of `polyclinic_server.reports.page`, whose look it has.
"""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from polyclinic.reporting.page import PNG, TERMINAL_WIDTH, make_environment, write_page
from polyclinic.reporting.summary import EN_DASH, join_words, show, show_date, show_difference
from polyclinic_strategies.proxy.report.charts import draw_curve, draw_losses, find_styles
from polyclinic_strategies.proxy.report.interpretation import tell_limits, tell_meaning
from polyclinic_strategies.proxy.report.narrative import (
    AUC_LIMIT,
    GUESSING,
    MISSED,
    find_gaps,
    find_proxy,
    find_targets,
    find_tiles,
    show_interval,
    show_share,
    tell_best,
    tell_price,
    tell_result,
)
from polyclinic_strategies.proxy.report.record import (
    MEAN,
    ORIGINALS,
    Arm,
    Attack,
    ProxyRun,
    highest,
    read_proxy,
    strongest,
)

TEMPLATES = Path(__file__).parent / "templates"

ATTACKERS = {
    "Siamese, proxy and proxy": "a network that learned whether two proxies show the same person",
    "Siamese, several keys averaged": "the same, given several proxies of each scan",
    "Siamese, proxy and original": "a network that looks for a proxy's person among original images",
    "registration to the atlas, its field": "lays the reference brain over a proxy, and compares how it had to be bent",
    "registration, several keys averaged": "the same, given several proxies of each scan",
    "nearest original after registration": "undoes what it can by registration, then looks among original images",
    "histogram and texture": "ignores shape: brightness, edges and contrast alone",
}


@dataclass(frozen=True)
class Tried:
    """One attacker on one arm, and how dark its field is."""

    attack: Attack
    tint: str


@dataclass(frozen=True)
class AttackerRow:
    """One attacker on every arm; None where it was not tried."""

    name: str
    what: str
    cells: tuple[Tried | None, ...]


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI."""

    source: str
    title: str


@dataclass(frozen=True)
class DiceRow:
    """A class: directly, and through every proxy with the difference."""

    label: str
    direct: float | None
    cells: tuple[tuple[float | None, float | None], ...]


def write_proxy_report(out: Path) -> Path:
    """Write report.html into the folder that a proxy's training wrote, all of it or nothing, and return its path.

    Raises:
        RunError: The folder has no readable proxy.json, or cannot be written to.
    """
    return write_page(out, render(read_proxy(out)))


def render(run: ProxyRun) -> str:
    """The page as text."""
    environment = make_environment(TEMPLATES)
    environment.filters |= {"score": show, "difference": show_difference, "share": show_share}
    environment.globals["interval"] = show_interval
    tested = [arm for arm in run.arms if arm.attacks]
    targets = find_targets(run)
    return environment.get_template("proxy.html.j2").render(
        run=run,
        facts=_facts(run),
        gaps=join_words(find_gaps(run)),
        missed=[target for target in targets if target.verdict == MISSED],
        targets=targets,
        lead=tell_result(run),
        support=tell_price(run),
        tiles=find_tiles(run),
        meaning=tell_meaning(run),
        limits=tell_limits(run),
        pictures=read_pictures(run),
        tested=tested,
        rows=compare_attackers([arm.attacks for arm in tested]),
        tops=[(strongest(arm.attacks), highest(arm.attacks)) for arm in tested],
        people=max(
            (
                attempt.people or 0
                for arm in tested
                for attack in arm.attacks
                for attempt in attack.attempts
            ),
            default=0,
        ),
        extras=[
            (extra, compare_attackers([extra.attacks]), tell_best(extra.attacks))
            for extra in run.extras
        ],
        curve=draw_curve(run),
        losses=draw_losses(run),
        styles=find_styles(run),
        scored=find_scored(run),
        dice=compare_dice(run),
    )


def compare_attackers(columns: Sequence[Sequence[Attack]]) -> tuple[AttackerRow, ...]:
    """Every attacker that was tried anywhere, in the order of its first column."""
    names = dict.fromkeys(attack.name for column in columns for attack in column)
    found = [{attack.name: attack for attack in column} for column in columns]
    return tuple(
        AttackerRow(
            name,
            ATTACKERS.get(name, ""),
            tuple(
                Tried(each[name], tint(each[name].auc)) if name in each else None for each in found
            ),
        )
        for name in names
    )


def tint(auc: float) -> str:
    """White is guessing, the deepest orange certainty."""
    share = min(max((auc - GUESSING) / (1 - GUESSING), 0.0), 1.0)
    return f"rgba(213,94,0,{0.5 * share:.2f})"


def find_scored(run: ProxyRun) -> list[Arm]:
    """The arms through which images were segmented; originals are what these are compared with."""
    return [arm for arm in run.arms if arm.dice and arm.name != ORIGINALS]


def compare_dice(run: ProxyRun) -> tuple[DiceRow, ...]:
    """The classes in the order of their labels, the mean last."""
    arms = find_scored(run)
    seen = dict.fromkeys([*run.labels, *run.direct, *(label for arm in arms for label in arm.dice)])
    known = [
        label
        for label in seen
        if label != MEAN and (label in run.direct or any(label in arm.dice for arm in arms))
    ]
    rows = []
    for label in [*known, *([MEAN] if MEAN in seen else [])]:
        direct = run.direct.get(label)
        scores = [arm.dice.get(label) for arm in arms]
        apart = [
            None if score is None or direct is None else round(score, 3) - round(direct, 3)
            for score in scores
        ]
        rows.append(DiceRow(label, direct, tuple(zip(scores, apart, strict=True))))
    return tuple(rows)


def read_pictures(run: ProxyRun) -> tuple[Picture, ...]:
    """Those that are there. The folder is listed rather than joined with names, so a name can lead nowhere else."""
    folder = run.folder / "pictures"
    files = (
        {
            file.name: file
            for file in folder.glob("*.png")
            if file.is_file() and not file.is_symlink()
        }
        if folder.is_dir()
        else {}
    )
    found = []
    for name, title in run.pictures:
        content = files[name].read_bytes() if name in files else b""
        if content.startswith(PNG):
            found.append(Picture(f"data:image/png;base64,{b64encode(content).decode()}", title))
    return tuple(found)


def proxy_tables(out: Path) -> list[Table]:
    """Arms, attackers, and Dice by class, at most 100 columns wide each; those without any figure are left out.

    Raises:
        RunError: The folder has no readable proxy.json.
    """
    run = read_proxy(out)
    return [
        _fit(table)
        for table in (_arms_table(run), _attackers_table(run), _dice_table(run))
        if table.row_count
    ]


def _arms_table(run: ProxyRun) -> Table:
    missed = [target.what for target in find_targets(run) if target.verdict == MISSED]
    table = Table(
        title=Text("what a proxy costs and hides"),
        caption=Text(f"MISSED: {join_words(missed)}" if missed else tell_result(run)),
    )
    table.add_column("", overflow="fold")
    for head in ("Dice", "AUC", "highest", "rank 1", "moved", "folded"):
        table.add_column(head, justify="right")
    if run.direct and not any(arm.name == ORIGINALS and arm.dice for arm in run.arms):
        table.add_row("without a proxy", show(run.direct.get(MEAN)), *[EN_DASH] * 5)
    for arm in run.arms:
        top, best = strongest(arm.attacks), highest(arm.attacks)
        moved = EN_DASH if arm.strength_mm is None else f"{arm.strength_mm:.1f} mm"
        style = "bold" if arm is find_proxy(run) else ""
        auc, most, rank1 = (top.auc, best[1].auc, top.rank1) if top and best else (None, None, None)
        shown = (
            show(arm.dice.get(MEAN)),
            show(auc),
            show(most),
            show_share(rank1),
            moved,
            show_share(arm.folded),
        )
        table.add_row(*(Text(cell, style=style) for cell in (arm.title, *shown)))
    return table


def _attackers_table(run: ProxyRun) -> Table:
    tested = [arm for arm in run.arms if arm.attacks]
    table = Table(
        title=Text(
            f"AUC of each attacker, mean and in brackets the highest restart; {GUESSING} is guessing, {AUC_LIMIT:.2f} the limit"
        )
    )
    table.add_column("attacker", overflow="fold")
    for arm in tested:
        table.add_column(Text(arm.title), justify="right", overflow="fold")
    for row in compare_attackers([arm.attacks for arm in tested]):
        cells = [
            f"{cell.attack.auc:.3f} ({cell.attack.best.auc:.3f})" if cell else EN_DASH
            for cell in row.cells
        ]
        table.add_row(Text(row.name), *map(Text, cells))
    return table


def _dice_table(run: ProxyRun) -> Table:
    arms = find_scored(run)
    table = Table(
        title=Text("Dice of each class; in brackets the difference to that without a proxy")
    )
    for head in ("class", "without a proxy", *(arm.title for arm in arms)):
        table.add_column(
            Text(head), justify="left" if head == "class" else "right", overflow="fold"
        )
    for row in compare_dice(run):
        cells = [
            show(score) + (f" ({show_difference(apart)})" if apart is not None else "")
            for score, apart in row.cells
        ]
        table.add_row(*map(Text, (row.label, show(row.direct), *cells)))
    return table


def _fit(table: Table) -> Table:
    if Console(width=10 * TERMINAL_WIDTH).measure(table).maximum > TERMINAL_WIDTH:
        table.width = TERMINAL_WIDTH
    return table


def _facts(run: ProxyRun) -> list[str]:
    """What stands under the title."""
    facts = [f"{many} people for {role}" for role, many in run.people.items()]
    facts += [f"{run.visits} visits each"] if run.visits else []
    facts += [f"{' x '.join(map(str, run.shape))} voxels"] if run.shape else []
    try:
        facts += (
            [show_date(datetime.fromtimestamp(run.date, UTC).isoformat(timespec="minutes"))]
            if run.date is not None
            else []
        )
    except (OverflowError, ValueError, OSError):
        facts += ["at an unknown time"]
    if run.seconds is not None:
        facts.append(
            f"took {run.seconds / 60:.0f} minutes"
            if run.seconds >= 120
            else f"took {run.seconds:.0f} s"
        )
    return facts
