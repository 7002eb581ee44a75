"""NIfTI, PNG and JPEG <-> tensors that know where their voxels lie, checked before the voxels are read.

Every image is a volume of shape CXYZ (channels, then three axes as in the file); a 2-D image has one slice, Z = 1.
An affine maps a voxel's index to millimetres in RAS+ (right, anterior, superior), as NIfTI defines it.
"""

import errno
import gzip
import math
import os
import re
import shutil
import struct
import warnings
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from nibabel.spatialimages import HeaderDataError, HeaderTypeError
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from polyclinic.errors import (
    DiskFull,
    ImageInvalid,
    ImageTooLarge,
    ImageUnreadable,
    LabelInvalid,
    ResourceError,
    ShapeMismatch,
)

LIMIT_BYTES = 2 * 2**30
SUFFIXES = (".nii", ".nii.gz", ".png", ".jpg", ".jpeg")
MAX_EXTENT_MM = 1e5  # an affine that claims a patient of more than 100 m is damaged
DEFLATE_RATIO = 1032  # the most that a gzip stream can expand
PICTURE_AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])  # columns run to the patient's left, rows to the back, as on a screen
MALFORMED: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
)
MALFORMED += (zlib.error, struct.error, SyntaxError, HeaderDataError, HeaderTypeError, np.linalg.LinAlgError)


@dataclass(frozen=True, eq=False)
class Grid:
    """Where voxels lie: the shape XYZ and the affine (4 x 4) from voxel index to mm in RAS+."""

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    def __str__(self) -> str:
        sizes = "x".join(f"{value:.3g}" for value in spacing_of(self.affine))
        origin = ", ".join(f"{value:.1f}" for value in self.affine[:3, 3])
        axes = "".join(nib.aff2axcodes(self.affine))
        return f"{'x'.join(map(str, self.shape))} voxels of {sizes} mm, {axes}, origin ({origin})"

    def matches(self, other: "Grid") -> bool:
        """Whether both have the same shape and no corner is further apart than a tenth of a voxel."""
        if self.shape != other.shape:
            return False
        corners = np.array([[*np.multiply(corner, self.shape), 1.0] for corner in np.ndindex(2, 2, 2)]).T
        apart = np.abs((self.affine - other.affine) @ corners).max()
        return bool(apart <= 0.1 * min(spacing_of(self.affine)))


@dataclass(frozen=True, eq=False)
class Header:
    """What a file says about its voxels before they are read."""

    shape: tuple[int, ...]  # as in the file; a picture's is (columns, rows)
    affine: NDArray[np.float64]  # 4 x 4
    spacing_mm: tuple[float, float, float]
    dtype: np.dtype[Any]
    bytes: int  # in memory, in the file's own type or as float32, whichever is more
    channels: int
    nifti: Any = field(default=None, repr=False)  # nibabel's header; None for a picture

    @property
    def grid(self) -> Grid:
        """The three spatial axes; a 2-D image has one slice."""
        x, y, z = (*self.shape[:3], 1)[:3]
        return Grid((x, y, z), self.affine)


def spacing_of(affine: NDArray[np.float64]) -> tuple[float, float, float]:
    """Voxel size in mm along each axis."""
    x, y, z = (float(value) for value in np.sqrt((affine[:3, :3] ** 2).sum(axis=0)))
    return x, y, z


def check_header(path: Path, limit_bytes: int = LIMIT_BYTES) -> Header:
    """Read and check the header alone.

    Args:
        path: A .nii, .nii.gz, .png or .jpg file.
        limit_bytes: The most memory that the voxels may take.

    Raises:
        ImageUnreadable: Not an image, truncated, or an impossible header.
        ImageTooLarge: The header claims more than `limit_bytes`.
    """
    name = path.name.lower()
    if not name.endswith(SUFFIXES):
        raise ImageUnreadable(path, f"only {', '.join(SUFFIXES)} are images here")
    if not path.is_file():
        raise ImageUnreadable(path, "there is no such file")
    try:
        header = _check_nifti(path, limit_bytes) if ".nii" in name else _check_picture(path, limit_bytes)
    except MALFORMED as error:
        raise ImageUnreadable(path, _reason(error)) from error
    return header


