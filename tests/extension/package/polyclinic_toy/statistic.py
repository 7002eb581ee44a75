"""How bright a hospital's images are."""

from typing import ClassVar

import torch
from torch import Tensor, nn


class Brightness:
    """Mean intensity of each channel, squashed to (-1, 1) and divided by the number of channels."""

    needs_network: ClassVar[bool] = False

    def measure(self, image: Tensor, network: nn.Module) -> Tensor:
        """Shape (channels,); at most 1 long."""
        del network
        return torch.tanh(image.flatten(1).mean(1)) / len(image)

    def distance(self, one: Tensor, other: Tensor) -> float:
        """Euclidean."""
        return float((one - other).norm())
