"""Resampling from one grid of voxels to another, and the grid on which a network sees an image."""

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polyclinic.config.schemas import DataConfig
from polyclinic.errors import ConfigError
from polyclinic.imaging.headers import LIMIT_BYTES, Grid, spacing_of


def resample(volume: Tensor, source: Grid, target: Grid, *, nearest: bool = False) -> Tensor:
    """Interpolate onto another grid whose axes are parallel to the first, in any order and sense.

    Args:
        volume: Shape CXYZ on `source`.
        source: Grid of `volume`.
        target: Wanted grid; beyond the border, the nearest voxel counts.
        nearest: Take the nearest voxel (for labels) instead of interpolating linearly.

    Returns:
        Shape CXYZ on `target`, of the same type.

    Raises:
        ValueError: The axes are oblique to each other, or `volume` is not on `source`.
    """
    if tuple(volume.shape[1:]) != source.shape:
        raise ValueError(f"volume of shape {tuple(volume.shape)} is not on {source}")
    step = np.linalg.inv(source.affine) @ target.affine  # index on target -> index on source
    along = np.abs(step[:3, :3]).argmax(axis=0)
    stray = np.abs(step[:3, :3]) * np.array(target.shape)
    stray[along, range(3)] = 0
    if sorted(along) != [0, 1, 2] or stray.max() > 0.01:
        raise ValueError(f"{source} and {target} are oblique to each other")
    volume = volume.permute(0, *(int(axis) + 1 for axis in along))
    shrinking_first = sorted(range(3), key=lambda axis: target.shape[axis] / volume.shape[axis + 1])
    for axis in shrinking_first:
        places = step[along[axis], axis] * np.arange(target.shape[axis]) + step[along[axis], 3]
        volume = _interpolate(volume, axis + 1, torch.from_numpy(places).to(volume.device), nearest)
    return volume.contiguous()


def _interpolate(volume: Tensor, axis: int, places: Tensor, nearest: bool) -> Tensor:
    """Read values at fractional indices along one axis."""
    places = places.clamp(0, volume.shape[axis] - 1)
    if nearest:
        return volume.index_select(axis, (places + 0.5 - 1e-6).floor().clamp(min=0).long())
    low = (places + 1e-6).floor()  # a position less than 1e-6 below a voxel counts as on it
    weight = (places - low).clamp(min=0).to(volume.dtype)
    low_values = volume.index_select(axis, low.long())
    if float(weight.max()) < 1e-5:
        return low_values
    high_values = volume.index_select(axis, (low.long() + 1).clamp(max=volume.shape[axis] - 1))
    return low_values.lerp_(high_values, weight.view(-1, *(1,) * (volume.ndim - 1 - axis)))


def network_grid(native: Grid, data: DataConfig) -> Grid:
    """Return the grid on which the network sees an image.

    The axes follow `data.orientation` and the spacing `data.spacing_mm`, about the centre of the
    image. Without a spacing, the image is resized to the patch. A single slice keeps its axes and
    stays one slice.

    Raises:
        ConfigError: `data.orientation` is invalid, or the spacing makes volumes beyond the limit.
    """
    single = data.spatial_dims == 2 and native.shape[2] == 1
    turn = _turn(native, data.orientation, single=single)
    order = np.argsort(turn[:, 0])
    sizes = np.array(native.shape)[order]
    affine = native.affine @ nib.orientations.inv_ornt_aff(turn, native.shape)
    if data.spacing_mm is None:
        wanted = np.array((*data.patch, sizes[2])[:3])
        scale = sizes / wanted
    else:
        scale = np.array(data.spacing_mm) / spacing_of(affine)
        if single:
            scale[2] = 1.0
        wanted = np.maximum(1, np.round(sizes / scale))
    if float(np.prod(wanted)) * data.channels * 4 > LIMIT_BYTES:
        raise ConfigError(
            f"data.spacing_mm={data.spacing_mm}: an image would have "
            f"{'x'.join(f'{n:g}' for n in wanted)} voxels."
        )
    shift = np.eye(4)
    shift[:3, :3] = np.diag(scale)
    shift[:3, 3] = (sizes - 1 - (wanted - 1) * scale) / 2  # both grids have their centre in common
    x, y, z = (int(size) for size in wanted)
    return Grid((x, y, z), affine @ shift)


def axes_order(native: Grid, orientation: str, *, single: bool = False) -> NDArray[np.intp]:
    """Return the axis of a file that each axis of an orientation lies along.

    Args:
        native: Grid of the file.
        orientation: As `data.orientation`.
        single: Whether it is a single slice, which keeps its axes.

    Raises:
        ConfigError: The orientation is invalid.
    """
    return np.argsort(_turn(native, orientation, single=single)[:, 0])


def _turn(native: Grid, orientation: str, *, single: bool) -> NDArray[np.float64]:
    """Return nibabel's transform of axes from a file's grid to an orientation."""
    turn: NDArray[np.float64] = nib.orientations.ornt_transform(
        nib.io_orientation(native.affine),
        nib.orientations.axcodes2ornt(_three_codes(orientation)),
    )
    if single and turn[2, 0] != 2:
        turn = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    return turn


def _three_codes(orientation: str) -> str:
    """Complete an orientation of two letters by a third."""
    groups = ("RL", "AP", "SI")
    missing = [group for group in groups if not set(group) & set(orientation)]
    codes = orientation + (missing[0][0] if len(orientation) == 2 and missing else "")
    if len(codes) != 3 or any(len(set(group) & set(codes)) != 1 for group in groups):
        raise ConfigError(
            f"data.orientation={orientation}: name one of R and L, one of A and P, one of S and I."
        )
    return codes
