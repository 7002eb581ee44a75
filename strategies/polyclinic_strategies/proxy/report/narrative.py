"""A deformation proxy's figures in words: for a hospital's board, computed from the figures, also when a target was missed."""

from collections.abc import Sequence
from dataclasses import dataclass

from polyclinic.reporting.formats import (
    EN_DASH,
    join_words,
    plural,
    show_difference,
    show_mm,
    show_number,
    show_score,
    show_share,
    subtract,
)
from polyclinic.reporting.section import Tile
from polyclinic_strategies.proxy.report.state import (
    LEARNED,
    MEAN,
    ORIGINALS,
    RANDOM,
    Attack,
    ProxyState,
    WarpState,
    highest,
    strongest,
)

GUESSING = 0.5
AUC_LIMIT = 0.70  # no attacker may reach more in any restart
DICE_LIMIT = 0.03  # so much may the way through the proxy cost
SAME_STRENGTH = 0.10  # displacements that differ by less are compared
SHARP = 0.90  # attackers who stay below this on originals prove little
NO_WORSE = 0.02  # an AUC that is lower by less is not lower
MET, MISSED, UNKNOWN = "met", "missed", "not measured"


@dataclass(frozen=True)
class Target:
    """What was asked, and what came out."""

    what: str
    wanted: str
    measured: str
    verdict: str


def find_proxy(state: ProxyState) -> WarpState | None:
    """The arm that the report is about: the learned generator, or whatever warps and is no baseline."""
    return state.warp(LEARNED) or next(
        (arm for arm in state.warps if arm.name not in (ORIGINALS, RANDOM)), None
    )


def find_gaps(state: ProxyState) -> list[str]:
    """What a complete run has and this one has not."""
    proxy, originals, random = find_proxy(state), state.warp(ORIGINALS), state.warp(RANDOM)
    known = {
        "the Dice without a proxy": state.direct.dice.get(MEAN),
        "the Dice through the proxy": proxy and proxy.dice.get(MEAN),
        "the attackers on proxies": proxy and proxy.attacks,
        "the attackers on original images": originals and originals.attacks,
        "the attackers on a random warp": random and random.attacks,
        "how far the proxy moves what it warps": proxy and proxy.strength_mm,
        "whether it folds space": proxy and proxy.folded,
        "the Dice at several strengths": state.curve,
        "the losses of the training": state.losses,
        "pictures": state.pictures,
    }
    return [
        what
        for what, found in known.items()
        if found is None or (not found and not isinstance(found, float))
    ]


def find_targets(state: ProxyState) -> tuple[Target, ...]:
    """The four of them, whether met or not."""
    proxy = find_proxy(state)
    return (
        _segmentation(state, proxy),
        _recognition(proxy),
        _against_random(state, proxy),
        _folding(proxy),
    )


def tell_result(state: ProxyState) -> str:
    """The first sentence."""
    proxy = find_proxy(state)
    top, best = _top(proxy), _best(proxy)
    if proxy is None or top is None or best is None:
        return "No attacker was tried on proxies yet: nothing can be said about what they hide."
    before = _top(state.warp(ORIGINALS))
    verdict = (
        "Proxies hide less of who a patient is than was asked"
        if best[1] > AUC_LIMIT
        else "Proxies hide much of who a patient is"
    )
    if not hides(state):
        verdict = "Proxies do not hide who a patient is"
    compared = f", on original images {show_score(before.auc)}" if before else ""
    return (
        f"{verdict}: the strongest of {plural(len(proxy.attacks), 'attacker')} recognizes people by them with an AUC of {show_score(top.auc)}, "
        f"at most {show_score(best[1])} in any restart{compared}; guessing is 0.5."
    )


def hides(state: ProxyState) -> bool:
    """Whether the strongest attacker is any worse off with proxies than with originals, as far as that is known."""
    top, before = _top(find_proxy(state)), _top(state.warp(ORIGINALS))
    return top is None or before is None or top.auc < before.auc - NO_WORSE


def tell_price(state: ProxyState) -> str:
    """What segmentation loses, what a random warp does, and what was missed."""
    proxy, words = find_proxy(state), []
    through, direct = proxy.dice.get(MEAN) if proxy else None, state.direct.dice.get(MEAN)
    if through is not None and direct is not None:
        words.append(
            f"A segmentation through the proxy reaches a Dice of {show_score(through)}, one of images that nobody warped {show_score(direct)} "
            f"({show_difference(subtract(through, direct))})."
        )
    random = _against_random(state, proxy)
    if random.verdict != UNKNOWN:
        words.append(
            f"A random warp as strong hides {'less' if random.verdict == MET else 'no less'}: {random.measured}."
        )
    missed = [target.what for target in find_targets(state) if target.verdict == MISSED]
    unknown = [target.what for target in find_targets(state) if target.verdict == UNKNOWN]
    if missed:
        words.append(f"Missed: {join_words(missed)}.")
    elif not unknown:
        words.append("All four targets of this report were met.")
    return " ".join(words)


