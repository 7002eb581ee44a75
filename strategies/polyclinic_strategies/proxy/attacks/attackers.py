"""Attackers that try to recognize people by their proxies.

All but the similarities are trained on proxies, which anybody with the generator can make. An
attacker knows the identities of the people in `training`. It then says which visits in `test`, of
people that it never saw, are of the same person. `attack` runs all attackers, several times with
other seeds, and the strongest restart counts: an attacker that was not retrained on proxies, or
only once, says little.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import mean

import torch

from polyclinic_strategies.proxy.attacks.contest import Attacker, Contest, Found
from polyclinic_strategies.proxy.attacks.registrations import Registration, Texture
from polyclinic_strategies.proxy.attacks.siamese import (
    Answer,
    Patches,
    ProxyAndOriginal,
    ProxyAndProxy,
)
from polyclinic_strategies.proxy.attacks.similarities import Similarities
from polyclinic_strategies.proxy.attacks.verification import Recognition, score
from polyclinic_strategies.proxy.attacks.white_box import WhiteBox

OnAttack = Callable[[str, int, Recognition], None]
ATTACKERS: tuple[Attacker, ...] = (
    ProxyAndProxy(),
    ProxyAndOriginal(),
    Registration(),
    Texture(),
    Similarities(),
    Answer(),
    Patches(),
    WhiteBox(),
)


def attack(
    contest: Contest,
    on_attack: OnAttack | None = None,
    attackers: Sequence[Attacker] = ATTACKERS,
) -> dict[str, list[Recognition]]:
    """Run attackers.

    Args:
        contest: What they are given.
        on_attack: Called with every result.
        attackers: Those to run; each starts from the seed of its restart alone.

    Returns:
        Attacker to its results, one for each restart.
    """
    found: dict[str, list[Recognition]] = {}
    for seed in range(contest.settings.restarts):
        for name, likeness in _likenesses(contest, attackers, seed):
            result = score(likeness)
            found.setdefault(name, []).append(result)
            if on_attack is not None:
                on_attack(name, seed, result)
    return found


def strongest(found: Mapping[str, Sequence[Recognition]]) -> tuple[str, float, float]:
    """Return the attacker with the highest mean AUC, that mean, and the highest AUC of all.

    The last is over all restarts of all attackers.
    """
    means = {name: mean(result.auc for result in results) for name, results in found.items()}
    name = max(means, key=lambda each: means[each])
    return name, means[name], max(result.auc for results in found.values() for result in results)


def _likenesses(contest: Contest, attackers: Sequence[Attacker], seed: int) -> Found:
    """Yield each attacker's name and its likenesses, (comparisons, people, people)."""
    for attacker in attackers:
        if seed == 0 or not isinstance(attacker, Similarities):  # draws nothing
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                yield from attacker(contest)
