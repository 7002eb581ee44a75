"""A network that is as small as a network can be."""

from torch import Tensor, nn


class Thin(nn.Module):
    """One hidden layer of 3 x 3 convolutions."""

    def __init__(self, in_channels: int, out_channels: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, width, 3, padding=1)
        self.last = nn.Conv2d(width, out_channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, classes, H, W)."""
        return self.last(self.first(images).relu())
