"""Network that recognizes people.

It maps an image to a point on a sphere, with images of the same person close together.

Two copies of it, one on each of a pair, are the Siamese discriminator of Kim et al. 2020,
https://arxiv.org/abs/2011.12835.
"""

from torch import Tensor, nn
from torch.nn import functional


class IdentityNetwork(nn.Module):
    """Network from images to unit vectors; the cosine of two of them tells how similar they are.

    Args:
        shape: Of an image, multiples of 8.
        inputs: Channels of an image.
        channels: Of the three strided stages.
        features: Length of the vectors.

    Shapes:
        image: (B, inputs, *shape).
        returns: (B, features), of length 1.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        inputs: int = 1,
        channels: tuple[int, int, int] = (16, 32, 64),
        features: int = 64,
    ) -> None:
        super().__init__()
        first, second, third = channels
        self.stages = nn.Sequential(
            _stage(inputs, first, 2),
            _stage(first, second, 2),
            _stage(second, third, 2),
            _stage(third, third, 1),
            nn.Flatten(),
        )
        height, width, depth = (size // 8 for size in shape)
        # where a shape lies matters: nothing is pooled
        self.head = nn.Linear(third * height * width * depth, features)

    def forward(self, image: Tensor) -> Tensor:
        """Compute the vectors, see the class."""
        return functional.normalize(self.head(self.stages(image)), dim=1)


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, stride, padding=1),
        nn.InstanceNorm3d(outputs, affine=True),
        nn.LeakyReLU(0.1),
    )
