"""Depth, strides and kernels of a U-Net, as they follow from patch and voxel size.

An axis is halved as long as its patch is large enough and its voxels are not much larger than the
smallest; a kernel reaches along an axis once that axis is no longer much coarser than the finest.

Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z, supplementary note 2.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_SIZE = 4  # voxels of the deepest features along an axis
COARSE = 2.0  # an axis whose voxels are so many times the smallest is coarse
MOST_STAGES = 7  # of a network; a larger patch is not halved further


@dataclass(frozen=True)
class Topology:
    """Stages of a U-Net, from the image to the deepest.

    Attributes:
        kernels: Size of the convolutions' kernel along each axis, of every stage.
        strides: Step along each axis with which a stage begins; 1 everywhere for the first.
        patch: The patch that was asked for, enlarged so that every stride divides it.
    """

    kernels: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    patch: tuple[int, ...]


def plan_topology(
    patch: Sequence[int], spacing_mm: Sequence[float], least_size: int = LEAST_SIZE
) -> Topology:
    """Compute the stages of a U-Net.

    Args:
        patch: Voxels along each axis.
        spacing_mm: Size of a voxel along each axis, in mm.
        least_size: Number of voxels of the deepest features along an axis.

    Raises:
        ValueError: The two have different lengths.
    """
    if len(patch) != len(spacing_mm):
        raise ValueError(f"a patch of {len(patch)} axes and {len(spacing_mm)} voxel sizes")
    size, spacing = [float(each) for each in patch], [float(each) for each in spacing_mm]
    kernel = [1] * len(size)
    kernels: list[tuple[int, ...]] = []
    strides: list[tuple[int, ...]] = [(1,) * len(size)]
    while True:
        halved = _axes_to_halve(size, spacing, least_size)
        if not halved:
            break
        kernel = _grown(kernel, spacing)
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in halved else 1 for axis in range(len(size))))
        for axis in halved:
            size[axis], spacing[axis] = math.ceil(size[axis] / 2), spacing[axis] * 2
    kernels.append((3,) * len(size))
    factors = [math.prod(step[axis] for step in strides) for axis in range(len(size))]
    whole = tuple(
        math.ceil(wanted / factor) * factor for wanted, factor in zip(patch, factors, strict=True)
    )
    return Topology(tuple(kernels), tuple(strides), whole)


def _axes_to_halve(size: list[float], spacing: list[float], least_size: int) -> set[int]:
    large = [axis for axis, voxels in enumerate(size) if voxels >= 2 * least_size]
    if not large:
        return set()
    finest = min(spacing[axis] for axis in large)
    fine = [axis for axis in large if spacing[axis] < COARSE * finest]
    if len(fine) == 1 and size[fine[0]] < 3 * least_size:
        return set()
    return set(fine)


def _grown(kernel: list[int], spacing: list[float]) -> list[int]:
    finest = min(spacing)
    return [
        3 if before == 3 or each < COARSE * finest else 1
        for before, each in zip(kernel, spacing, strict=True)
    ]
