"""Voxels of each class of a label map, found once, around which patches are drawn."""

import torch
from jaxtyping import UInt8
from torch import Generator, Tensor

MOST = 10_000  # voxels that are kept of a class, as in nnU-Net
SEED = 1234


def find_foreground(label: UInt8[Tensor, "1 x y z"], classes: int) -> tuple[Tensor, ...]:
    """Find the voxels of each foreground class that a label map has.

    Args:
        label: Classes.
        classes: Number of classes, the background included.

    Returns:
        For each class that occurs, in order, int16, shape (voxels, 3): all its voxels, or a random
        `MOST` of them, always the same ones.
    """
    flat = label.flatten()
    lit = flat.nonzero().flatten()
    values = flat[lit]
    found = []
    for number in range(1, classes):
        places = lit[values == number]
        if len(places) > MOST:
            drawn = torch.randperm(len(places), generator=Generator().manual_seed(SEED + number))
            places = places[drawn[:MOST]].sort().values
        if len(places):
            found.append(torch.stack(torch.unravel_index(places, label.shape[1:]), 1).short())
    return tuple(found)
