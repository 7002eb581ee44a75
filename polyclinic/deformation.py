"""Smooth, invertible deformations of volumes: velocity -> displacement -> warped volume.

One convention everywhere, that of MONAI and VoxelMorph: a displacement field (`ddf`) is counted in voxels, one channel
per axis in the order of the volume's axes, and *pulls back*:

    warp(volume, ddf)(x) = volume(x + ddf(x))

so a ddf of +1 along an axis moves the content by one voxel towards lower indices of that axis.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

_FIELD_DIMENSIONS = 5  # batch, axis, height, width, depth


def exponentiate(velocity: Tensor, steps: int = 7) -> Tensor:
    """Follow a stationary velocity for one unit of time, by scaling and squaring.

    The field is divided by 2^steps and composed with itself `steps` times. What results is a diffeomorphism when the
    velocity is smooth; `exponentiate(-velocity)` is its inverse, both up to interpolation.

    Args:
        velocity: (B, 3, H, W, D), voxels per unit of time.
        steps: Number of squarings, at least 0.

    Returns:
        The displacement, a ddf of shape (B, 3, H, W, D) in voxels.

    Raises:
        ValueError: `velocity` has another shape, or `steps` is negative.

    A log-Euclidean framework for statistics on diffeomorphisms, Arsigny et al. 2006, https://doi.org/10.1007/11866565_113.
    """
    _check_field(velocity, "velocity")
    if steps < 0:
        raise ValueError(f"steps is {steps}, it must be at least 0")
    ddf = velocity / 2.0**steps
    for _ in range(steps):
        ddf = compose(ddf, ddf)
    return ddf


def compose(first: Tensor, second: Tensor) -> Tensor:
    """Return the one ddf that does what warping by `first` and then warping the result by `second` does.

    warp(warp(volume, first), second)(x) = volume(y + first(y)) at y = x + second(x): in all second(x) + first(y).

    Args:
        first: (B, 3, H, W, D), voxels.
        second: (B, 3, H, W, D), voxels.

    Raises:
        ValueError: A field has another shape.
    """
    _check_field(first, "first")
    return second + warp(first, second)


def warp(volume: Tensor, ddf: Tensor, mode: Literal["bilinear", "nearest"] = "bilinear") -> Tensor:
    """Resample a volume at x + ddf(x).

    Args:
        volume: (B, C, H, W, D).
        ddf: (B, 3, H, W, D), voxels.
        mode: "bilinear" for images and probabilities (trilinear in three dimensions), "nearest" for label maps.

    Returns:
        (B, C, H, W, D). Points outside the volume take the value of its nearest face.

    Raises:
        ValueError: `ddf` is not a field on the volume's grid.
    """
    _check_field(ddf, "ddf")
    if volume.ndim != _FIELD_DIMENSIONS or volume.shape[0] != ddf.shape[0] or volume.shape[2:] != ddf.shape[2:]:
        raise ValueError(f"a ddf of shape {tuple(ddf.shape)} cannot warp a volume of shape {tuple(volume.shape)}")
    return sample(volume, ddf + _identity(ddf), mode)


def sample(volume: Tensor, points: Tensor, mode: Literal["bilinear", "nearest"] = "bilinear") -> Tensor:
    """Read a volume at any points, which may lie on a grid of another size.

    Args:
        volume: (B, C, H, W, D).
        points: (B, 3, h, w, d), voxel coordinates in `volume`; integers are voxel centres.
        mode: "bilinear" or "nearest".

    Returns:
        (B, C, h, w, d). Points outside the volume take the value of its nearest face.

    Raises:
        ValueError: `points` has another shape.
    """
    _check_field(points, "points")
    sizes = torch.tensor(volume.shape[2:], dtype=points.dtype, device=points.device).view(1, 3, 1, 1, 1)
    unit = points * (2 / (sizes - 1).clamp(min=1)) - 1  # -1 and 1 are the centres of the outermost voxels
    unit = torch.where(sizes > 1, unit, torch.zeros_like(unit))
    grid = unit.flip(1).movedim(1, -1)  # grid_sample counts axes from the last
    read: Tensor = functional.grid_sample(volume, grid, mode=mode, padding_mode="border", align_corners=True)
    return read


def _identity(field: Tensor) -> Tensor:
    """Return every voxel's own coordinates, (1, 3, H, W, D)."""
    axes = [torch.arange(size, dtype=field.dtype, device=field.device) for size in field.shape[2:]]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def _check_field(field: Tensor, name: str) -> None:
    if field.ndim != _FIELD_DIMENSIONS or field.shape[1] != 3:
        raise ValueError(f"{name} must have the shape (B, 3, H, W, D), it has {tuple(field.shape)}")
