"""What a deformation proxy's figures mean for a hospital, and what they do not: two lists of sentences."""

from polyclinic.reporting.formats import show_interval, show_score, show_share, subtract
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


def tell_meaning(state: ProxyState) -> list[str]:
    """What was reached."""
    proxy, originals = find_proxy(state), state.warp(ORIGINALS)
    words = [_what_travels(proxy)]
    if proxy is None or not proxy.attacks:
        return words
    top, before = strongest(proxy.attacks), strongest(originals.attacks) if originals else None
    assert top is not None
    words.append(
        "Shown two pairs of images, one of the same person on two days and one of two different people, the strongest attacker picks the "
        f"right pair in {_of_hundred(top.auc)} of 100 cases by proxies{f', {_of_hundred(before.auc)} by originals' if before else ''}. "
        "Guessing gives 50."
    )
    words += _naming(top, before)
    through, direct = proxy.dice.get(MEAN), state.direct.dice.get(MEAN)
    if through is not None and direct is not None:
        loss = subtract(direct, through)
        price = f"costs {loss:.3f} of Dice" if loss > 0 else "costs no Dice"
        words.append(
            f"The way through the proxy {price}: {show_score(through)} instead of {show_score(direct)} (1 is perfect)."
        )
    return words


def tell_limits(state: ProxyState) -> list[str]:
    """What is not reached, and what was not shown."""
    proxy = find_proxy(state)
    found = highest(proxy.attacks) if proxy else None
    words = []
    if found is not None:
        attack, best = found
        if best.auc > AUC_LIMIT:
            words.append(
                f"The target was missed: {attack.name} reaches an AUC of {show_score(best.auc)}, and no attacker should exceed "
                f"{AUC_LIMIT:.2f}. Do not send proxies to whoever may not know the patients."
            )
        words.append(_not_anonymous(best, hides(state)))
        words.append(_few(state, best))
    else:
        words.append("Nothing was measured of what proxies hide: treat them as patients' images.")
    words += _weak(state)
    words.append(
        "The answer is as private as the proxy: the segmentation of a warped brain shows the same shapes to the same people."
    )
    words.append(_kept(state))
    words.append(
        "Several proxies of one patient say more than one: an attacker may average over the keys, which some of the attackers below do. "
        "Every further scan that is sent adds to it."
    )
    words.append(
        "It is about brains without skull in T1 scans. A face, another organ or another contrast was not looked at."
    )
    return words


def _what_travels(proxy: WarpState | None) -> str:
    moved = ""
    if proxy is not None and proxy.strength_mm is not None:
        at_most = f", at most {proxy.largest_mm:.1f} mm" if proxy.largest_mm is not None else ""
        moved = f" by {proxy.strength_mm:.1f} mm (root mean square{at_most})"
    return (
        "A hospital sends no scan but a proxy: the brain in a standard place, size and brightness, warped"
        f"{moved} by a key that is drawn for this scan alone, stays at the hospital and is forgotten with it. Name, number, date and the "
        "scan's header do not travel. The answer is unwarped at the hospital."
    )


def _naming(top: Attack, before: Attack | None) -> list[str]:
    people = top.best.people
    if top.rank1 is None or not people:
        return []
    originals = (
        f" (by originals {show_share(before.rank1)})" if before and before.rank1 is not None else ""
    )
    return [
        f"Asked which of {people} people a proxy shows, it names the right one in {show_share(top.rank1)} of the cases{originals}. "
        f"Guessing gives {show_share(1 / people)}."
    ]


def _not_anonymous(best: Attempt, hidden: bool) -> str:
    said = f"The risk is {'reduced, not removed' if hidden else 'not reduced'}, and this is not anonymization"
    if best.low is not None and best.low <= GUESSING:
        return (
            f"{said}. The best attacker could not be told from guessing among so few people, which does not prove that nobody can do "
            "better. Treat proxies as patients' data."
        )
    return (
        f"{said}: an AUC of {show_score(best.auc)} is more than guessing, so proxies still say something of who a patient is. Treat them as "
        "patients' data."
    )


def _few(state: ProxyState, best: Attempt) -> str:
    tested = best.people or state.people.get("test")
    among = f", tried on {tested} people of one data set" if tested else ""
    known = ""
    if best.low is not None and best.high is not None:
        beyond = (
            f": with other people the limit of {AUC_LIMIT:.2f} may be exceeded"
            if best.auc <= AUC_LIMIT < best.high
            else ""
        )
        known = f" The best restart's AUC is known to lie within {show_interval(best.low, best.high)} only (95 % interval){beyond}."
    more = "A cleverer one, or one that has more people to learn from, may reach more."
    return f"These are the attackers that we could think of{among}. {more}{known}"


def _weak(state: ProxyState) -> list[str]:
    originals = state.warp(ORIGINALS)
    top = strongest(originals.attacks) if originals else None
    if top is None:
        return [
            "The attackers were not tried on original images: whether they are any good is not known."
        ]
    if top.auc < SHARP:
        return [
            f"The attackers are not sharp: on original images the strongest reaches {show_score(top.auc)}. A low AUC on proxies says less then."
        ]
    return []


def _kept(state: ProxyState) -> str:
    """What a warp leaves where it was; with figures where they were measured."""
    told = [
        f"{extra.title}: {found}" for extra in state.extras if (found := tell_best(extra.attacks))
    ]
    general = (
        "A warp moves what is there and takes nothing away: texture, lesions, and anything that is there in one person and not in another "
        "can be seen in a proxy."
    )
    return (
        f"{general} Measured: {'; '.join(told)}."
        if told
        else f"{general} How well people are recognized by such marks was not measured."
    )


def _of_hundred(auc: float) -> int:
    return round(100 * auc)
