"""Means and standard deviations of what enters normalization layers, the usual descriptor."""

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMALIZATIONS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
SLICES = 8  # of a volume that a 2-D network reads: evenly spaced through the patient


@dataclass(frozen=True)
class ChannelGaussians:
    """Mean and standard deviation of what enters each channel of every normalization layer.

    Marginal: knows blur and noise, hardly contrast. Distance: Wasserstein-2 between the Gaussians,
    the root of the sum over channels of (mean - mean')^2 + (deviation - deviation')^2, as in
    Kitrungrotsakul et al. and the FedBN family; each layer is divided by its width so that wide
    layers do not drown the others.

    Reveals: two numbers a channel, from which gradient inversion has reconstructed training images
    for *batches of a few*; averaged over subjects the least of the statistics here.
    """

    needs_network: ClassVar[bool] = True
    euclidean: ClassVar[bool] = True

    def measure(
        self, image: Float[Tensor, "channels x y z"], network: nn.Module
    ) -> Float[Tensor, " numbers"]:
        """Compute all pairs, (2 * channels of all layers,), squashed into a length of at most 1."""
        parts = []
        for features in features_of(network, image):
            flat = features.flatten(1)
            pair = torch.cat([flat.mean(1), flat.std(1, unbiased=False)])
            parts.append(pair / len(pair) ** 0.5)
        whole = torch.cat(parts)
        squashed: Tensor = whole / (1.0 + torch.linalg.vector_norm(whole))
        return squashed

    def distance(self, one: Float[Tensor, " numbers"], other: Float[Tensor, " numbers"]) -> float:
        """Compute the Euclidean distance over all means and deviations."""
        return float(torch.linalg.vector_norm(one.double() - other.double()))


def features_of(
    network: nn.Module, image: Float[Tensor, "channels x y z"], *, first_only: bool = False
) -> list[Tensor]:
    """Compute what the base's layers see of an image.

    Args:
        network: In evaluation mode.
        image: A volume; a 2-D network reads `SLICES` axial slices of it.
        first_only: Only what the first convolution makes; else what enters every normalization
            layer.

    Returns:
        One tensor for each layer, channels first, then three axes of places (the last one counts
        slices in 2-D). Axes are padded with zeros for the network; what the first convolution makes
        of the padding alone is left out again, else patients of different sizes would lie in
        different places.
    """
    found: list[Tensor] = []
    layers = list(_layers(network, CONVOLUTIONS if first_only else NORMALIZATIONS))[
        : 1 if first_only else None
    ]
    flat = (
        next(layer for layer in network.modules() if isinstance(layer, CONVOLUTIONS)).weight.ndim
        == 4
    )
    batch = image[..., _spread(image.shape[-1])].permute(3, 0, 1, 2) if flat else image[None]
    with ExitStack() as hooks:
        for layer in layers:
            if first_only:
                hooks.callback(
                    layer.register_forward_hook(
                        lambda _layer, _inputs, output: found.append(output)
                    ).remove
                )
            else:
                hooks.callback(
                    layer.register_forward_pre_hook(
                        lambda _layer, inputs: found.append(inputs[0])
                    ).remove
                )
        network(padded := _fit(batch.to(next(network.parameters()).device)))
    if first_only:
        found = [_trim(found[0], batch.shape, padded.shape)]
    return [
        (each.movedim(0, -1) if flat else each[0]).reshape(each.shape[1], *_three(each, flat))
        for each in found
    ]


def _three(features: Tensor, flat: bool) -> tuple[int, ...]:
    """Return three axes of places, also where a layer sees vectors."""
    places = features.shape[2:] + ((features.shape[0],) if flat else ())
    return (*places, *(1,) * (3 - len(places)))


def _fit(batch: Tensor) -> Tensor:
    """Pad so that every stride divides the axes, and the last layer has more than one place."""
    around: list[int] = []
    for size in reversed(batch.shape[2:]):
        around += [0, max(32 - size, -size % 16)]
    return nn.functional.pad(batch, around)


def _trim(features: Tensor, before: torch.Size, after: torch.Size) -> Tensor:
    """Cut off the features of the padding alone."""
    for axis in range(2, features.ndim):
        features = features.narrow(
            axis, 0, math.ceil(features.shape[axis] * before[axis] / after[axis])
        )
    return features


def _spread(count: int) -> list[int]:
    """Choose at most `SLICES` slices, evenly spaced and without the ends."""
    if count <= SLICES:
        return list(range(count))
    return [int((number + 0.5) * count / SLICES) for number in range(SLICES)]


def _layers(network: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Iterator[nn.Module]:
    return (layer for layer in network.modules() if isinstance(layer, kinds))
