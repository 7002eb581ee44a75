"""Points in different frames: affine maps, grids over one box, and slabs that save memory."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

SLAB = 1_000_000  # number of places read at a time


def transform(matrix: NDArray[np.floating[Any]], points: Tensor) -> Tensor:
    """Apply an affine map.

    Args:
        matrix: (4, 4).
        points: (B, 3, *places).

    Returns:
        Points of the same shape and type.
    """
    linear = torch.from_numpy(np.ascontiguousarray(matrix)).to(points.dtype)
    moved = torch.einsum("ij,bj...->bi...", linear[:3, :3], points)
    return moved + linear[:3, 3].view(1, 3, *(1,) * (points.ndim - 2))


def within(points: Tensor, shape: Sequence[int]) -> Tensor:
    """Tell which points lie in a grid's voxels.

    Args:
        points: (1, 3, *places), voxel coordinates.
        shape: Shape of the grid.

    Returns:
        (*places,), 1 or 0 in the points' type.
    """
    faces = torch.tensor(shape, dtype=points.dtype).view(1, 3, *(1,) * (points.ndim - 2)) - 0.5
    return ((points >= -0.5) & (points <= faces)).all(1)[0].to(points.dtype)


def ratio_of(own: Sequence[int], other: Sequence[int]) -> Tensor:
    """Return the width of a voxel of `other` in voxels of `own`, both over the same box.

    Returns:
        (1, 3, 1, 1, 1), one number for each axis.
    """
    return torch.tensor([n / m for n, m in zip(own, other, strict=True)]).view(1, 3, 1, 1, 1)


def dilate(mask: Tensor, reach: int) -> Tensor:
    """Return the largest value within `reach` voxels along every axis: (B, C, H, W, D).

    One axis after another, which gives the same and is many times faster than a cube at once.
    """
    for axis in range(3):
        kernel, padding = [1, 1, 1], [0, 0, 0]
        kernel[axis], padding[axis] = 2 * reach + 1, reach
        mask = functional.max_pool3d(mask, kernel, stride=1, padding=padding)
    return mask


def slabs_of(shape: Sequence[int]) -> Iterator[slice]:
    """Cut a grid along its first axis into slabs of about `SLAB` voxels."""
    thickness = max(1, SLAB // math.prod(shape[1:]))
    for start in range(0, shape[0], thickness):
        yield slice(start, min(start + thickness, shape[0]))
