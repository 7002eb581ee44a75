"""One page about a deformation proxy: what it hides from whom, and what it costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from polyclinic.reporting.formats import join_words, show_date, subtract
from polyclinic.reporting.page import make_environment, write_page
from polyclinic.reporting.pictures import Picture, as_uri, read_folder
from polyclinic_strategies.proxy.report.charts import draw_curve, draw_losses, find_styles
from polyclinic_strategies.proxy.report.interpretation import tell_limits, tell_meaning
from polyclinic_strategies.proxy.report.narrative import (
    GUESSING,
    MISSED,
    find_gaps,
    find_targets,
    find_tiles,
    tell_best,
    tell_price,
    tell_result,
)
from polyclinic_strategies.proxy.report.state import (
    MEAN,
    ORIGINALS,
    Attack,
    ProxyState,
    WarpState,
    highest,
    read_proxy,
    strongest,
)

TEMPLATES = Path(__file__).parent / "templates"
LONG_S = 120.0  # a training that took longer is told in minutes

ATTACKERS = {
    "Siamese, proxy and proxy": "a network that learned whether two proxies show the same person",
    "Siamese, several keys averaged": "the same, given several proxies of each scan",
    "Siamese, proxy and original": (
        "a network that looks for a proxy's person among original images"
    ),
    "registration to the atlas, its field": (
        "lays the reference brain over a proxy, and compares how it had to be bent"
    ),
    "registration, several keys averaged": "the same, given several proxies of each scan",
    "nearest original after registration": (
        "undoes what it can by registration, then looks among original images"
    ),
    "histogram and texture": "ignores shape: brightness, edges and contrast alone",
    "Siamese, two visits averaged": "the first one, given proxies of all other visits",
    "Siamese, two visits and original": "looks among originals, given proxies of all other visits",
    "registration, two visits averaged": "compares how the atlas is bent, given all other visits",
    "nearest original, two visits averaged": (
        "what is left after registration, given proxies of all other visits"
    ),
    "similarities, proxy and proxy": (
        "learns no features: aligns, harmonizes, and compares by ten similarities"
    ),
    "similarities, proxy and original": "the same, among original images",
    "Siamese, returned labels": "a network that sees the true labels, warped like the proxy",
    "Siamese, patches of the finest voxels": "a network that sees patches at full resolution",
    "white box, keys drawn for each original": (
        "makes proxies of every original with the generator, by keys of its own"
    ),
    "white box, key read off the proxy": (
        "reads the key off a proxy, warps every original by it, and compares"
    ),
}


@dataclass(frozen=True)
class Tried:
    """One attacker on one warp, and the colour of its field."""

    attack: Attack
    tint: str


@dataclass(frozen=True)
class AttackerRow:
    """One attacker on every warp; None where it was not tried."""

    name: str
    what: str
    cells: tuple[Tried | None, ...]


@dataclass(frozen=True)
class DiceRow:
    """A class: directly, and through every proxy with the difference."""

    label: str
    direct: float | None
    cells: tuple[tuple[float | None, float | None], ...]


def write_proxy_report(out: Path) -> Path:
    """Write report.html into the folder that a proxy's training wrote, and return its path.

    Raises:
        RunError: The folder has no readable proxy.json, or cannot be written to.
    """
    return write_page(out, render(read_proxy(out), out))


def render(state: ProxyState, out: Path) -> str:
    """Make the page.

    Args:
        state: What proxy.json says.
        out: Folder with the pictures.
    """
    targets = find_targets(state)
    return (
        make_environment(TEMPLATES)
        .get_template("proxy.html.j2")
        .render(
            state=state,
            facts=_facts(state),
            gaps=join_words(find_gaps(state)),
            missed=[target for target in targets if target.verdict == MISSED],
            targets=targets,
            lead=tell_result(state),
            support=tell_price(state),
            tiles=find_tiles(state),
            meaning=tell_meaning(state),
            limits=tell_limits(state),
            pictures=read_pictures(state, out),
            extras=[
                (extra, compare_attackers([extra.attacks]), tell_best(extra.attacks))
                for extra in state.extras
            ],
            curve=draw_curve(state),
            losses=draw_losses(state),
            styles=find_styles(state),
            scored=find_scored(state),
            dice=compare_dice(state),
            **_compare_warps(state),
        )
    )


def _compare_warps(state: ProxyState) -> dict[str, object]:
    """Collect what the table of attackers shows."""
    tested = [warp for warp in state.warps if warp.attacks]
    attempts = (each for warp in tested for attack in warp.attacks for each in attack.attempts)
    return {
        "tested": tested,
        "rows": compare_attackers([warp.attacks for warp in tested]),
        "tops": [(strongest(warp.attacks), highest(warp.attacks)) for warp in tested],
        "people": max((attempt.people or 0 for attempt in attempts), default=0),
    }


def compare_attackers(columns: Sequence[Sequence[Attack]]) -> tuple[AttackerRow, ...]:
    """List every attacker that was tried anywhere, in the order of its first column."""
    names = dict.fromkeys(attack.name for column in columns for attack in column)
    found = [{attack.name: attack for attack in column} for column in columns]
    return tuple(
        AttackerRow(name, ATTACKERS.get(name, ""), tuple(_try(each.get(name)) for each in found))
        for name in names
    )


def _try(attack: Attack | None) -> Tried | None:
    return None if attack is None else Tried(attack, tint(attack.auc))


def tint(auc: float) -> str:
    """Choose a colour: white is guessing, the deepest orange certainty."""
    share = min(max((auc - GUESSING) / (1 - GUESSING), 0.0), 1.0)
    return f"rgba(213,94,0,{0.5 * share:.2f})"


def find_scored(state: ProxyState) -> list[WarpState]:
    """Find the warps through which images were segmented; originals are compared with."""
    return [warp for warp in state.warps if warp.dice and warp.name != ORIGINALS]


def compare_dice(state: ProxyState) -> tuple[DiceRow, ...]:
    """Compare the classes in the order of their labels, the mean last."""
    warps, direct = find_scored(state), state.direct.dice
    scored = {*direct, *(label for warp in warps for label in warp.dice)}
    ordered = dict.fromkeys(
        [*state.labels, *direct, *(label for warp in warps for label in warp.dice)]
    )
    known = [label for label in ordered if label != MEAN and label in scored]
    rows = []
    for label in [*known, *([MEAN] if MEAN in ordered else [])]:
        scores = [warp.dice.get(label) for warp in warps]
        apart = [_apart(score, direct.get(label)) for score in scores]
        cells = tuple(zip(scores, apart, strict=True))
        rows.append(DiceRow(label, direct.get(label), cells))
    return tuple(rows)


def _apart(score: float | None, direct: float | None) -> float | None:
    return None if score is None or direct is None else subtract(score, direct)


def read_pictures(state: ProxyState, out: Path) -> tuple[Picture, ...]:
    """Read the pictures that are there.

    The folder is listed rather than joined with names, so a name can lead nowhere else.
    """
    files = read_folder(out / "pictures")
    return tuple(
        Picture(as_uri(files[picture.file]), picture.title)
        for picture in state.pictures
        if picture.file in files
    )


def _facts(state: ProxyState) -> list[str]:
    """List what stands under the title."""
    facts = [f"{many} people for {role}" for role, many in state.people.items()]
    facts += [f"{state.visits} visits each"] if state.visits else []
    facts += [f"{' x '.join(map(str, state.shape))} voxels"] if state.shape else []
    facts += [_show_moment(state.date)] if state.date is not None else []
    if state.seconds is not None:
        minutes = state.seconds >= LONG_S
        took = f"{state.seconds / 60:.0f} minutes" if minutes else f"{state.seconds:.0f} s"
        facts.append(f"took {took}")
    return facts


def _show_moment(seconds: float) -> str:
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return "at an unknown time"
    return show_date(moment.isoformat(timespec="minutes"))
