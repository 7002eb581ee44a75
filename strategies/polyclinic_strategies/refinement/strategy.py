"""Refinement's settings: how contributions come about, what hospitals describe themselves by, and what is tried.

Kitrungrotsakul et al.; its abstract leaves the formulas open, see `refine` for our reading.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from polyclinic.config.compose import instantiate
from polyclinic.config.schemas import Part
from polyclinic.describing.statistics import statistics
from polyclinic.errors import ConfigError
from polyclinic_strategies.merging.strategy import Merging
from polyclinic_strategies.refinement.refine import Recipe

GENTLE = 0.8  # the sharpness that is tried for contributors beside the others: their own vector and a little of the neighbours'


@dataclass(frozen=True)
class Stay:
    """How long hospitals may come, change and go after the first refined models: until one of these holds."""

    newcomers: int = (
        0  # so many hospitals got a model for their description alone; 0: does not count
    )
    departures: int = 0  # and so many have been withdrawn
    seconds: float = 0.0  # so long after the first refined models; 0: does not count

    @property
    def any(self) -> bool:
        """Whether there is anything to stay for."""
        return self.newcomers > 0 or self.departures > 0 or self.seconds > 0


@dataclass(frozen=True)
class Refining:
    """How refined models come about, as conf/strategy/refinement.yaml describes it.

    Args:
        title: Its name in tables.
        base_rounds: Synchronous rounds of averaging that make the base; what is left of `rounds` every hospital fine-tunes in its own time.
            0: the base is `base`, or the network as the seed makes it.
        contributions: How hospitals contribute: a node of `conf/strategy/merging/`, whose rule makes the centre.
        statistics: What hospitals describe themselves by.
        rules: Rules that are tried.
        sharpness: Values that are tried.
        reach: Farther than so many medians from everybody: the uniform mean.
        neighbours: At most so many vectors in one refined model.
        stay: How long hospitals may come, change and go.
    """

    title: str
    base_rounds: int
    contributions: Part
    statistics: Sequence[str]
    rules: Sequence[str]
    sharpness: Sequence[float]
    reach: float
    neighbours: int
    stay: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.statistics) - set(statistics())):
            raise ConfigError(
                f"strategy.statistics={unknown}: only {', '.join(sorted(statistics()))} exist."
            )
        if not self.statistics or not self.rules or not self.sharpness:
            raise ConfigError(
                "strategy.statistics, strategy.rules and strategy.sharpness name at least one each."
            )
        self.recipes()
        self.merging()

    def merging(self) -> Merging:
        """How hospitals contribute."""
        merging: Merging = instantiate(self.contributions, _recursive_=False)
        return merging

    def make_stay(self) -> Stay:
        """How long hospitals may come, change and go."""
        known = {key: self.stay[key] or 0 for key in self.stay}
        return Stay(
            int(known.get("newcomers", 0)),
            int(known.get("departures", 0)),
            float(known.get("seconds", 0.0)),
        )

    def recipes(self) -> list[Recipe]:
        """Everything that is tried for hospitals that did not contribute; the uniform mean is always among it."""
        made = [
            Recipe(rule, statistic, sharpness, self.reach, self.neighbours)
            for statistic in self.statistics
            for rule in self.rules
            if rule != "uniform"
            for sharpness in (self.sharpness if rule == "softmax" else (1.0,))
        ]
        return [*made, Recipe("uniform", self.statistics[0], 1.0, self.reach, self.neighbours)]

    def own_recipes(self, chosen: Recipe) -> list[Recipe]:
        """Everything that is tried for hospitals that contributed: the same statistic, from their own vector alone to the mean."""
        sharp = [
            Recipe("softmax", chosen.statistic, value, self.reach, self.neighbours)
            for value in (*self.sharpness, GENTLE)
        ]
        return [
            *sharp,
            *(
                Recipe(rule, chosen.statistic, 1.0, self.reach, self.neighbours)
                for rule in ("nearest", "uniform", "norm_local")
            ),
        ]
