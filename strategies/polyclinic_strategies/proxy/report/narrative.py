"""A deformation proxy's figures in words, computed from them, also when a target was missed."""

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
DICE_LIMIT = 0.03  # the way through the proxy may not cost more
SAME_STRENGTH = 0.10  # displacements that differ by a smaller share are compared
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
    """Find the warp that the report is about: the learned one, or else one that is no baseline."""
    others = (warp for warp in state.warps if warp.name not in (ORIGINALS, RANDOM))
    return state.warp(LEARNED) or next(others, None)


def find_gaps(state: ProxyState) -> list[str]:
    """List what a complete run has and this one lacks."""
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
    """Compare the four targets with what was measured."""
    proxy = find_proxy(state)
    return (
        _segmentation(state, proxy),
        _recognition(proxy),
        _against_random(state, proxy),
        _folding(proxy),
    )


def tell_result(state: ProxyState) -> str:
    """Tell how well people are recognized, in one sentence or two."""
    proxy = find_proxy(state)
    top, best = _top(proxy), _best(proxy)
    if proxy is None or top is None or best is None:
        return "No attacker was tried on proxies yet, so it is not known what they hide."
    before = _top(state.warp(ORIGINALS))
    verdict = "Proxies hide much of who a patient is"
    if best[1] > AUC_LIMIT:
        verdict = "Proxies hide less of who a patient is than was asked"
    if not hides(state):
        verdict = "Proxies do not hide who a patient is"
    compared = f" On original images it reaches {show_score(before.auc)}." if before else ""
    return (
        f"{verdict}: the strongest of {plural(len(proxy.attacks), 'attacker')} recognizes people "
        f"with an AUC of {show_score(top.auc)}, at most {show_score(best[1])} in any "
        f"restart.{compared} Guessing gives {GUESSING}."
    )


def hides(state: ProxyState) -> bool:
    """Tell whether proxies make recognition harder than originals do, as far as that is known."""
    top, before = _top(find_proxy(state)), _top(state.warp(ORIGINALS))
    return top is None or before is None or top.auc < before.auc - NO_WORSE


def tell_price(state: ProxyState) -> str:
    """Tell what segmentation loses, what a random warp does, and which targets were missed."""
    proxy, words = find_proxy(state), []
    through, direct = proxy.dice.get(MEAN) if proxy else None, state.direct.dice.get(MEAN)
    if through is not None and direct is not None:
        words.append(
            f"Segmentation through the proxy reaches a Dice of {show_score(through)}, without a "
            f"proxy {show_score(direct)} ({show_difference(subtract(through, direct))})."
        )
    random = _against_random(state, proxy)
    if random.verdict != UNKNOWN:
        hidden = "less" if random.verdict == MET else "no less"
        words.append(f"A random warp of the same strength hides {hidden}: {random.measured}.")
    missed = [target.what for target in find_targets(state) if target.verdict == MISSED]
    unknown = [target.what for target in find_targets(state) if target.verdict == UNKNOWN]
    if missed:
        words.append(f"Missed: {join_words(missed)}.")
    elif not unknown:
        words.append("All four targets of this report were met.")
    return " ".join(words)


def find_tiles(state: ProxyState) -> list[Tile]:
    """Choose the few figures on top of the page, each with its caption."""
    proxy = find_proxy(state)
    through, direct = proxy.dice.get(MEAN) if proxy else None, state.direct.dice.get(MEAN)
    tiles: list[Tile] = []
    if through is not None:
        without = f"; {show_score(direct)} without it" if direct is not None else ""
        tiles.append((show_score(through), f"Dice through the proxy{without}"))
    for warp, what in ((proxy, "on proxies"), (state.warp(ORIGINALS), "on original images")):
        top, best = _top(warp), _best(warp)
        if top and best:
            caption = (
                f"AUC of the strongest attacker {what}, mean / maximum; {GUESSING} is guessing"
            )
            tiles.append((f"{top.auc:.2f} / {best[1]:.2f}", caption))
    if proxy and proxy.strength_mm is not None:
        most = f", at most {show_mm(proxy.largest_mm)}" if proxy.largest_mm is not None else ""
        tiles.append((show_mm(proxy.strength_mm), f"moved (root mean square{most})"))
    if proxy and proxy.folded is not None:
        tiles.append(
            (show_share(proxy.folded), f"of the voxels folded{_tell_jacobian(proxy, ';')}")
        )
    return tiles


