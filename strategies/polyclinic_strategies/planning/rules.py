"""nnU-Net's rules: from medians of the data to voxel size, patch, batch and normalization.

- Voxel size: the median; along an axis of much larger voxels and few of them, percentile 10.
- Patch: in mm as long as it is wide, 256^3 voxels (2-D: 2048^2), no larger than the median image,
  rounded up so that the network can halve it (a median one bin above counts as not above). The
  axis that is largest relative to the median image shrinks until two patches fit the memory.
- Batch: as many patches as fit, within 5 % of all voxels of the data, at least 2.
- Intensities: CT is clipped to percentiles of the federation's foreground, and scaled by its mean
  and deviation; each other image is scaled by its own.

Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z, supplementary note 2, and its
reference implementation. Not taken over: a cascade of two resolutions, and masks of normalization.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from polyclinic.errors import ConfigError
from polyclinic.learning.networks.memory import NUMBERS_PER_GB, count_features, memory_gb
from polyclinic.learning.networks.topology import (
    COARSE,
    LEAST_SIZE,
    MOST_STAGES,
    plan_topology,
)
from polyclinic_strategies.planning.bins import RATIO
from polyclinic_strategies.planning.cohort import Cohort

ANISOTROPIC = 3.0  # ratio from which an axis is far coarser than the others
LEAST_BATCH = 2
LEAST_STAGES = 3  # of MONAI's DynUNet
LARGEST_SHARE = 0.05  # of the data's voxels in one batch
STARTING_VOXELS = {2: 2048**2, 3: 256**3}  # of a patch before it is fitted
FEATURES = 32
MOST_FEATURES = {2: 512, 3: 320}
CT = re.compile(r"ct(\b|_)", re.IGNORECASE)
CLEARLY_COARSER = 1.5  # an axis other than the last becomes that of slices


@dataclass(frozen=True)
class Geometry:
    """Patch and batch.

    Attributes:
        patch: Voxels along each axis.
        batch_size: Number of patches.
        stages: Number of the network's stages.
        memory_gb: Memory in GiB that training takes, as it is estimated.
        cut: Whether the patch had to shrink to fit the memory.
        by_data: Whether 5 % of the voxels, not memory, limit the batch.
    """

    patch: tuple[int, ...]
    batch_size: int
    stages: int
    memory_gb: float
    cut: bool
    by_data: bool


def choose_spacing(cohort: Cohort) -> tuple[tuple[float, ...], int | None]:
    """Choose the voxel size in mm; return it, and the axis that is far coarser than the others."""
    spacing, shape = list(cohort.spacing_mm()), cohort.shape()
    worst = max(range(len(spacing)), key=lambda axis: (spacing[axis], axis))
    others = [axis for axis in range(len(spacing)) if axis != worst]
    finest_of_others = max(spacing[axis] for axis in others)
    coarse = spacing[worst] > ANISOTROPIC * finest_of_others
    few = shape[worst] * ANISOTROPIC < min(shape[axis] for axis in others)
    if not (coarse and few):
        return tuple(spacing), None
    spacing[worst] = max(cohort.spacing_mm(0.1)[worst], finest_of_others)
    return tuple(spacing), worst


def choose_shape(cohort: Cohort, spacing_mm: Sequence[float]) -> tuple[int, ...]:
    """Return the median image's voxels along each axis at a voxel size."""
    return tuple(
        max(1, round(extent / spacing))
        for extent, spacing in zip(cohort.extent_mm(), spacing_mm, strict=True)
    )


def choose_dimensions(shape: Sequence[int], asked: int | None) -> tuple[int, str]:
    """Choose 2-D or 3-D; return it and why.

    Raises:
        ConfigError: 3-D is asked for, and images are single slices.
    """
    if asked == 3 and min(shape) == 1:
        raise ConfigError(
            "dimensions=3: the images of these hospitals are single slices. Plan in 2-D."
        )
    if asked is not None:
        return asked, "asked for"
    if min(shape) == 1:
        return 2, "the images are single slices"
    if min(shape) < 2 * LEAST_SIZE:
        return 2, f"the median image has {min(shape)} slices, too few to be halved once"
    return 3, f"the median image has {min(shape)} voxels along its shortest axis"


def slice_axis(shape: Sequence[int], spacing_mm: Sequence[float]) -> int:
    """Return the axis along which 2-D slices follow one another."""
    last = len(shape) - 1
    if min(shape) == 1:
        return max(axis for axis, voxels in enumerate(shape) if voxels == 1)
    coarsest = max(range(len(shape)), key=lambda axis: (spacing_mm[axis], axis))
    return coarsest if spacing_mm[coarsest] >= CLEARLY_COARSER * spacing_mm[last] else last