def find_tiles(state: ProxyState) -> list[tuple[str, str]]:
    """The few numbers on top of the page, each with its caption."""
    proxy, tiles = find_proxy(state), []
    through, direct = proxy.dice.get(MEAN) if proxy else None, state.direct.dice.get(MEAN)
    if through is not None:
        tiles.append(
            (
                show_score(through),
                "Dice through the proxy"
                + (f"; {show_score(direct)} without it" if direct is not None else ""),
            )
        )
    for arm, what in ((proxy, "on proxies"), (state.warp(ORIGINALS), "on original images")):
        top, best = _top(arm), _best(arm)
        if top and best:
            tiles.append(
                (
                    f"{top.auc:.2f} / {best[1]:.2f}",
                    f"AUC of the strongest attacker {what}, mean / maximum; 0.5 is guessing",
                )
            )
    if proxy and proxy.strength_mm is not None:
        at_most = f", at most {proxy.largest_mm:.1f} mm" if proxy.largest_mm is not None else ""
        tiles.append((f"{proxy.strength_mm:.1f} mm", f"moved (root mean square{at_most})"))
    if proxy and proxy.folded is not None:
        least = (
            f"; the smallest Jacobian is {show_number(proxy.smallest_jacobian)}"
            if proxy.smallest_jacobian is not None
            else ""
        )
        tiles.append((show_share(proxy.folded), f"of the voxels folded{least}"))
    return tiles


def tell_best(attacks: Sequence[Attack]) -> str:
    """The strongest attacker's mean and the maximum over all, in half a sentence; empty without any."""
    top, best = strongest(attacks), highest(attacks)
    return (
        ""
        if top is None or best is None
        else f"the strongest attacker ({top.name}) reaches {show_score(top.auc)}, at most {show_score(best[1].auc)}"
    )


def _top(arm: WarpState | None) -> Attack | None:
    return strongest(arm.attacks) if arm else None


def _best(arm: WarpState | None) -> tuple[str, float] | None:
    """The attacker and the AUC of the restart that recognized best."""
    found = highest(arm.attacks) if arm else None
    return (found[0].name, found[1].auc) if found else None


def _segmentation(state: ProxyState, proxy: WarpState | None) -> Target:
    through, direct = proxy.dice.get(MEAN) if proxy else None, state.direct.dice.get(MEAN)
    what, wanted = "segmentation", f"Dice at most {DICE_LIMIT:.3f} below that without a proxy"
    if through is None or direct is None:
        return Target(what, wanted, EN_DASH, UNKNOWN)
    difference = subtract(through, direct)
    measured = f"{show_score(through)}, without a proxy {show_score(direct)} ({show_difference(difference)})"
    return Target(what, wanted, measured, MET if difference >= -DICE_LIMIT else MISSED)


def _recognition(proxy: WarpState | None) -> Target:
    best = _best(proxy)
    what, wanted = (
        "re-identification",
        f"AUC of at most {AUC_LIMIT:.2f} by every attacker in every restart",
    )
    if best is None:
        return Target(what, wanted, EN_DASH, UNKNOWN)
    return Target(
        what, wanted, f"at most {show_score(best[1])} ({best[0]})", MISSED if best[1] > AUC_LIMIT else MET
    )


def _against_random(state: ProxyState, proxy: WarpState | None) -> Target:
    random = state.warp(RANDOM)
    what, wanted = (
        "gain over a random warp",
        "lower AUC, mean and maximum, than a random warp of the same displacement",
    )
    ours, theirs, our_best, their_best = _top(proxy), _top(random), _best(proxy), _best(random)
    if proxy is None or random is None or not ours or not theirs or not our_best or not their_best:
        return Target(what, wanted, EN_DASH, UNKNOWN)
    measured = (
        f"{show_score(ours.auc)} and {show_score(our_best[1])} at {show_mm(proxy.strength_mm)}, random {show_score(theirs.auc)} and {show_score(their_best[1])} "
        f"at {show_mm(random.strength_mm)}"
    )
    if (
        not proxy.strength_mm
        or not random.strength_mm
        or abs(proxy.strength_mm / random.strength_mm - 1) > SAME_STRENGTH
    ):
        return Target(what, wanted, f"{measured}: not the same displacement", UNKNOWN)
    return Target(
        what,
        wanted,
        measured,
        MET if ours.auc < theirs.auc and our_best[1] < their_best[1] else MISSED,
    )


def _folding(proxy: WarpState | None) -> Target:
    what, wanted = "folding", "a Jacobian above 0 in every voxel"
    if proxy is None or proxy.folded is None:
        return Target(what, wanted, EN_DASH, UNKNOWN)
    least = (
        f", the smallest Jacobian is {show_number(proxy.smallest_jacobian)}"
        if proxy.smallest_jacobian is not None
        else ""
    )
    folded = proxy.folded > 0 or (
        proxy.smallest_jacobian is not None and proxy.smallest_jacobian <= 0
    )
    return Target(
        what,
        wanted,
        f"{show_share(proxy.folded)} of the voxels folded{least}",
        MISSED if folded else MET,
    )
