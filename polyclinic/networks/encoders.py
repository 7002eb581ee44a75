"""Encoders that a universal model may have: MONAI's ResNet and ViT, small, seen as networks that give feature maps.

Both read images of `in_channels` and give a list of maps, fine to coarse; `widths` are the maps' channels. Their `network` is MONAI's own
class, so that its weights load there without polyclinic.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from monai.networks.nets import ResNet, ViT
from torch import Tensor, nn
from torch.nn import functional

GROUP = 8  # channels that are normalized together


class ConvolutionalEncoder(nn.Module):
    """A ResNet of four stages that halve the image each; group normalization, which knows no statistics of a hospital.

    Deep residual learning, He et al. 2016, https://arxiv.org/abs/1512.03385; group normalization, Wu and He 2018,
    https://arxiv.org/abs/1803.08494.
    """

    def __init__(self, spatial_dims: int, in_channels: int, size: Sequence[int], widths: Sequence[int], blocks: Sequence[int]) -> None:
        """Build it.

        Args:
            spatial_dims: 2 or 3.
            in_channels: Of the images.
            size: Voxels of the images along each axis; any multiple of 16 works.
            widths: Channels of the four stages, multiples of 8.
            blocks: Residual blocks of the four stages.

        Raises:
            ValueError: Not four stages, or a width that 8 does not divide.
        """
        if len(widths) != 4 or len(blocks) != 4 or any(width % GROUP for width in widths):
            raise ValueError(f"widths {list(widths)} and blocks {list(blocks)}: four of each, widths multiples of {GROUP}")
        super().__init__()
        self.in_channels, self.size, self.widths = in_channels, tuple(size), tuple(widths)
        self.arguments: dict[str, Any] = {
            "block": "basic", "layers": list(blocks), "block_inplanes": list(widths), "spatial_dims": spatial_dims,
            "n_input_channels": in_channels, "conv1_t_size": 5, "conv1_t_stride": 2, "no_max_pool": True, "feed_forward": False,
            "norm": ("group", {"num_groups": GROUP}),
        }  # fmt: skip
        self.network = ResNet(**self.arguments)

    def forward(self, image: Float[Tensor, "batch channels *size"]) -> list[Float[Tensor, "batch _ *_places"]]:
        """Maps of the four stages: of 1/2, 1/4, 1/8 and 1/16 of the image's size."""
        net, maps = self.network, []
        features = net.act(net.bn1(net.conv1(image)))
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
            features = stage(features)
            maps.append(features)
        return maps


class VitEncoder(nn.Module):
    """A vision transformer on patches of the image.

    An image is worth 16x16 words, Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929.
    """

    def __init__(self, spatial_dims: int, in_channels: int, size: Sequence[int], patch: int, width: int, layers: int, heads: int) -> None:
        """Build it.

        Args:
            spatial_dims: 2 or 3.
            in_channels: Of the images.
            size: Voxels of the images along each axis, multiples of `patch`; other sizes it cannot read.
            patch: Voxels of a patch along each axis.
            width: Numbers that describe a patch.
            layers: Transformer blocks, an even number: half of them make the first map.
            heads: Of attention, a divisor of `width`.

        Raises:
            ValueError: The size is not a multiple of the patch, or the number of layers is odd.
        """
        if any(length % patch for length in size) or layers % 2:
            raise ValueError(f"size {list(size)} must be a multiple of patch {patch}, and layers {layers} must be even")
        super().__init__()
        self.in_channels, self.size, self.widths = in_channels, tuple(size), (width, width)
        self.arguments: dict[str, Any] = {
            "in_channels": in_channels, "img_size": list(size), "patch_size": patch, "hidden_size": width, "mlp_dim": 2 * width,
            "num_layers": layers, "num_heads": heads, "spatial_dims": spatial_dims,
        }  # fmt: skip
        self.network = ViT(**self.arguments)
        self._places = [length // patch for length in size]

    def forward(self, image: Float[Tensor, "batch channels *size"]) -> list[Float[Tensor, "batch _ *_places"]]:
        """Maps after half of the layers and after the last: one place for each patch."""
        last, hidden = self.network(image)
        middle = hidden[len(hidden) // 2 - 1]
        return [tokens.transpose(1, 2).reshape(len(image), -1, *self._places) for tokens in (middle, last)]


Encoder = ConvolutionalEncoder | VitEncoder


def embed(maps: Sequence[Tensor]) -> Float[Tensor, "batch numbers"]:
    """An image as one vector: the mean of every map over its places, one after another."""
    return torch.cat([features.flatten(2).mean(2) for features in maps], 1)


def read_at(
    maps: Sequence[Tensor], places: Float[Tensor, "batch places axes"], size: Sequence[int]
) -> Float[Tensor, "batch places numbers"]:
    """An image at some places: all maps there, interpolated linearly, one after another.

    Args:
        maps: An encoder's.
        places: Indices of voxels, which need not be whole.
        size: Of the image.
    """
    where = (2 * (places + 0.5) / torch.tensor(size, dtype=places.dtype, device=places.device) - 1).flip(-1)
    grid = where.view(len(where), *(1 for _ in size[1:]), -1, len(size))
    read = [functional.grid_sample(features.float(), grid, padding_mode="border", align_corners=False) for features in maps]
    return torch.cat([values.flatten(2) for values in read], 1).transpose(1, 2)


def loading_example(encoder: Encoder, path: str) -> str:
    """Two lines of Python that load an exported encoder without polyclinic."""
    given = ", ".join(f"{name}={value!r}" for name, value in encoder.arguments.items())
    made = f"encoder = monai.networks.nets.{type(encoder.network).__name__}({given})"
    return f'{made}\nencoder.load_state_dict(safetensors.torch.load_file("{path}"))'