def choose_geometry(
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    classes: int,
    voxels_of_data: float,
    budget_gb: float,
    *,
    residual: bool = False,
) -> Geometry:
    """Choose patch and batch.

    Args:
        shape: Voxels of the median image along each axis, two or three.
        spacing_mm: Size of a voxel along each axis.
        classes: Number of classes.
        voxels_of_data: Number of voxels of all images.
        budget_gb: Memory in GiB that training may take.
        residual: Whether the network's encoder is residual.

    Raises:
        ConfigError: Not even the smallest patch fits.
    """
    dims = len(shape)
    budget = budget_gb * NUMBERS_PER_GB[dims]

    def numbers(patch: Sequence[int]) -> int:
        most = MOST_FEATURES[dims]
        return count_features(patch, spacing_mm, classes, FEATURES, most, residual=residual)

    scale = (STARTING_VOXELS[dims] * math.prod(spacing_mm)) ** (1 / dims)
    wanted = [round(scale / each) for each in spacing_mm]
    within = [max(1, min(size, most)) for size, most in zip(wanted, shape, strict=True)]
    near = _fit(_deep_enough(within, spacing_mm), spacing_mm, RATIO - 1)
    first = _fit(_deep_enough(near, spacing_mm), spacing_mm)  # a smaller patch has other strides
    patch = first
    while LEAST_BATCH * numbers(patch) > budget:
        smaller = _shrink(patch, shape, spacing_mm)
        if smaller is None:
            raise ConfigError(
                f"A memory of {budget_gb:g} GiB is too little to train this network, even on "
                f"patches of {'x'.join(map(str, patch))} voxels: plan with more (--memory-gb)."
            )
        patch = smaller
    fitting = math.floor(budget / numbers(patch))
    of_data = round(LARGEST_SHARE * voxels_of_data / math.prod(patch))
    batch = max(LEAST_BATCH, min(fitting, of_data))
    used = memory_gb(numbers(patch) * batch, dims)
    stages = _stages(patch, spacing_mm)
    return Geometry(patch, batch, stages, used, patch != first, of_data < fitting)


def is_ct(name: str) -> bool:
    """Tell whether a channel's name says that it is CT."""
    return CT.match(name.strip()) is not None


def _fit(patch: Sequence[int], spacing_mm: Sequence[float], slack: float = 0.0) -> tuple[int, ...]:
    """Enlarge a patch so that the network's strides divide it; its size is sure up to `slack`."""
    factors = _factors(patch, spacing_mm)
    return tuple(
        math.ceil(size * (1 - slack) / factor) * factor
        for size, factor in zip(patch, factors, strict=True)
    )


def _deep_enough(patch: Sequence[int], spacing_mm: Sequence[float]) -> Sequence[int]:
    """Enlarge a patch until the network has `LEAST_STAGES`: along its fine axes first, then all."""
    fine = [each < COARSE * min(spacing_mm) for each in spacing_mm]
    least = LEAST_SIZE
    while _stages(patch, spacing_mm) < LEAST_STAGES:
        least += LEAST_SIZE
        for chosen in (fine, [True] * len(fine)):
            larger = [
                max(size, least) if grows else size
                for size, grows in zip(patch, chosen, strict=True)
            ]
            if _stages(larger, spacing_mm) >= LEAST_STAGES:
                return larger
    return patch


def _stages(patch: Sequence[int], spacing_mm: Sequence[float]) -> int:
    return len(plan_topology(patch, spacing_mm).strides[:MOST_STAGES])


def _factors(patch: Sequence[int], spacing_mm: Sequence[float]) -> list[int]:
    strides = plan_topology(patch, spacing_mm).strides[:MOST_STAGES]
    return [math.prod(step[axis] for step in strides) for axis in range(len(patch))]


def _shrink(
    patch: tuple[int, ...], shape: Sequence[int], spacing_mm: Sequence[float]
) -> tuple[int, ...] | None:
    """Shorten the axis that is largest relative to the median image, by the least that fits.

    Another axis if the network would have too few stages; None if that is so for each of them.
    """
    axes = range(len(patch))
    for axis in sorted(axes, key=lambda axis: (patch[axis] / shape[axis], axis), reverse=True):
        # a shorter patch may be halved less often: then less is cut off
        shorter = _shortened(patch, axis, _factors(patch, spacing_mm)[axis])
        shorter = _shortened(patch, axis, _factors(shorter, spacing_mm)[axis])
        smaller = _fit(shorter, spacing_mm)
        deep = _stages(smaller, spacing_mm) >= LEAST_STAGES
        if deep and math.prod(smaller) < math.prod(patch):
            return smaller
    return None


def _shortened(patch: Sequence[int], axis: int, by: int) -> list[int]:
    return [max(1, size - by) if at == axis else size for at, size in enumerate(patch)]
