"""Network that turns an image and a key into a velocity.

It is a U-Net whose decoder is given the key at every level.

It looks at the image at twice the resolution of the velocity, so that following the field costs
little. Kim et al. 2020, https://arxiv.org/abs/2011.12835, condition their generator on a random
vector; here the key is itself a smooth random field, because what it decides, where content goes,
is spatial.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from polyclinic.imaging.smoothing import smooth

SPATIAL_DIMS = 3


class FlowGenerator(nn.Module):
    """Network from image and key to velocity.

    Args:
        channels: Of the three levels of the U-Net, from the velocity's grid downwards.
        smoothness: Sigma of the Gaussian that smooths the velocity, in its voxels.
        bound: No component of the velocity exceeds this, in its voxels.

    Shapes:
        image: (B, 2, 2H, 2W, 2D), the image and the reference that all images are aligned to.
        key: (B, 3, H, W, D); H, W, D are multiples of 4.
        returns: (B, 3, H, W, D), a stationary velocity in voxels of this grid, see
            `polyclinic.imaging.deformation.exponentiate`.
    """

    def __init__(
        self,
        channels: tuple[int, int, int] = (24, 32, 48),
        smoothness: float = 0.8,
        bound: float = 4.0,
    ) -> None:
        super().__init__()
        first, second, third = channels
        self.channels, self.smoothness, self.bound = channels, smoothness, bound
        self.stem = nn.Sequential(_convolve(2, first, stride=2), _convolve(first, first))
        self.down = _convolve(first, second, stride=2)
        self.bottom = nn.Sequential(_convolve(second, third, stride=2), _convolve(third, third))
        self.up = _convolve(third + second + SPATIAL_DIMS, second)
        self.top = nn.Sequential(
            _convolve(second + first + SPATIAL_DIMS, first), _convolve(first, first)
        )
        self.head = nn.Conv3d(first, SPATIAL_DIMS, 3, padding=1)
        nn.init.normal_(self.head.weight, std=1e-3)  # the first fields move nothing
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def forward(self, image: Tensor, key: Tensor) -> Tensor:
        """Compute the velocity, see the class."""
        velocity = self.bound * torch.tanh(self.head(self.decode(image, key)) / self.bound)
        return smooth(velocity, self.smoothness)

    def decode(self, image: Tensor, key: Tensor) -> Tensor:
        """Compute the features of which the velocity is a linear function, before its bound."""
        fine = self.stem(image)
        middle = self.down(fine)
        found = self.up(
            torch.cat([_resize(self.bottom(middle), middle), middle, _resize(key, middle)], 1)
        )
        features: Tensor = self.top(torch.cat([_resize(found, fine), fine, key], 1))
        return features


def _convolve(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    width = 4 if stride == 2 else 3
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, width, stride, padding=1),
        nn.InstanceNorm3d(outputs, affine=True),
        nn.LeakyReLU(0.1),
    )


def _resize(field: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(field, size=like.shape[2:], mode="trilinear")
