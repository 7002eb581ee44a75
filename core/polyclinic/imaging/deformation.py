"""Smooth, invertible deformations of images and volumes: velocity -> displacement -> warped volume.

The convention is that of MONAI and VoxelMorph. A displacement field (`ddf`) is counted in voxels,
has one channel per axis in the order of the volume's axes, and *pulls back*:

    warp(volume, ddf)(x) = volume(x + ddf(x))

A ddf of +1 along an axis moves the content by one voxel towards lower indices of that axis.
Every function takes images (BCHW, fields B2HW) and volumes (BCHWD, fields B3HWD); integers are
voxel centres. Beyond the outermost voxel centres, fields and volumes keep the value they have
there. Smooth a displacement or a velocity, never x + ddf(x): smoothing coordinates bends them at
the border.

Grids of different size over the same box share the faces of the box, not its outermost centres
(`align_corners=False`): voxel i of n covers [i/n, (i+1)/n] of the box. See `upsample`.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Mode = Literal["bilinear", "nearest"]


def exponentiate(velocity: Tensor, steps: int = 7) -> Tensor:
    """Integrate a stationary velocity over one unit of time, by scaling and squaring.

    The field is divided by 2^steps and composed with itself `steps` times. The result is a
    diffeomorphism if the velocity is smooth, and `exponentiate(-velocity)` is its inverse; both
    hold up to interpolation.

    Args:
        velocity: (B, 3, H, W, D) or (B, 2, H, W), voxels per unit of time.
        steps: Number of squarings, at least 0.

    Returns:
        The displacement, a ddf of the same shape in voxels.

    Raises:
        ValueError: `velocity` has another shape, or `steps` is negative.

    A log-Euclidean framework for statistics on diffeomorphisms, Arsigny et al. 2006,
    https://doi.org/10.1007/11866565_113.
    """
    _check_field(velocity, "velocity")
    if steps < 0:
        raise ValueError(f"steps is {steps}, it must be at least 0")
    ddf = velocity / 2.0**steps
    for _ in range(steps):
        ddf = compose(ddf, ddf)
    return ddf


def compose(first: Tensor, second: Tensor) -> Tensor:
    """Return the ddf that has the effect of warping by `first` and then by `second`.

    warp(warp(volume, first), second)(x) = volume(y + first(y)) at y = x + second(x), so the sum is
    second(x) + first(y).

    Args:
        first: (B, 3, H, W, D) or (B, 2, H, W), voxels.
        second: Field of the same shape, voxels.

    Raises:
        ValueError: A field has another shape.
    """
    _check_field(first, "first")
    return second + warp(first, second)


def jacobian_determinant(ddf: Tensor) -> Tensor:
    """Return det d(x + ddf(x))/dx, the volume that a voxel is read from.

    If it is above 0 everywhere, nothing is folded. Derivatives are central differences inside,
    (ddf(x + 1) - ddf(x - 1)) / 2, and one-sided at the border, ddf(x + 1) - ddf(x); along an axis
    of one voxel they are 0.

    Args:
        ddf: (B, 3, H, W, D) or (B, 2, H, W), voxels.

    Returns:
        (B, H, W, D) or (B, H, W).

    Raises:
        ValueError: `ddf` has another shape.
    """
    _check_field(ddf, "ddf")
    columns = []
    for axis in range(2, ddf.ndim):
        change = torch.gradient(ddf, dim=axis)[0] if ddf.shape[axis] > 1 else torch.zeros_like(ddf)
        own = torch.zeros(ddf.shape[1], dtype=ddf.dtype, device=ddf.device)
        own[axis - 2] = 1
        columns.append(change + own.view(1, -1, *(1,) * (ddf.ndim - 2)))
    if len(columns) == 2:
        (a, c), (b, d) = (column.unbind(1) for column in columns)
        return a * d - b * c
    first, second, third = columns
    determinant: Tensor = (first * torch.linalg.cross(second, third, dim=1)).sum(1)
    return determinant


def warp(volume: Tensor, ddf: Tensor, mode: Mode = "bilinear") -> Tensor:
    """Resample a volume at x + ddf(x).

    Args:
        volume: (B, C, H, W, D) or (B, C, H, W).
        ddf: (B, 3, H, W, D) or (B, 2, H, W), voxels.
        mode: "bilinear" for images and probabilities (trilinear in three dimensions), "nearest" for
            label maps.

    Returns:
        The volume's shape. Points outside the volume take the value of its nearest face.

    Raises:
        ValueError: `ddf` is not a field on the volume's grid.
    """
    _check_pair(volume, ddf)
    if volume.shape[2:] != ddf.shape[2:]:
        raise ValueError(
            f"a ddf of shape {tuple(ddf.shape)} cannot warp a volume of shape {tuple(volume.shape)}"
        )
    return sample(volume, ddf + identity(ddf.shape[2:], ddf), mode)


def upsample(ddf: Tensor, shape: Sequence[int]) -> Tensor:
    """Interpolate a field on a finer grid over the same box, in the finer grid's voxels.

    The interpolation is linear between voxel centres, and also in the half voxel between the
    outermost centres and the faces, so that an affine field stays exactly the same map.

    Args:
        ddf: (B, 3, h, w, d) or (B, 2, h, w), a displacement or a velocity in voxels.
        shape: (H, W, D) or (H, W), along no axis smaller.

    Returns:
        (B, 3, H, W, D) or (B, 2, H, W). Where m voxels of an axis replace n, its channel is
        multiplied by m/n.

    Raises:
        ValueError: `ddf` or `shape` is invalid, or `shape` is coarser.
    """
    _check_field(ddf, "ddf")
    if len(shape) != ddf.ndim - 2 or any(
        wanted < size for wanted, size in zip(shape, ddf.shape[2:], strict=True)
    ):
        raise ValueError(
            f"a field of shape {tuple(ddf.shape)} cannot be brought to the finer grid "
            f"{tuple(shape)}"
        )
    factors = [wanted / size for wanted, size in zip(shape, ddf.shape[2:], strict=True)]
    factor = torch.tensor(factors, dtype=ddf.dtype, device=ddf.device)
    fine = ddf * factor.view(1, -1, *(1,) * (ddf.ndim - 2))
    for axis, wanted in enumerate(shape, start=2):
        fine = _refine(fine, axis, wanted)
    return fine


def _refine(field: Tensor, axis: int, wanted: int) -> Tensor:
    """Interpolate along one axis, and extrapolate by up to half a voxel."""
    size = field.shape[axis]
    if wanted == size:
        return field
    if size == 1:
        return field.expand([wanted if at == axis else n for at, n in enumerate(field.shape)])
    centres = torch.arange(wanted, dtype=field.dtype, device=field.device) + 0.5
    places = centres * (size / wanted) - 0.5
    low = places.floor().clamp(0, size - 2).long()
    weight = (places - low).view(-1, *(1,) * (field.ndim - 1 - axis))
    return torch.lerp(field.index_select(axis, low), field.index_select(axis, low + 1), weight)


def sample(volume: Tensor, points: Tensor, mode: Mode = "bilinear") -> Tensor:
    """Read a volume at any points, which may lie on a grid of another size.

    Args:
        volume: (B, C, H, W, D) or (B, C, H, W).
        points: (B, 3, h, w, d) or (B, 2, h, w), voxel coordinates in `volume`; integers are voxel
            centres.
        mode: "bilinear" or "nearest".

    Returns:
        (B, C, h, w, d) or (B, C, h, w). Points outside the volume take the value of its nearest
        face.

    Raises:
        ValueError: `points` has another shape, or `volume` another number of axes.
    """
    _check_field(points, "points")
    _check_pair(volume, points)
    sizes = torch.tensor(volume.shape[2:], dtype=points.dtype, device=points.device)
    sizes = sizes.view(1, -1, *(1,) * (points.ndim - 2))
    # -1 and 1 are the centres of the outermost voxels
    unit = points * (2 / (sizes - 1).clamp(min=1)) - 1
    unit = torch.where(sizes > 1, unit, torch.zeros_like(unit))
    grid = unit.flip(1).movedim(1, -1)  # grid_sample counts axes from the last
    read: Tensor = functional.grid_sample(
        volume, grid, mode=mode, padding_mode="border", align_corners=True
    )
    return read


def identity(shape: Sequence[int], like: Tensor | None = None) -> Tensor:
    """Return the coordinates of every voxel, (1, 3, H, W, D) or (1, 2, H, W).

    Args:
        shape: (H, W, D) or (H, W).
        like: Tensor whose type and device the coordinates get; without it, float32 in main memory.
    """
    chosen = torch.empty(0) if like is None else like
    axes = [torch.arange(size, dtype=chosen.dtype, device=chosen.device) for size in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def _check_pair(volume: Tensor, field: Tensor) -> None:
    """Check a volume and the field through which it is read."""
    _check_field(field, "ddf")
    if volume.ndim != field.ndim or volume.shape[0] != field.shape[0]:
        raise ValueError(
            f"a ddf of shape {tuple(field.shape)} cannot warp a volume of shape "
            f"{tuple(volume.shape)}"
        )


def _check_field(field: Tensor, name: str) -> None:
    if field.ndim not in {4, 5} or field.shape[1] != field.ndim - 2:
        raise ValueError(
            f"{name} must have the shape (B, 3, H, W, D) or (B, 2, H, W), it has "
            f"{tuple(field.shape)}"
        )
