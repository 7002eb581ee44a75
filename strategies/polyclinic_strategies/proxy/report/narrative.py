"""A deformation proxy's figures in words: for a hospital's board, computed from the figures, also when a target was missed."""

from collections.abc import Sequence
from dataclasses import dataclass

from polyclinic.reporting.summary import EN_DASH, MINUS, join_words, plural, show, show_difference
from polyclinic_strategies.proxy.report.record import (
    LEARNED,
    MEAN,
    ORIGINALS,
    RANDOM,
    Arm,
    Attack,
    ProxyRun,
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


def find_proxy(run: ProxyRun) -> Arm | None:
    """The arm that the report is about: the learned generator, or whatever warps and is no baseline."""
    return run.arm(LEARNED) or next(
        (arm for arm in run.arms if arm.name not in (ORIGINALS, RANDOM)), None
    )


def find_gaps(run: ProxyRun) -> list[str]:
    """What a complete run has and this one has not."""
    proxy, originals, random = find_proxy(run), run.arm(ORIGINALS), run.arm(RANDOM)
    known = {
        "the Dice without a proxy": run.direct.get(MEAN),
        "the Dice through the proxy": proxy and proxy.dice.get(MEAN),
        "the attackers on proxies": proxy and proxy.attacks,
        "the attackers on original images": originals and originals.attacks,
        "the attackers on a random warp": random and random.attacks,
        "how far the proxy moves what it warps": proxy and proxy.strength_mm,
        "whether it folds space": proxy and proxy.folded,
        "the Dice at several strengths": run.curve,
        "the losses of the training": run.losses,
        "pictures": run.pictures,
    }
    return [
        what
        for what, found in known.items()
        if found is None or (not found and not isinstance(found, float))
    ]


def find_targets(run: ProxyRun) -> tuple[Target, ...]:
    """The four of them, whether met or not."""
    proxy = find_proxy(run)
    return (
        _segmentation(run, proxy),
        _recognition(proxy),
        _against_random(run, proxy),
        _folding(proxy),
    )


def tell_result(run: ProxyRun) -> str:
    """The first sentence."""
    proxy = find_proxy(run)
    top, best = _top(proxy), _best(proxy)
    if proxy is None or top is None or best is None:
        return "No attacker was tried on proxies yet: nothing can be said about what they hide."
    before = _top(run.arm(ORIGINALS))
    verdict = (
        "Proxies hide less of who a patient is than was asked"
        if best[1] > AUC_LIMIT
        else "Proxies hide much of who a patient is"
    )
    if not hides(run):
        verdict = "Proxies do not hide who a patient is"
    compared = f", on original images {show(before.auc)}" if before else ""
    return (
        f"{verdict}: the strongest of {plural(len(proxy.attacks), 'attacker')} recognizes people by them with an AUC of {show(top.auc)}, "
        f"at most {show(best[1])} in any restart{compared}; guessing is 0.5."
    )


def hides(run: ProxyRun) -> bool:
    """Whether the strongest attacker is any worse off with proxies than with originals, as far as that is known."""
    top, before = _top(find_proxy(run)), _top(run.arm(ORIGINALS))
    return top is None or before is None or top.auc < before.auc - NO_WORSE


def tell_price(run: ProxyRun) -> str:
    """What segmentation loses, what a random warp does, and what was missed."""
    proxy, words = find_proxy(run), []
    through, direct = proxy.dice.get(MEAN) if proxy else None, run.direct.get(MEAN)
    if through is not None and direct is not None:
        words.append(
            f"A segmentation through the proxy reaches a Dice of {show(through)}, one of images that nobody warped {show(direct)} "
            f"({show_difference(round(through, 3) - round(direct, 3))})."
        )
    random = _against_random(run, proxy)
    if random.verdict != UNKNOWN:
        words.append(
            f"A random warp as strong hides {'less' if random.verdict == MET else 'no less'}: {random.measured}."
        )
    missed = [target.what for target in find_targets(run) if target.verdict == MISSED]
    unknown = [target.what for target in find_targets(run) if target.verdict == UNKNOWN]
    if missed:
        words.append(f"Missed: {join_words(missed)}.")
    elif not unknown:
        words.append("All four targets of this report were met.")
    return " ".join(words)


def find_tiles(run: ProxyRun) -> list[tuple[str, str]]:
    """The few numbers on top of the page, each with its caption."""
    proxy, tiles = find_proxy(run), []
    through, direct = proxy.dice.get(MEAN) if proxy else None, run.direct.get(MEAN)
    if through is not None:
        tiles.append(
            (
                show(through),
                "Dice through the proxy"
                + (f"; {show(direct)} without it" if direct is not None else ""),
            )
        )
    for arm, what in ((proxy, "on proxies"), (run.arm(ORIGINALS), "on original images")):
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
            f"; the smallest Jacobian is {_signed(proxy.smallest_jacobian)}"
            if proxy.smallest_jacobian is not None
            else ""
        )
        tiles.append((show_share(proxy.folded), f"of the voxels folded{least}"))
    return tiles