def read_image(
    path: Path | Sequence[Path], channels: int, spatial_dims: int, limit_bytes: int = LIMIT_BYTES
) -> MetaTensor:
    """Read an image, or several files that are one channel each.

    Args:
        path: One file (a fourth NIfTI dimension holds channels), or one file for each channel.
        channels: How many channels there must be. Pictures are turned into grey (1) or RGB (3).
        spatial_dims: 3 refuses 2-D images; 2 takes both 2-D images and volumes, whose slices are chosen later.
        limit_bytes: The most memory that one file may take.

    Returns:
        float32, shape CXYZ (Z = 1 for a 2-D image), with its affine.

    Raises:
        ImageUnreadable, ImageTooLarge: As for `check_header`.
        ImageInvalid: NaN or Inf, the wrong number of channels or dimensions.
        ShapeMismatch: The files of the channels lie on different grids.
    """
    paths = [path] if isinstance(path, Path) else list(path)
    headers = [check_header(each, limit_bytes) for each in paths]
    for each, header in zip(paths, headers, strict=True):
        if not header.grid.matches(headers[0].grid):
            raise ShapeMismatch(paths[0], str(headers[0].grid), each, str(header.grid))
        if spatial_dims == 3 and header.grid.shape[2] == 1:
            raise ImageInvalid(each, "is 2-D, but the task is 3-D")
    wanted = channels if len(paths) == 1 else 1
    arrays = [_read_voxels(each, header, wanted) for each, header in zip(paths, headers, strict=True)]
    found = sum(array.shape[-1] for array in arrays)
    if found != channels:
        raise ImageInvalid(paths[0], f"has {found} channel(s), but the task needs {channels}")
    for each, array in zip(paths, arrays, strict=True):
        if bad := int(array.size - np.isfinite(array).sum()):
            raise ImageInvalid(each, f"has NaN or infinite values in {bad:,} of {array.size:,} voxels")
    image = np.ascontiguousarray(np.moveaxis(np.concatenate(arrays, axis=-1), -1, 0), dtype=np.float32)
    return MetaTensor(torch.from_numpy(image), affine=torch.from_numpy(headers[0].affine.copy()))


def read_label(path: Path, classes: int | None = None, limit_bytes: int = LIMIT_BYTES) -> MetaTensor:
    """Read a label map.

    Args:
        path: An image file with one channel of whole numbers.
        classes: If given, labels must lie in 0 .. classes - 1.
        limit_bytes: The most memory that the file may take.

    Returns:
        int32, shape 1XYZ, with its affine.

    Raises:
        ImageUnreadable, ImageTooLarge: As for `check_header`.
        LabelInvalid: Values that are not whole numbers, or outside the classes.
    """
    header = check_header(path, limit_bytes)
    array = _read_voxels(path, header, None)
    if array.shape[-1] != 1:
        raise ImageUnreadable(path, f"a label map has one channel, this one has {array.shape[-1]}")
    highest = np.iinfo(np.int32).max if classes is None else classes - 1
    if array.dtype.kind == "f" or array.min() < 0 or array.max() > highest:
        values = np.unique(array)
        wrong = values[~((values >= 0) & (values <= highest) & (values == np.floor(values)))]
        if wrong.size:
            raise LabelInvalid(path, [float(value) for value in wrong[:5]], range(classes or 0))
    label = np.ascontiguousarray(np.moveaxis(array, -1, 0), dtype=np.int32)
    return MetaTensor(torch.from_numpy(label), affine=torch.from_numpy(header.affine.copy()))


