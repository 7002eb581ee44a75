"""Histogram matching: an image gets the intensities of a reference.

A warp does not change intensities, which tell scanners and people apart.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 100
LOWEST = 0.005  # quantile of the foreground; darker voxels are edges, half air
HIGHEST = 0.995  # quantile of the foreground
_AIR_DEVIATIONS = 3.0  # a voxel this many deviations above the air's median is not air
_AIR_SHARE = 0.02  # share of the bright tissue's intensity; darker voxels are always air


@dataclass(frozen=True, eq=False)
class Intensities:
    """A monotone, piecewise linear lookup.

    Attributes:
        values: (knots,), in the image's own units, rising.
        targets: (knots,), 0 up to the first value.
    """

    values: Tensor
    targets: Tensor

    def __call__(self, image: Tensor) -> Tensor:
        """Look up every voxel; beyond the last knot, its target is used.

        Args:
            image: Any shape, float32.
        """
        above = torch.bucketize(image, self.values).clamp_(1, len(self.values) - 1)
        slopes = self.targets.diff() / self.values.diff()
        found = self.targets[above - 1] + (image - self.values[above - 1]) * slopes[above - 1]
        return found.clamp_(0.0, float(self.targets[-1]))


def air_level(air: Tensor, bright: float) -> float:
    """Return the intensity above which a voxel is not air.

    Args:
        air: (voxels,), outside the patient; empty for an image without air.
        bright: Intensity of the brightest tissue.
    """
    if air.numel() == 0:
        return _AIR_SHARE * bright
    middle = air.median()
    # for a normal distribution, this is the standard deviation
    spread = 1.4826 * (air - middle).abs().median()
    return max(float(middle + _AIR_DEVIATIONS * spread), _AIR_SHARE * bright)


def match_histogram(foreground: Tensor, reference: Tensor, air: float) -> Intensities:
    """Find the lookup that maps the foreground's quantiles to the reference's.

    Args:
        foreground: (voxels,), the patient's, all above `air`.
        reference: (voxels,), of the reference's brain, above 0.
        air: This intensity and everything below becomes 0.

    Raises:
        ValueError: A side has no voxel.

    Nyul and Udupa 1999,
    https://doi.org/10.1002/(SICI)1522-2594(199912)42:6<1072::AID-MRM11>3.0.CO;2-M, with every
    percentile a landmark.
    """
    if foreground.numel() == 0 or reference.numel() == 0:
        raise ValueError("a histogram of no voxels cannot be matched")
    shares = torch.linspace(LOWEST, HIGHEST, BINS)
    own, wanted = (_quantiles(each, shares) for each in (foreground, reference))
    values = torch.cat([torch.tensor([air]), own, foreground.max().view(1)])
    targets = torch.cat([torch.zeros(1), wanted, reference.max().view(1)])
    rising = torch.ones(len(values), dtype=torch.bool)
    rising[1:] = values[1:] > values.cummax(0).values[:-1]  # of equal intensities, the first counts
    if int(rising.sum()) < 2:
        targets = torch.tensor([0.0, float(reference.median())])
        return Intensities(torch.tensor([air, air + 1.0]), targets)
    return Intensities(values[rising], targets[rising].cummax(0).values)


def _quantiles(values: Tensor, shares: Tensor) -> Tensor:
    ordered = values.float().sort().values
    places = shares * (len(ordered) - 1)
    low = places.floor().long()
    return torch.lerp(ordered[low], ordered[(low + 1).clamp(max=len(ordered) - 1)], places - low)