def tell_best(attacks: Sequence[Attack]) -> str:
    """Tell the strongest attacker's mean and the maximum over all, in half a sentence.

    Empty without any attacker.
    """
    top, best = strongest(attacks), highest(attacks)
    if top is None or best is None:
        return ""
    most = show_score(best[1].auc)
    return f"the strongest attacker ({top.name}) reaches {show_score(top.auc)}, at most {most}"


def _top(warp: WarpState | None) -> Attack | None:
    return strongest(warp.attacks) if warp else None


def _best(warp: WarpState | None) -> tuple[str, float] | None:
    """Return the attacker and the AUC of the restart that recognized best."""
    found = highest(warp.attacks) if warp else None
    return (found[0].name, found[1].auc) if found else None


def _segmentation(state: ProxyState, proxy: WarpState | None) -> Target:
    what, wanted = "segmentation", f"Dice at most {DICE_LIMIT:.3f} below that without a proxy"
    through, direct = proxy.dice.get(MEAN) if proxy else None, state.direct.dice.get(MEAN)
    if through is None or direct is None:
        return Target(what, wanted, EN_DASH, UNKNOWN)
    difference = subtract(through, direct)
    beside = f"without a proxy {show_score(direct)} ({show_difference(difference)})"
    verdict = MET if difference >= -DICE_LIMIT else MISSED
    return Target(what, wanted, f"{show_score(through)}, {beside}", verdict)


def _recognition(proxy: WarpState | None) -> Target:
    what = "re-identification"
    wanted = f"AUC of at most {AUC_LIMIT:.2f} by every attacker in every restart"
    best = _best(proxy)
    if best is None:
        return Target(what, wanted, EN_DASH, UNKNOWN)
    verdict = MISSED if best[1] > AUC_LIMIT else MET
    return Target(what, wanted, f"at most {show_score(best[1])} ({best[0]})", verdict)


def _against_random(state: ProxyState, proxy: WarpState | None) -> Target:
    what = "gain over a random warp"
    wanted = "lower AUC, mean and maximum, than a random warp of the same displacement"
    random = state.warp(RANDOM)
    ours, theirs, our_best, their_best = _top(proxy), _top(random), _best(proxy), _best(random)
    if proxy is None or random is None or not ours or not theirs or not our_best or not their_best:
        return Target(what, wanted, EN_DASH, UNKNOWN)
    measured = (
        f"{show_score(ours.auc)} and {show_score(our_best[1])} at {show_mm(proxy.strength_mm)}, "
        f"random {show_score(theirs.auc)} and {show_score(their_best[1])} at "
        f"{show_mm(random.strength_mm)}"
    )
    if not _same_strength(proxy, random):
        return Target(what, wanted, f"{measured}: not the same displacement", UNKNOWN)
    lower = ours.auc < theirs.auc and our_best[1] < their_best[1]
    return Target(what, wanted, measured, MET if lower else MISSED)


def _same_strength(one: WarpState, other: WarpState) -> bool:
    if not one.strength_mm or not other.strength_mm:
        return False
    return abs(one.strength_mm / other.strength_mm - 1) <= SAME_STRENGTH


def _folding(proxy: WarpState | None) -> Target:
    what, wanted = "folding", "a Jacobian above 0 in every voxel"
    if proxy is None or proxy.folded is None:
        return Target(what, wanted, EN_DASH, UNKNOWN)
    smallest = proxy.smallest_jacobian
    folded = proxy.folded > 0 or (smallest is not None and smallest <= 0)
    measured = f"{show_share(proxy.folded)} of the voxels folded{_tell_jacobian(proxy, ',')}"
    return Target(what, wanted, measured, MISSED if folded else MET)


def _tell_jacobian(warp: WarpState, after: str) -> str:
    if warp.smallest_jacobian is None:
        return ""
    return f"{after} the smallest Jacobian is {show_number(warp.smallest_jacobian)}"
