"""Memory that training a planned network takes, estimated from the sizes of its features.

The estimate counts the numbers that convolutions make of one patch. nnU-Net found that 8 GiB hold
1.12e9 of them in 3-D (560e6 for each of two patches) and 1.02e9 in 2-D (85e6 for each of twelve),
with their gradients, in mixed precision.

Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z, supplementary note 2.
"""

import math
from collections.abc import Sequence

from polyclinic.config.schemas import JobConfig
from polyclinic.learning.networks.topology import MOST_STAGES, plan_topology

PLANNED = "polyclinic.learning.networks.dynunet.PlannedUNet"
NUMBERS_PER_GB = {2: 85e6 * 12 / 8, 3: 560e6 * 2 / 8}  # by the number of axes
ON_CPU = 1.5  # of this memory is taken in float32 on a CPU, as measured with 40 x 56 x 40 voxels
PLAIN, RESIDUAL = 2, 3  # convolutions of an encoder's stage; a residual one has a third, of 1 voxel
UPWARDS = 3  # of a decoder's stage, with the transposed one
UNJUDGED = 3  # stages without a head: the deepest, and the lowest two of the way up but one


def count_features(
    patch: Sequence[int],
    spacing_mm: Sequence[float],
    classes: int,
    features: int = 32,
    most_features: int = 320,
    *,
    residual: bool = False,
) -> int:
    """Count the numbers that a planned network's convolutions make of one patch.

    Args:
        patch: Voxels along each axis.
        spacing_mm: Size of a voxel along each axis, in mm.
        classes: Number of the network's outputs.
        features: Number of features of the first stage.
        most_features: The most features of a stage.
        residual: Whether the encoder's blocks are residual.
    """
    strides = plan_topology(patch, spacing_mm).strides[:MOST_STAGES]
    size, total = list(patch), 0
    for stage, step in enumerate(strides):
        size = [max(1, voxels // each) for voxels, each in zip(size, step, strict=True)]
        width = min(features * 2**stage, most_features)
        layers = (RESIDUAL if residual else PLAIN) * width
        if stage < len(strides) - 1:
            layers += UPWARDS * width
        if stage < max(1, len(strides) - UNJUDGED + 1):
            layers += classes
        total += layers * math.prod(size)
    return total


def memory_gb(numbers: float, dimensions: int) -> float:
    """Return the memory in GiB that so many numbers take while a network is trained."""
    return numbers / NUMBERS_PER_GB[dimensions]


def estimate_memory_gb(job: JobConfig) -> float:
    """Estimate the memory in GiB that a job's training takes; 0 for a network that is not planned.

    Args:
        job: Its model tells the number of features, its data the patch.
    """
    model, data = job.model, job.data
    if model.get("_target_") != PLANNED or data.spatial_dims not in NUMBERS_PER_GB:
        return 0.0
    spacing = (data.spacing_mm or (1.0,) * 3)[: data.spatial_dims]
    numbers = count_features(
        data.patch,
        spacing,
        len(data.labels),
        int(model.get("features", 32)),
        int(model.get("most_features", 320)),
        residual=bool(model.get("residual", False)),
    )
    return memory_gb(numbers * job.training.batch_size, data.spatial_dims)
