"""Encoders of a universal model: small, of MONAI's parts, networks that give feature maps.

All read images of `in_channels` and give a list of maps, fine to coarse; `widths` are the maps'
channels.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from monai.networks.blocks.dynunet_block import UnetResBlock
from monai.networks.nets import ViT
from torch import Tensor, nn
from torch.nn import functional

GROUP = 8  # channels that are normalized together


class ConvolutionalEncoder(nn.Module):
    """Small residual network whose stages halve the image each.

    Group normalization keeps no statistics of a hospital.

    Deep residual learning, He et al. 2016, https://arxiv.org/abs/1512.03385; group normalization,
    Wu and He 2018, https://arxiv.org/abs/1803.08494.
    """

    def __init__(
        self, spatial_dims: int, in_channels: int, size: Sequence[int], widths: Sequence[int]
    ) -> None:
        """Build it.

        Args:
            spatial_dims: 2 or 3.
            in_channels: Channels of the images.
            size: Voxels of the images along each axis; other sizes work too.
            widths: Channels of the stages, multiples of 8.

        Raises:
            ValueError: A width that 8 does not divide.
        """
        if any(width % GROUP for width in widths):
            raise ValueError(f"widths {list(widths)}: multiples of {GROUP}")
        super().__init__()
        self.in_channels, self.size, self.widths = in_channels, tuple(size), tuple(widths)
        convolution = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        self.stem = convolution(in_channels, widths[0], 5, stride=2, padding=2)
        self.stages = nn.ModuleList(
            UnetResBlock(
                spatial_dims,
                before,
                width,
                3,
                1 if number == 0 else 2,
                ("group", {"num_groups": width // GROUP}),
            )
            for number, (before, width) in enumerate(
                zip((widths[0], *widths), widths, strict=False)
            )
        )

    def forward(
        self, image: Float[Tensor, "batch channels *size"]
    ) -> list[Float[Tensor, "batch _ *_places"]]:
        """Compute the maps of the stages: of 1/2, 1/4, 1/8 ... of the image's size."""
        features, maps = self.stem(image), []
        for stage in self.stages:
            features = stage(features)
            maps.append(features)
        return maps


class VitEncoder(nn.Module):
    """A vision transformer on patches of the image.

    An image is worth 16x16 words, Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        size: Sequence[int],
        patch: int,
        width: int,
        layers: int,
        heads: int,
    ) -> None:
        """Build it.

        Args:
            spatial_dims: 2 or 3.
            in_channels: Channels of the images.
            size: Voxels of the images along each axis, multiples of `patch`; other sizes it cannot
                read.
            patch: Voxels of a patch along each axis.
            width: Number of features of a patch.
            layers: Number of transformer blocks, even: half of them make the first map.
            heads: Number of attention heads, a divisor of `width`.

        Raises:
            ValueError: The size is not a multiple of the patch, or the number of layers is odd.
        """
        if any(length % patch for length in size) or layers % 2:
            raise ValueError(
                f"size {list(size)} must be a multiple of patch {patch}, and layers {layers} must "
                "be even"
            )
        super().__init__()
        self.in_channels, self.size, self.widths = in_channels, tuple(size), (width, width)
        self.network = ViT(
            in_channels=in_channels,
            img_size=tuple(size),
            patch_size=patch,
            hidden_size=width,
            mlp_dim=2 * width,
            num_layers=layers,
            num_heads=heads,
            spatial_dims=spatial_dims,
        )
        self._places = [length // patch for length in size]

    def forward(
        self, image: Float[Tensor, "batch channels *size"]
    ) -> list[Float[Tensor, "batch _ *_places"]]:
        """Compute the maps after half of the layers and after the last: a place for each patch."""
        last, hidden = self.network(image)
        middle = hidden[len(hidden) // 2 - 1]
        return [tokens.transpose(1, 2).unflatten(2, self._places) for tokens in (middle, last)]


Encoder = ConvolutionalEncoder | VitEncoder


def average(maps: Sequence[Tensor]) -> Float[Tensor, "batch numbers"]:
    """Compute the mean of every map over its places, one after another."""
    return torch.cat([features.flatten(2).mean(2) for features in maps], 1)


def embed(maps: Sequence[Tensor]) -> Float[Tensor, "batch numbers"]:
    """Turn an image into one vector: mean and maximum of every map over its places.

    The maximum sees what is small, such as a lesion.
    """
    return torch.cat([average(maps), *(features.flatten(2).amax(2) for features in maps)], 1)


def read_at(
    maps: Sequence[Tensor], places: Float[Tensor, "batch places axes"], size: Sequence[int]
) -> Float[Tensor, "batch places numbers"]:
    """Read all maps at some places of an image, interpolated linearly, one after another.

    Args:
        maps: Maps of an encoder.
        places: Indices of voxels, which need not be whole.
        size: Size of the image.
    """
    where = (
        2 * (places + 0.5) / torch.tensor(size, dtype=places.dtype, device=places.device) - 1
    ).flip(-1)
    grid = where.view(len(where), *(1 for _ in size[1:]), -1, len(size))
    read = [
        functional.grid_sample(features.float(), grid, padding_mode="border", align_corners=False)
        for features in maps
    ]
    return torch.cat([values.flatten(2) for values in read], 1).transpose(1, 2)