def write_label_map(path: Path, labels: NDArray[np.uint8], header: Header) -> None:
    """Write a label map as NIfTI on the grid of its input: complete under its name, or not there at all.

    Args:
        path: A .nii or .nii.gz file; replaced if present.
        labels: uint8, the spatial shape of `header`.
        header: The input's: affine, sform and qform with their codes are kept.

    Raises:
        ValueError: `labels` has another shape, or `path` another suffix.
        DiskFull, ResourceError: No room, or no permission.
    """
    shape = header.shape[:3]
    if labels.shape != shape or not path.name.endswith((".nii", ".nii.gz")):
        raise ValueError(f"{path.name}: {labels.shape} labels for an input of shape {shape}, in a .nii or .nii.gz file")
    if header.nifti is None:
        image = nib.Nifti1Image(labels.astype(np.uint8), header.affine)
    else:
        fresh = header.nifti.as_byteswapped("<")
        fresh.set_data_dtype(np.uint8)
        fresh.set_data_shape(shape)
        fresh.set_slope_inter(1, 0)
        fresh.set_intent("none")
        fresh["cal_min"] = fresh["cal_max"] = 0
        fresh["vox_offset"] = 0  # nibabel then writes no extension
        kind = nib.Nifti2Image if isinstance(fresh, nib.Nifti2Header) else nib.Nifti1Image
        image = kind(labels.astype(np.uint8), None, fresh)
    blob = image.to_bytes()
    _write_durably(path, gzip.compress(blob, 4, mtime=0) if path.suffix == ".gz" else blob)


def resample(volume: Tensor, source: Grid, target: Grid, *, nearest: bool = False) -> Tensor:
    """Interpolate onto another grid whose axes run along the same directions, in any order and sense.

    Args:
        volume: Shape CXYZ on `source`.
        source: Where the voxels lie.
        target: Where they are wanted; beyond the border the nearest voxel counts.
        nearest: Take the nearest voxel (labels) instead of the linear interpolation.

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
    for axis in sorted(range(3), key=lambda axis: target.shape[axis] / volume.shape[axis + 1]):  # shrink first
        places = step[along[axis], axis] * np.arange(target.shape[axis]) + step[along[axis], 3]
        volume = _interpolate(volume, axis + 1, torch.from_numpy(places).to(volume.device), nearest)
    return volume.contiguous()


def _interpolate(volume: Tensor, axis: int, places: Tensor, nearest: bool) -> Tensor:
    """Values at fractional indices along one axis."""
    places = places.clamp(0, volume.shape[axis] - 1)
    if nearest:
        return volume.index_select(axis, (places + 0.5 - 1e-6).floor().clamp(min=0).long())
    low = (places + 1e-6).floor()  # positions a rounding error below a voxel count as on it
    weight = (places - low).clamp(min=0).to(volume.dtype)
    low_values = volume.index_select(axis, low.long())
    if float(weight.max()) < 1e-5:
        return low_values
    high_values = volume.index_select(axis, (low.long() + 1).clamp(max=volume.shape[axis] - 1))
    return low_values.lerp_(high_values, weight.view(-1, *(1,) * (volume.ndim - 1 - axis)))


def _check_nifti(path: Path, limit_bytes: int) -> Header:
    with _open(path) as stream:
        block = stream.read(540)
    nifti = _parse_nifti(block)
    shape, dtype = tuple(int(size) for size in nifti.get_data_shape()), nifti.get_data_dtype()
    if not 2 <= len(shape) <= 5 or min(shape) < 1:
        raise ValueError(f"its header claims the shape {shape}")
    if dtype.kind not in "iufb":
        raise ValueError("its voxels are colours or complex numbers")
    count = math.prod(shape)
    _check_size(path, count * max(dtype.itemsize, 4), limit_bytes)
    offset = float(nifti["vox_offset"])
    if not 0 <= offset <= limit_bytes:
        raise ValueError(f"its header claims that the voxels start at byte {offset:g}")
    room = path.stat().st_size * (DEFLATE_RATIO if path.suffix == ".gz" else 1)
    if room < offset + count * dtype.itemsize:
        raise ValueError("the file is truncated: it is shorter than its header claims")
    extra = [size for size in shape[3:] if size > 1]
    if len(extra) > 1:
        raise ValueError(f"its header claims the shape {shape}")
    affine = _check_affine(nifti, shape)
    return Header(shape, affine, spacing_of(affine), dtype, count * max(dtype.itemsize, 4), math.prod(extra), nifti)


def _parse_nifti(block: bytes) -> Any:
    """The header of a single-file NIfTI-1 or NIfTI-2, of either byte order; extensions are never read."""
    if len(block) < 348:
        raise ValueError("shorter than a NIfTI header")
    size = {struct.unpack("<i", block[:4])[0], struct.unpack(">i", block[:4])[0]}
    if 348 in size and block[344:347] == b"n+1":
        return nib.Nifti1Header(block[:348], check=False)
    if 540 in size and block[4:7] == b"n+2" and len(block) >= 540:
        return nib.Nifti2Header(block[:540], check=False)
    raise ValueError("not a NIfTI file")


def _check_size(path: Path, claimed_bytes: int, limit_bytes: int) -> None:
    if claimed_bytes > limit_bytes:
        raise ImageTooLarge(path, claimed_bytes, limit_bytes)


def _check_affine(nifti: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The affine, finite and invertible, of a plausible size."""
    if len(shape) == 2 and not nifti["pixdim"][3] > 0:
        nifti["pixdim"][3] = 1.0  # a 2-D image need not say how thick it is
    with np.errstate(all="ignore"):
        affine = np.asarray(nifti.get_best_affine(), dtype=np.float64)
        sizes = np.array(spacing_of(affine))
        extent = sizes * np.array((*shape, 1)[:3])
        if not np.isfinite(affine).all() or not np.isfinite(sizes).all():
            raise ValueError("its affine is not finite")
        if sizes.min() <= 1e-6 or abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-3:
            raise ValueError("its affine cannot be inverted")
    if extent.max() > MAX_EXTENT_MM:
        raise ValueError(f"its affine claims an extent of {extent.max():.3g} mm")
    return affine


