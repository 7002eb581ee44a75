"""The average image of a hospital's subjects, laid over each other roughly."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyclinic.describing.regions import crop_to_patient, region_grid, standardize


@dataclass(frozen=True)
class AverageImage:
    """Standardized images, cut to the patient, shrunk and averaged.

    They are shrunk to `size` voxels along each axis, and to one along an axis of length 1.

    Knows contrast, because it keeps what is bright where: two contrasts with the same marginal
    distribution differ. Distance: Euclidean.

    Reveals: the mean picture of the cohort, at `size` voxels a side. Of few subjects that is close
    to each one's anatomy (a coarse outline of ventricles, say), of many it is an atlas.
    """

    size: int = 12
    needs_network: ClassVar[bool] = False
    euclidean: ClassVar[bool] = True

    def measure(
        self, image: Float[Tensor, "channels x y z"], network: nn.Module
    ) -> Float[Tensor, " numbers"]:
        """Compute the shrunk image, (channels * size^3,), at most 1 long.

        Its length is its root mean square.
        """
        del network
        cut = standardize(crop_to_patient(image))
        small: Tensor = nn.functional.adaptive_avg_pool3d(
            cut, region_grid(image, self.size)
        ).flatten()
        small = small / small.numel() ** 0.5
        bounded: Tensor = small / torch.linalg.vector_norm(small).clamp_min(
            1.0
        )  # shrinking counts some voxels twice
        return bounded

    def distance(self, one: Float[Tensor, " numbers"], other: Float[Tensor, " numbers"]) -> float:
        """Compute the Euclidean distance."""
        return float(torch.linalg.vector_norm(one.double() - other.double()))
