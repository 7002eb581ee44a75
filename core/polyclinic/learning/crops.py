"""Patches of prepared images."""

from collections.abc import Sequence

import torch
from torch import Tensor

from polyclinic.config.schemas import DataConfig


def as_batch(volume: Tensor, data: DataConfig, slices: int = 0) -> Tensor:
    """Make a batch of a prepared image: its middle, of the patch's size; slices if 2-D.

    Args:
        volume: float32, CXYZ, from `prepare_image`.
        data: Patch.
        slices: At most so many slices, evenly spread over the middle two thirds; 0: all.

    Returns:
        Shape (images, C, *patch).
    """
    batch = volume[None] if data.spatial_dims == 3 else volume.permute(3, 0, 1, 2)
    if 0 < slices < len(batch):
        batch = batch[
            torch.linspace(len(batch) // 6, len(batch) - 1 - len(batch) // 6, slices).round().long()
        ]
    places = [
        max(0, (size - wanted) // 2)
        for size, wanted in zip(batch.shape[2:], data.patch, strict=True)
    ]
    return torch.stack([crop(each, places, data.patch) for each in batch])


def crop(
    volume: Tensor, places: Sequence[int], patch: Sequence[int], larger: Sequence[int] = ()
) -> Tensor:
    """Cut a patch, and surround with zeros what lies beyond the volume.

    A volume that is smaller than the patch lies in its middle.

    Args:
        volume: Shape C, then as many axes as the patch.
        places: First voxel along each axis where the volume is at least as large as the patch.
        patch: Voxels along each axis.
        larger: Voxels of what is cut, about the middle of the patch; empty: the patch.

    Returns:
        A copy of shape (C, *patch), or (C, *larger).
    """
    within: list[slice] = [slice(None)]
    around: list[int] = []
    for size, place, wanted, cut in zip(
        volume.shape[1:], places, patch, larger or patch, strict=True
    ):
        first = place if size >= wanted else -((wanted - size) // 2)
        first -= (cut - wanted) // 2
        low, high = min(max(first, 0), size), min(max(first + cut, 0), size)
        within.append(slice(low, high))
        around = [max(0, low - first), cut - max(0, low - first) - (high - low), *around]
    return torch.nn.functional.pad(volume[tuple(within)], around).clone()