def _check_picture(path: Path, limit_bytes: int) -> Header:
    try:
        with _open_picture(path) as picture:
            (columns, rows), bands = picture.size, len(picture.getbands())
            dtype = np.dtype(
                np.int32 if picture.mode.startswith("I") else np.float32 if picture.mode == "F" else np.uint8
            )
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))
        raise ImageTooLarge(path, 4 * int(pixels.group() if pixels else 0), limit_bytes) from error
    _check_size(path, columns * rows * bands * 4, limit_bytes)
    return Header((columns, rows), PICTURE_AFFINE.copy(), (1.0, 1.0, 1.0), dtype, columns * rows * bands * 4, bands)


def _open_picture(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own cap follows
        return Image.open(path, formats=("PNG", "JPEG"))


def _open(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "rb")) if path.suffix.lower() == ".gz" else path.open("rb")


def _read_voxels(path: Path, header: Header, channels: int | None) -> NDArray[Any]:
    """Voxels of shape XYZC, scaled as the header says; `channels` chooses grey or RGB for a picture."""
    try:
        if header.nifti is None:
            return _read_pixels(path, channels)
        needed = math.prod(header.shape) * header.dtype.itemsize
        with _open(path) as stream:
            stream.seek(int(header.nifti["vox_offset"]) or header.nifti.single_vox_offset)
            raw = stream.read(needed)
            stream.read(1)  # at the end of a gzip stream this verifies its checksum
        if len(raw) < needed:
            raise ValueError(f"truncated: {len(raw):,} of {needed:,} bytes")
        shape = (*header.grid.shape, header.channels)
        voxels = np.frombuffer(raw, header.dtype).reshape(shape, order="F")
        slope, intercept = header.nifti.get_slope_inter()
        if (slope, intercept) in {(None, None), (1.0, 0.0)}:
            return np.asarray(voxels, header.dtype.newbyteorder("="))
        with np.errstate(all="ignore"):
            return np.asarray(voxels.astype(np.float64) * slope + (intercept or 0.0))
    except MALFORMED as error:
        raise ImageUnreadable(path, _reason(error)) from error


def _read_pixels(path: Path, channels: int | None) -> NDArray[Any]:
    with _open_picture(path) as picture:
        if channels in (1, 3) and picture.mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"):
            pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
        else:
            pixels = np.asarray(picture)  # a label map's numbers, or 16 bits of grey, as they are
    return pixels.reshape(*pixels.shape[:2], 1, -1).swapaxes(0, 1)


def _reason(error: BaseException) -> str:
    """One line of what went wrong, without the path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split())[:200] or type(error).__name__


def _write_durably(path: Path, blob: bytes) -> None:
    """Write under a temporary name, flush to the disk, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as stream:
            stream.write(blob)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(path.parent, shutil.disk_usage(path.parent).free, len(blob)) from error
        raise ResourceError(f"{path.parent}: cannot be written ({_reason(error)}). Choose another folder.") from error
