"""Fixed bins of a fingerprint's histograms, and what can be read from them.

- Lengths (voxel size in mm, extent in mm, extent in voxels): each bin is 1 % wide.
- Intensities: bins of equal width of asinh(value), so that they are 0.02 wide around 0 and 2 % wide
  far from it, on both sides. That is 2 HU at 100 HU, and it fits any unit of MR.

A value beyond the first or last bin counts in it.
"""

import math

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
RATIO = 1.01  # of the edges of a bin of lengths
STEP = 0.02  # of asinh(intensity)
MOST = 1e7  # largest intensity
SLACK = 1e-6  # of a share, by which float32 may round it


def _lengths(low: float, high: float) -> Numbers:
    count = math.ceil(math.log(high / low) / math.log(RATIO))
    return np.asarray(low * RATIO ** np.arange(count + 1), np.float64)


SPACING_EDGES = _lengths(1e-3, 1e3)  # mm
EXTENT_EDGES = _lengths(1e-2, 1e4)  # mm
SHAPE_EDGES = _lengths(0.5, 2**16)  # voxels
_HALF = math.ceil(math.asinh(MOST) / STEP)
INTENSITY_EDGES = np.sinh(STEP * (np.arange(-_HALF, _HALF + 2) - 0.5))  # 0 lies in the middle


def count_of(edges: Numbers) -> int:
    """Count the bins."""
    return len(edges) - 1


def one_hot(value: float, edges: Numbers) -> Numbers:
    """Return the histogram of one value."""
    found = np.zeros(count_of(edges))
    found[_places(np.asarray([value]), edges)[0]] = 1.0
    return found


def shares(values: NDArray[np.float32], edges: Numbers) -> Numbers:
    """Return the share of the values in each bin; all 0 if there is no value."""
    counts = np.bincount(_places(values, edges), minlength=count_of(edges))
    return counts / max(1, len(values))


def percentile(histogram: Numbers, share: float) -> int:
    """Find the bin of a percentile: the first up to which so large a share lies.

    Args:
        histogram: Shares, or counts, of each bin.
        share: 0 to 1; 0.5 is the lower median.

    Raises:
        ValueError: The histogram is empty.
    """
    along = histogram.cumsum()
    if not along[-1] > 0:
        raise ValueError("an empty histogram has no percentile")
    return int(np.searchsorted(along, along[-1] * max(share - SLACK, SLACK)))


def centre(place: int, edges: Numbers) -> float:
    """Return the middle of a bin."""
    return float((edges[place] + edges[place + 1]) / 2)


def simplest(place: int, edges: Numbers) -> float:
    """Return the number of a bin of lengths that has the fewest digits, such as 0.62 or 3.6.

    Of several, the one nearest to the middle.
    """
    low, high, middle = float(edges[place]), float(edges[place + 1]), centre(place, edges)
    for digits in range(1, 8):
        unit = 10.0 ** (math.floor(math.log10(middle)) + 1 - digits)
        first, last = math.ceil(low / unit), math.ceil(high / unit) - 1
        if first <= last:
            return float(f"{min(max(round(middle / unit), first), last) * unit:.10g}")
    return middle


def whole(place: int, edges: Numbers) -> int:
    """Return the whole number of a bin that is nearest to its middle, at least 1."""
    low, high = math.ceil(edges[place]), math.ceil(edges[place + 1]) - 1
    nearest = min(max(round(centre(place, edges)), low), high)
    return max(1, int(nearest))


def mean_and_deviation(histogram: Numbers, edges: Numbers) -> tuple[float, float]:
    """Return mean and standard deviation, each value taken for the middle of its bin."""
    middles = (edges[:-1] + edges[1:]) / 2
    weights = histogram / histogram.sum()
    mean = float(weights @ middles)
    return mean, float(math.sqrt(max(0.0, weights @ (middles - mean) ** 2)))


def _places(values: NDArray[np.floating], edges: Numbers) -> NDArray[np.intp]:
    found = np.searchsorted(edges, values, side="right") - 1
    return np.clip(found, 0, count_of(edges) - 1)
