"""Distances between hospitals' descriptions.

They are kept, so that a change of one hospital requires only its own distances again.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import median

from torch import Tensor

from polyclinic.describing.statistics import measure_distance, statistic_named
from polyclinic.learning.state_dict import StateDict


class Neighbourhood:
    """Distances by one statistic, between all hospitals that contributed or described themselves.

    Args:
        statistic: Name of an installed statistic.
    """

    def __init__(self, statistic: str) -> None:
        self.statistic = statistic
        statistic_named(statistic)  # refuses a name that is not installed
        self._means: dict[str, Tensor] = {}
        self._known: dict[str, dict[str, float]] = {}  # site -> other -> distance, both ways
        self._units: dict[tuple[str, ...], float] = {}

    def update(self, descriptions: Mapping[str, StateDict]) -> None:
        """Take over the present descriptions; distances of unchanged hospitals are kept.

        A description of another length than most have cannot be compared: its hospital counts as
        not described.
        """
        means = {
            site: found[self.statistic]
            for site, found in descriptions.items()
            if self.statistic in found
        }
        usual = Counter(mean.shape for mean in means.values()).most_common(1)
        means = {site: mean for site, mean in means.items() if mean.shape == usual[0][0]}
        gone = [
            site
            for site, mean in self._means.items()
            if site not in means or not means[site].equal(mean)
        ]
        for site in gone:
            for other in self._known.pop(site, {}):
                self._known.get(other, {}).pop(site, None)
        if gone or set(means) != set(self._means):
            self._units = {}
        self._means = means

    @property
    def sites(self) -> list[str]:
        """Names of the hospitals that are described by this statistic, sorted."""
        return sorted(self._means)

    def knows(self, site: str) -> bool:
        """Tell whether a hospital is described by this statistic."""
        return site in self._means

    def distance(self, one: str, other: str) -> float:
        """Return the distance between two hospitals; 0 for a hospital and itself.

        Raises:
            KeyError: One of them is not described.
            StatisticInvalid: The statistic failed, or what it returned is no distance.
        """
        if one == other:
            return 0.0
        known = self._known.setdefault(one, {})
        if other not in known:
            known[other] = measure_distance(self.statistic, self._means[one], self._means[other])
            self._known.setdefault(other, {})[one] = known[other]
        return known[other]

    def unit(self, among: Sequence[str]) -> float:
        """Return the median distance between two of these hospitals; 1 if there is none.

        Other distances are given in this unit.
        """
        key = tuple(among)
        if key not in self._units:
            found = [self.distance(one, other) for one, other in combinations(among, 2)]
            self._units[key] = (median(found) if found else 0.0) or 1.0
        return self._units[key]
