"""All hospitals' cases together, as far as their fingerprints tell: medians and percentiles."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from polyclinic.federation.grids.gate import weigh
from polyclinic_strategies.planning.bins import (
    EXTENT_EDGES,
    INTENSITY_EDGES,
    SHAPE_EDGES,
    SPACING_EDGES,
    centre,
    mean_and_deviation,
    percentile,
    simplest,
    whole,
)
from polyclinic_strategies.planning.fingerprint import AXES, Fingerprint, Parts

LOW, HIGH = 0.005, 0.995  # percentiles between which intensities of CT are kept


@dataclass(frozen=True, eq=False)
class Cohort:
    """The cases of all hospitals together.

    Attributes:
        weights: Number of patients for which each hospital counts.
        parts: Means over all patients, see `Fingerprint`.
    """

    weights: Mapping[str, int]
    parts: Parts

    @property
    def patients(self) -> int:
        """Number of patients, as far as hospitals count."""
        return sum(self.weights.values())

    def spacing_mm(self, share: float = 0.5) -> tuple[float, ...]:
        """Return a percentile of the voxel size, of each axis."""
        return tuple(
            simplest(percentile(each, share), SPACING_EDGES) for each in self.parts["spacing"]
        )

    def shape(self) -> tuple[int, ...]:
        """Return the median number of voxels along each axis, without borders that are 0."""
        return tuple(whole(percentile(each, 0.5), SHAPE_EDGES) for each in self.parts["shape"])

    def extent_mm(self) -> tuple[float, ...]:
        """Return the median size in mm along each axis, without borders that are 0."""
        return tuple(simplest(percentile(each, 0.5), EXTENT_EDGES) for each in self.parts["extent"])

    def intensities(self) -> list[tuple[float, float, float, float] | None]:
        """Return percentiles 0.5 and 99.5, mean and deviation within the foreground, by channel.

        None for a channel of which no case has foreground.
        """
        found: list[tuple[float, float, float, float] | None] = []
        for each in self.parts["intensity"]:
            if not each.sum() > 0:
                found.append(None)
                continue
            low, high = (centre(percentile(each, share), INTENSITY_EDGES) for share in (LOW, HIGH))
            found.append((low, high, *mean_and_deviation(each, INTENSITY_EDGES)))
        return found

    @property
    def box_share(self) -> float:
        """Share of an image's voxels that lie within its borders of 0."""
        return float(self.parts["box"][0])

    @property
    def are_pictures(self) -> bool:
        """Whether most files have no voxel size."""
        return bool(self.parts["pictures"][0] > 0.5)


def combine(found: Mapping[str, Fingerprint], most_ratio: float = 0.0) -> Cohort:
    """Put the fingerprints of hospitals together.

    Args:
        found: Fingerprint by hospital.
        most_ratio: The most that a hospital counts, in medians of the others' numbers of patients;
            0 for no limit.

    Raises:
        ValueError: There is no fingerprint.
    """
    if not found:
        raise ValueError("no fingerprint")
    weights = weigh({site: each.subjects for site, each in found.items()}, most_ratio)
    total = sum(weights.values())
    first = next(iter(found.values())).parts
    parts = {
        name: np.sum(
            [found[site].parts[name] * (weights[site] / total) for site in sorted(found)], axis=0
        )
        for name in first
    }
    assert len(parts["spacing"]) == AXES
    return Cohort(weights, parts)
