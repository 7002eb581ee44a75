"""What the figures of a deformation proxy mean for a hospital, and what they do not mean."""

from polyclinic.reporting.formats import (
    show_interval,
    show_mm,
    show_score,
    show_share,
    subtract,
)
from polyclinic_strategies.proxy.report.narrative import (
    AUC_LIMIT,
    GUESSING,
    SHARP,
    find_proxy,
    hides,
    tell_best,
)
from polyclinic_strategies.proxy.report.state import (
    MEAN,
    ORIGINALS,
    Attack,
    Attempt,
    ProxyState,
    WarpState,
    highest,
    strongest,
)

SAME_SHAPES = (
    "The answer is as private as the proxy: the segmentation of a warped brain shows the same "
    "shapes to the same people."
)
SEVERAL = (
    "Several proxies of one patient say more than one: an attacker may average over the keys, as "
    "some of the attackers below do. Every further scan that is sent adds to this."
)
SCOPE = (
    "All figures are about T1 scans of brains without skull. Faces, other organs and other "
    "contrasts were not studied."
)
UNMEASURED = "No attack was measured. Treat proxies as patients' images."
UNTRIED = "The attackers were not tried on original images, so it is not known how good they are."
KEPT = (
    "A warp moves what is there and removes nothing. Texture, lesions, and whatever one person "
    "has and another does not, can be seen in a proxy."
)


def tell_meaning(state: ProxyState) -> list[str]:
    """Tell what was reached."""
    proxy, originals = find_proxy(state), state.warp(ORIGINALS)
    words = [_tell_journey(proxy)]
    top = strongest(proxy.attacks) if proxy else None
    if proxy is None or top is None:
        return words
    before = strongest(originals.attacks) if originals else None
    also = f", and by originals in {_of_hundred(before.auc)}" if before else ""
    words.append(
        "The strongest attacker gets two pairs of images: one of the same person on two days, one "
        f"of two different people. By proxies it picks the right pair in {_of_hundred(top.auc)} "
        f"of 100 cases{also}. Guessing gives 50."
    )
    words += _tell_naming(top, before)
    through, direct = proxy.dice.get(MEAN), state.direct.dice.get(MEAN)
    if through is not None and direct is not None:
        loss = subtract(direct, through)
        price = f"costs {show_score(loss)} of Dice" if loss > 0 else "costs no Dice"
        words.append(
            f"The way through the proxy {price}: {show_score(through)} instead of "
            f"{show_score(direct)} (1 is perfect)."
        )
    return words


def tell_limits(state: ProxyState) -> list[str]:
    """Tell what is not reached, and what was not shown."""
    proxy = find_proxy(state)
    found = highest(proxy.attacks) if proxy else None
    words = [UNMEASURED]
    if found is not None:
        attack, best = found
        words = [_tell_risk(best, hides(state)), _tell_tests(state, best)]
        if best.auc > AUC_LIMIT:
            words.insert(0, _tell_missed(attack, best))
    return [*words, *_tell_attackers(state), SAME_SHAPES, _tell_kept(state), SEVERAL, SCOPE]


def _tell_journey(proxy: WarpState | None) -> str:
    """Tell what leaves the hospital."""
    moved = ""
    if proxy is not None and proxy.strength_mm is not None:
        most = f", at most {show_mm(proxy.largest_mm)}" if proxy.largest_mm is not None else ""
        moved = f" by {show_mm(proxy.strength_mm)} (root mean square{most})"
    return (
        "A hospital sends no scan but a proxy: the brain in a standard place, size and "
        f"brightness, warped{moved}. The key of the warp is drawn for this scan alone. It stays "
        "at the hospital and is deleted after the answer. Name, number, date and the scan's "
        "header are not sent. The answer is unwarped at the hospital."
    )


def _tell_naming(top: Attack, before: Attack | None) -> list[str]:
    people = top.best.people
    if top.rank1 is None or not people:
        return []
    known = before is not None and before.rank1 is not None
    originals = (
        f" By originals it does so in {show_share(before.rank1)}." if known and before else ""
    )
    return [
        f"It is also asked which of {people} people a proxy shows. It names the right person in "
        f"{show_share(top.rank1)} of the cases.{originals} Guessing gives {show_share(1 / people)}."
    ]


def _tell_missed(attack: Attack, best: Attempt) -> str:
    return (
        f"The target was missed. {attack.name} reaches an AUC of {show_score(best.auc)}, and no "
        f"attacker should exceed {AUC_LIMIT:.2f}. Do not send proxies to anybody who may not know "
        "the patients."
    )


def _tell_risk(best: Attempt, hidden: bool) -> str:
    risk = "reduced, not removed" if hidden else "not reduced"
    said = f"The risk is {risk}. This is not anonymization."
    if best.low is not None and best.low <= GUESSING:
        return (
            f"{said} Among so few people the best attacker cannot be told from guessing. That "
            "does not prove that no attacker can do better. Treat proxies as patients' data."
        )
    return (
        f"{said} An AUC of {show_score(best.auc)} is more than guessing, so proxies still say "
        "something about who a patient is. Treat them as patients' data."
    )


def _tell_tests(state: ProxyState, best: Attempt) -> str:
    tested = best.people or state.people.get("test")
    among = f", tried on {tested} people of one data set" if tested else ""
    words = [
        f"These are the attackers that we could think of{among}.",
        "A better attacker, or one with more people to learn from, may reach more.",
    ]
    if best.low is not None and best.high is not None:
        interval = show_interval(best.low, best.high)
        words.append(
            f"The AUC of the best restart is known only to be within {interval} (95 % interval)."
        )
        if best.auc <= AUC_LIMIT < best.high:
            words.append(f"With other people it may exceed the limit of {AUC_LIMIT:.2f}.")
    return " ".join(words)


def _tell_attackers(state: ProxyState) -> list[str]:
    """Tell how good the attackers are, unless they are good."""
    originals = state.warp(ORIGINALS)
    top = strongest(originals.attacks) if originals else None
    if top is None:
        return [UNTRIED]
    if top.auc >= SHARP:
        return []
    return [
        f"The attackers are weak: on original images the strongest reaches {show_score(top.auc)}. "
        "A low AUC on proxies says less then."
    ]


def _tell_kept(state: ProxyState) -> str:
    """Tell what a warp leaves where it was; with figures where they were measured."""
    told = [
        f"{extra.title}: {found}" for extra in state.extras if (found := tell_best(extra.attacks))
    ]
    if told:
        return f"{KEPT} Measured: {'; '.join(told)}."
    return f"{KEPT} How well people are recognized by such marks was not measured."


def _of_hundred(auc: float) -> int:
    return round(100 * auc)
