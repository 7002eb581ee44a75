"""Settings of refinement: contributions, descriptions, and the recipes to try.

Kitrungrotsakul et al.; the abstract leaves the formulas open, see `refine` for our interpretation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from polyclinic.config.compose import instantiate
from polyclinic.config.schemas import Part
from polyclinic.describing.statistics import statistic_named, statistic_names
from polyclinic.errors import ConfigError
from polyclinic_strategies.merging.asking.starts import BASE
from polyclinic_strategies.merging.strategy import Merging
from polyclinic_strategies.refinement.refine import Recipe

# additional sharpness for contributors: their own vector, and a little of the neighbours'
GENTLE = 0.8
ALONE = 2  # by default one of so many rounds is made by every hospital alone


@dataclass(frozen=True)
class Stay:
    """Conditions that end the time in which hospitals may join, change and leave.

    It begins with the first refined models; the first condition that holds ends it.
    """

    newcomers: int = 0  # this many hospitals got a model for their description alone; 0: none
    departures: int = 0  # and this many have been withdrawn
    seconds: float = 0.0  # this much time has passed; 0: no such condition

    @property
    def any(self) -> bool:
        """Whether there is any condition."""
        return self.newcomers > 0 or self.departures > 0 or self.seconds > 0


@dataclass(frozen=True)
class Refining:
    """Settings of refinement, as `conf/strategy/refinement.yaml` describes them.

    Args:
        title: Name in tables.
        base_rounds: Synchronous rounds of averaging that make the centre; None: half of all. Every
            hospital fine-tunes for the rest of `rounds`, at its own pace. 0: the base is `base`, or
            the network as the seed initializes it.
        contributions: How hospitals contribute: a node of `conf/strategy/merging/`, whose rule
            makes the centre.
        statistics: Statistics by which hospitals describe themselves.
        rules: Rules to try.
        sharpness: Values to try.
        reach: A hospital farther than this many medians from all others gets the uniform mean.
        neighbours: Largest number of vectors in one refined model.
        least_sources: No other hospital has a larger share of a model than one in so many.
        scales: Shares of the learned vectors to add to the centre, to try; 0 and 1 are always.
        stay: Conditions that end the time in which hospitals may join, change and leave.
    """

    title: str
    base_rounds: int | None
    contributions: Part
    statistics: Sequence[str]
    rules: Sequence[str]
    sharpness: Sequence[float]
    reach: float
    neighbours: int
    least_sources: int = 1
    scales: Sequence[float] = (0.5, 1.0)
    stay: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.statistics) - set(statistic_names())):
            raise ConfigError(
                f"strategy.statistics={unknown}: only {', '.join(sorted(statistic_names()))} exist."
            )
        if not self.statistics or not self.rules or not self.sharpness:
            raise ConfigError(
                "strategy.statistics, strategy.rules and strategy.sharpness: "
                "name at least one value for each."
            )
        for name in self.statistics:
            statistic_named(name)
        self.recipes()
        if (start := self.merging().start) != BASE:
            raise ConfigError(
                f"strategy.contributions.start={start}: refinement compares what hospitals learned "
                "from one centre. Leave it at base."
            )

    @property
    def _bounds(self) -> tuple[float, int, int]:
        """What all recipes have in common."""
        return self.reach, self.neighbours, self.least_sources

    def warm_rounds(self, rounds: int) -> int:
        """Return how many of all rounds average; with one round there is none."""
        if self.base_rounds is None:
            return rounds - max(1, rounds // ALONE)
        return self.base_rounds

    def merging(self) -> Merging:
        """Return how hospitals contribute."""
        merging: Merging = instantiate(self.contributions, _recursive_=False)
        return merging

    def make_stay(self) -> Stay:
        """Return the conditions that end the time in which hospitals may join, change and leave."""
        known = {key: self.stay[key] or 0 for key in self.stay}
        return Stay(
            int(known.get("newcomers", 0)),
            int(known.get("departures", 0)),
            float(known.get("seconds", 0.0)),
        )

    def recipes(self) -> list[Recipe]:
        """Return the recipes to try for hospitals without a contribution, the simplest first.

        That is the uniform mean. The centre is none of them: hospitals that play the newcomer
        helped to train it, so it seems better to them than it is for a true newcomer.
        """
        made = [
            Recipe(rule, statistic, sharpness, *self._bounds)
            for statistic in self.statistics
            for rule in self.rules
            if rule != "uniform"
            for sharpness in (self.sharpness if rule in ("posterior", "softmax") else (1.0,))
        ]
        return [Recipe("uniform", self.statistics[0], 1.0, *self._bounds), *made]

    def own_recipes(self, statistic: str) -> list[Recipe]:
        """Return the recipes to try for hospitals that contributed, the simplest first.

        They use one statistic, and range from the centre to a hospital's own vector alone.
        """
        common = [
            Recipe("uniform", statistic, 1.0, *self._bounds, scale)
            for scale in sorted({0.0, *self.scales, 1.0})
        ]
        sharp = [
            Recipe(rule, statistic, value, *self._bounds, scale)
            for rule in self.rules
            if rule in ("posterior", "softmax")
            for value in (*self.sharpness, GENTLE)
            for scale in self.scales
            if scale
        ]
        others = [
            Recipe(rule, statistic, 1.0, *self._bounds, scale)
            for rule in ("nearest", "norm_local")
            for scale in self.scales
            if scale
        ]
        return [*common, *sharp, *others]
