"""Distances between hospitals' descriptions.

They are kept, so that a change of one hospital requires only its own distances again.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, median

from torch import Tensor

from polyclinic.describing.statistics import measure_distance, statistic_named
from polyclinic.describing.uncertainty import error_name
from polyclinic.learning.state_dict import StateDict


@dataclass(frozen=True)
class _Mean:
    """A hospital's mean by one statistic, and its variance; 0 where nobody knows it."""

    numbers: Tensor
    variance: float

    def equals(self, other: "_Mean | None") -> bool:
        """Tell whether both say the same."""
        return (
            other is not None
            and self.variance == other.variance
            and self.numbers.equal(other.numbers)
        )


class Neighbourhood:
    """Distances by one statistic, between all hospitals that contributed or described themselves.

    A squared distance between two means is too large by the variances of both: that much is
    subtracted where hospitals told it, and what is left is at least 0
    (`polyclinic.describing.uncertainty`).

    Args:
        statistic: Name of an installed statistic.
    """

    def __init__(self, statistic: str) -> None:
        self.statistic = statistic
        statistic_named(statistic)  # refuses a name that is not installed
        self._means: dict[str, _Mean] = {}
        self._known: dict[str, dict[str, float]] = {}  # site -> other -> distance, both ways
        self._units: dict[tuple[str, ...], float] = {}
        self._noises: dict[tuple[str, ...], float] = {}

    def update(self, descriptions: Mapping[str, StateDict]) -> None:
        """Take over the present descriptions; distances of unchanged hospitals are kept.

        A description of another length than most have cannot be compared: its hospital counts as
        not described.
        """
        variance = error_name(self.statistic)
        means = {
            site: _Mean(found[self.statistic], float(found[variance]) if variance in found else 0.0)
            for site, found in descriptions.items()
            if self.statistic in found
        }
        usual = Counter(mean.numbers.shape for mean in means.values()).most_common(1)
        means = {site: mean for site, mean in means.items() if mean.numbers.shape == usual[0][0]}
        gone = [site for site, mean in self._means.items() if not mean.equals(means.get(site))]
        for site in gone:
            for other in self._known.pop(site, {}):
                self._known.get(other, {}).pop(site, None)
        if gone or set(means) != set(self._means):
            self._units, self._noises = {}, {}
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
            known[other] = self._measure(self._means[one], self._means[other])
            self._known.setdefault(other, {})[one] = known[other]
        return known[other]

    def noise(self, site: str, among: Sequence[str]) -> float:
        """Return the variance of a difference of two means: this hospital's, and the mean of all.

        It is one figure for all of them. With one for each, a hospital of which little is known
        would look like the nearest to everybody.
        """
        key = tuple(among)
        if key not in self._noises:
            self._noises[key] = fmean(self._means[each].variance for each in among)
        return self._means[site].variance + self._noises[key]

    def unit(self, among: Sequence[str]) -> float:
        """Return the median distance between two of these hospitals; 1 if there is none.

        Other distances are given in this unit.
        """
        key = tuple(among)
        if key not in self._units:
            found = [self.distance(one, other) for one, other in combinations(among, 2)]
            self._units[key] = (median(found) if found else 0.0) or 1.0
        return self._units[key]

    def _measure(self, one: _Mean, other: _Mean) -> float:
        found = measure_distance(self.statistic, one.numbers, other.numbers)
        extra = one.variance + other.variance
        return math.sqrt(max(0.0, found**2 - extra)) if extra else found