def show_share(share: float | None) -> str:
    """A share in percent, with two digits where it is small, or a dash."""
    if share is None:
        return EN_DASH
    percent = 100 * share
    return (
        f"{percent:.0f}" if percent >= 10 or percent == 0 else f"{percent:.2g}"
    ) + "\N{NO-BREAK SPACE}%"


def show_interval(low: float | None, high: float | None) -> str:
    """From where to where, or a dash."""
    return EN_DASH if low is None or high is None else f"{low:.2f}{EN_DASH}{high:.2f}"


def tell_best(attacks: Sequence[Attack]) -> str:
    """The strongest attacker's mean and the maximum over all, in half a sentence; empty without any."""
    top, best = strongest(attacks), highest(attacks)
    return (
        ""
        if top is None or best is None
        else f"the strongest attacker ({top.name}) reaches {show(top.auc)}, at most {show(best[1].auc)}"
    )


def _top(arm: Arm | None) -> Attack | None:
    return strongest(arm.attacks) if arm else None


def _best(arm: Arm | None) -> tuple[str, float] | None:
    """The attacker and the AUC of the restart that recognized best."""
    found = highest(arm.attacks) if arm else None
    return (found[0].name, found[1].auc) if found else None


def _segmentation(run: ProxyRun, proxy: Arm | None) -> Target:
    through, direct = proxy.dice.get(MEAN) if proxy else None, run.direct.get(MEAN)
    what, wanted = "segmentation", f"Dice at most {DICE_LIMIT:.3f} below that without a proxy"
    if through is None or direct is None:
        return Target(what, wanted, EN_DASH, UNKNOWN)
    difference = round(round(through, 3) - round(direct, 3), 3)
    measured = f"{show(through)}, without a proxy {show(direct)} ({show_difference(difference)})"
    return Target(what, wanted, measured, MET if difference >= -DICE_LIMIT else MISSED)


def _recognition(proxy: Arm | None) -> Target:
    best = _best(proxy)
    what, wanted = (
        "re-identification",
        f"AUC of at most {AUC_LIMIT:.2f} by every attacker in every restart",
    )
    if best is None:
        return Target(what, wanted, EN_DASH, UNKNOWN)
    return Target(
        what, wanted, f"at most {show(best[1])} ({best[0]})", MISSED if best[1] > AUC_LIMIT else MET
    )


def _against_random(run: ProxyRun, proxy: Arm | None) -> Target:
    random = run.arm(RANDOM)
    what, wanted = (
        "gain over a random warp",
        "lower AUC, mean and maximum, than a random warp of the same displacement",
    )
    ours, theirs, our_best, their_best = _top(proxy), _top(random), _best(proxy), _best(random)
    if proxy is None or random is None or not ours or not theirs or not our_best or not their_best:
        return Target(what, wanted, EN_DASH, UNKNOWN)
    measured = (
        f"{show(ours.auc)} and {show(our_best[1])} at {_show_mm(proxy)}, random {show(theirs.auc)} and {show(their_best[1])} "
        f"at {_show_mm(random)}"
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


def _folding(proxy: Arm | None) -> Target:
    what, wanted = "folding", "a Jacobian above 0 in every voxel"
    if proxy is None or proxy.folded is None:
        return Target(what, wanted, EN_DASH, UNKNOWN)
    least = (
        f", the smallest Jacobian is {_signed(proxy.smallest_jacobian)}"
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


def _signed(number: float) -> str:
    return f"{number:.2f}".replace("-", MINUS)


def _show_mm(arm: Arm) -> str:
    return EN_DASH if arm.strength_mm is None else f"{arm.strength_mm:.1f} mm"
