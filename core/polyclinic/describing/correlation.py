"""How well two hospitals' average images agree inside the patient."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyclinic.describing.average_image import AverageImage


@dataclass(frozen=True)
class Correlation:
    """The average image, compared by correlation inside the patient.

    It sees the sign of a contrast, and not how strong the contrast is.

    Distance: 1 - Pearson's correlation over the voxels that are inside in both averages, 0 .. 2.

    Reveals: the same as `AverageImage`, at `size` voxels a side.
    """

    size: int = 12
    needs_network: ClassVar[bool] = False

    def measure(
        self, image: Float[Tensor, "channels x y z"], network: nn.Module
    ) -> Float[Tensor, " numbers"]:
        """Compute the shrunk image, (channels * size^3,), as `AverageImage`."""
        return AverageImage(self.size).measure(image, network)

    def distance(self, one: Float[Tensor, " numbers"], other: Float[Tensor, " numbers"]) -> float:
        """Compute 1 - correlation; 1 where one of them is constant."""
        both = (one != 0) & (other != 0)
        first, second = (each[both].double() for each in (one, other))
        first, second = (
            (each - each.mean() for each in (first, second))
            if bool(both.any())
            else (first, second)
        )
        scale = float(torch.linalg.vector_norm(first) * torch.linalg.vector_norm(second))
        return 1.0 - max(-1.0, min(1.0, float(first @ second) / scale)) if scale > 0 else 1.0
