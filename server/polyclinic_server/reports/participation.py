"""Who took part in the rounds of a run, and who was missing when; an arm without rounds has no roster."""

from dataclasses import dataclass

from polyclinic.reporting.measurements import Phase
from polyclinic.reporting.results import Arm, Results


@dataclass(frozen=True)
class Roster:
    """Who took part in the rounds of some arms that had the same attendance."""

    title: str
    rows: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Absence:
    """Rounds of an arm in which a hospital was missing, for one reason."""

    site: str
    arm: Arm
    phase: Phase
    rounds: tuple[int, ...]
    reason: str


def rosters(results: Results) -> list[Roster]:
    """Attendance of the federated arms with rounds; arms that had the same share a roster."""
    found: list[tuple[list[str], dict[str, tuple[str, ...]]]] = []
    for arm in (arm for arm in results.arms if arm.federated and arm.has_rounds):
        rows = attendance(results, arm)
        same = next((titles for titles, others in found if others == rows), None)
        if same is None:
            found.append(([arm.title], rows))
        else:
            same.append(arm.title)
    return [Roster(", ".join(titles), rows) for titles, rows in found]


def attendance(results: Results, arm: Arm) -> dict[str, tuple[str, ...]]:
    """Per hospital and round of an arm: trained, missing, silent (others reported, it did not) or pending."""
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


def absences(results: Results) -> tuple[Absence, ...]:
    """Who was missing when in arms with rounds, those of the same reason together, in the order in which it happened."""
    groups: dict[tuple[str, str, Phase, str], list[int]] = {}
    arms = {arm.name: arm for arm in results.arms if arm.has_rounds}
    for m in results.metrics:
        if m.missing and m.arm in arms:
            groups.setdefault((m.site, m.arm, m.phase, m.missing), []).append(m.round)
    return tuple(
        Absence(site, arms[arm], phase, tuple(n), why)
        for (site, arm, phase, why), n in groups.items()
    )
