"""Features of the base's first convolution, kept in place."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyclinic.describing.channel_gaussians import features_of
from polyclinic.describing.regions import crop_to_patient, region_grid, standardize


@dataclass(frozen=True)
class EarlyFeatures:
    """Features of the base's first convolution, shrunk to `size` places a side, and averaged.

    Spatial like the average image, in the terms in which the network sees it: edges and textures
    too. Distance: Euclidean.

    Reveals: about as much as the average image at `size` voxels a side, with edges.
    """

    size: int = 6
    needs_network: ClassVar[bool] = True
    euclidean: ClassVar[bool] = True

    def measure(
        self, image: Float[Tensor, "channels x y z"], network: nn.Module
    ) -> Float[Tensor, " numbers"]:
        """Compute the features, (features * size^3,), 1 long; 0 of a constant image.

        Each feature is taken without its mean over the places.
        """
        cut = standardize(crop_to_patient(image))
        (features,) = features_of(network, cut, first_only=True)
        centred = (features - features.mean((1, 2, 3), keepdim=True)) * bool(
            cut.any()
        )  # of a constant, rounding errors would be left
        small: Tensor = nn.functional.adaptive_avg_pool3d(
            centred, region_grid(image, self.size)
        ).flatten()
        directed: Tensor = small / torch.linalg.vector_norm(small).clamp_min(1e-12)
        return directed

    def distance(self, one: Float[Tensor, " numbers"], other: Float[Tensor, " numbers"]) -> float:
        """Compute the Euclidean distance."""
        return float(torch.linalg.vector_norm(one.double() - other.double()))
