"""What private training told about one patient, as hospitals say it."""

from collections.abc import Mapping
from dataclasses import dataclass

from polyclinic.federation.events import Answered
from polyclinic.reporting.results import Results


@dataclass(frozen=True)
class Told:
    """What the training of one arm, and of those before it in the run, has told.

    Attributes:
        title: Of the arm.
        epsilons: By hospital; None where it is not told.
    """

    title: str
    epsilons: Mapping[str, float | None]


def find_told(results: Results) -> list[Told]:
    """Find the last epsilon that each hospital told; arms in which nobody did are left out."""
    titles = {arm.name: arm.title for arm in results.arms}
    found: dict[str, dict[str, float | None]] = {}
    for event in results.events:
        if isinstance(event, Answered) and event.phase == "train" and event.arm in titles:
            found.setdefault(event.arm, {})[event.site] = event.epsilon
    return [
        Told(titles[arm], dict(sorted(epsilons.items())))
        for arm, epsilons in found.items()
        if any(value is not None for value in epsilons.values())
    ]
