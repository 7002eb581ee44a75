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


def crop(volume: Tensor, places: Sequence[int], patch: Sequence[int]) -> Tensor:
    """Cut a patch, and surround with zeros what is smaller than it.

    Args:
        volume: Shape C, then as many axes as the patch.
        places: First voxel along each axis.
        patch: Voxels along each axis.

    Returns:
        A copy of shape (C, *patch).
    """
    cut = volume[
        (
            slice(None),
            *(slice(place, place + size) for place, size in zip(places, patch, strict=True)),
        )
    ]
    around: list[int] = []
    for size, wanted in zip(reversed(cut.shape[1:]), reversed(patch), strict=True):
        around += [(wanted - size) // 2, wanted - size - (wanted - size) // 2]
    return torch.nn.functional.pad(cut, around).clone()
