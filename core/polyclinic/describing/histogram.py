"""The distribution of standardized intensities inside the patient."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyclinic.describing.regions import standardize
from polyclinic.imaging.foreground import foreground


@dataclass(frozen=True)
class Histogram:
    """Shares of the voxels in `bins` bins of -`reach` .. `reach` standard deviations.

    What lies outside counts in the outermost bins.

    Marginal: knows how many voxels are how bright, not where. Distance: Wasserstein-1 in standard
    deviations, mean over channels.

    Reveals: the cohort's mean shares of tissues; little of any one subject (an unusual volume of
    fluid shifts it by 1/subjects).
    """

    bins: int = 32
    reach: float = 3.0
    needs_network: ClassVar[bool] = False

    def measure(
        self, image: Float[Tensor, "channels x y z"], network: nn.Module
    ) -> Float[Tensor, " numbers"]:
        """Compute the shares, (channels * bins,), at most 1 long.

        Each channel's shares sum to 1 / channels.
        """
        del network
        values = standardize(image)[:, foreground(image)].clamp(-self.reach, self.reach)
        shares = [
            torch.histc(channel, self.bins, -self.reach, self.reach) / channel.numel()
            for channel in values
        ]
        return torch.cat(shares) / len(shares)

    def distance(self, one: Float[Tensor, " numbers"], other: Float[Tensor, " numbers"]) -> float:
        """Compute Wasserstein-1, the area between the distribution functions."""
        difference = (one.double() - other.double()).reshape(-1, self.bins)
        return float(difference.cumsum(1).abs().sum()) * 2 * self.reach / self.bins
