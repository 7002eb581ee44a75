"""Who is near whom: distances between hospitals' descriptions, kept so that a change of one hospital measures only its own again."""

from collections.abc import Mapping
from itertools import combinations
from statistics import median

from torch import Tensor

from polyclinic.state_dict import StateDict
from polyclinic.statistics.describing import STATISTICS


class Neighbourhood:
    """Distances by one statistic between the hospitals that contributed, and to those that only described themselves.

    Args:
        statistic: One of `STATISTICS`.
    """

    def __init__(self, statistic: str) -> None:
        self.statistic = statistic
        self._measure = STATISTICS[statistic].distance
        self._means: dict[str, Tensor] = {}
        self._pairs: dict[frozenset[str], float] = {}
        self._units: dict[tuple[str, ...], float] = {}

    def update(self, descriptions: Mapping[str, StateDict]) -> None:
        """Take in who is there now, and how each describes itself; only what is new or changed is measured."""
        means = {site: found[self.statistic] for site, found in descriptions.items() if self.statistic in found}
        kept = {site for site, mean in means.items() if site in self._means and self._means[site].equal(mean)}
        self._pairs = {pair: distance for pair, distance in self._pairs.items() if pair <= kept}
        self._means, self._units = means, {}

    @property
    def sites(self) -> list[str]:
        """Whoever is described by this statistic, by name."""
        return sorted(self._means)

    def distance(self, one: str, other: str) -> float:
        """Between two hospitals; 0 to itself.

        Raises:
            KeyError: One of them is not described.
        """
        if one == other:
            return 0.0
        pair = frozenset((one, other))
        if pair not in self._pairs:
            self._pairs[pair] = self._measure(self._means[one], self._means[other])
        return self._pairs[pair]

    def unit(self, among: list[str]) -> float:
        """The median distance between two of these hospitals: what near and far are told by; 1 if there is none."""
        key = tuple(among)
        if key not in self._units:
            found = [self.distance(one, other) for one, other in combinations(among, 2)]
            self._units[key] = (median(found) if found else 0.0) or 1.0
        return self._units[key]
