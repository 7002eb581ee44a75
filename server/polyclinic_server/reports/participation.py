"""Who took part in the rounds of a run, and who was missing when.

Arms without rounds are left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from polyclinic.federation.metrics import Phase
from polyclinic.reporting.results import Arm, Results


@dataclass(frozen=True)
class Participation:
    """Who took part in the rounds of some arms in which it was the same.

    Attributes:
        title: Of the arms.
        rows: The state of every round, by hospital: trained, missing, silent or pending.
    """

    title: str
    rows: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Absence:
    """Rounds of an arm in which a hospital was missing, for one reason."""

    site: str
    arm: Arm
    phase: Phase
    rounds: tuple[int, ...]
    reason: str


def find_participation(results: Results) -> list[Participation]:
    """Find who took part in the federated arms with rounds.

    Arms in which it was the same are joined.
    """
    found: list[tuple[list[str], dict[str, tuple[str, ...]]]] = []
    for arm in results.arms:
        if not arm.federated or not arm.has_rounds:
            continue
        rows = list_rounds(results, arm)
        same = next((titles for titles, others in found if others == rows), None)
        if same is None:
            found.append(([arm.title], rows))
        else:
            same.append(arm.title)
    return [Participation(", ".join(titles), rows) for titles, rows in found]


def list_rounds(results: Results, arm: Arm) -> dict[str, tuple[str, ...]]:
    """List what every hospital did in every round of an arm.

    It trained, was missing, was silent (others reported, it did not), or the round is pending.
    """
    trained = {
        (m.round, m.site): m for m in results.metrics if m.arm == arm.name and m.phase == "train"
    }
    begun = {number for number, _ in trained}

    def state(number: int, site: str) -> str:
        metric = trained.get((number, site))
        if metric is None:
            return "silent" if number in begun else "pending"
        return "missing" if metric.missing else "trained"

    rounds = range(1, results.rounds + 1)
    return {site: tuple(state(number, site) for number in rounds) for site in results.trained}


def find_absences(results: Results) -> tuple[Absence, ...]:
    """Find who was missing when in arms with rounds, in the order in which it happened.

    Rounds that were missed for the same reason are joined.
    """
    groups: dict[tuple[str, str, Phase, str], list[int]] = {}
    arms = {arm.name: arm for arm in results.arms if arm.has_rounds}
    for m in results.metrics:
        if m.missing and m.arm in arms:
            groups.setdefault((m.site, m.arm, m.phase, m.missing), []).append(m.round)
    return tuple(
        Absence(site, arms[arm], phase, tuple(rounds), reason)
        for (site, arm, phase, reason), rounds in groups.items()
    )
