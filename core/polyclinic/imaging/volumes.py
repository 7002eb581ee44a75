"""NIfTI, PNG and JPEG files as tensors with an affine, and label maps as files.

Headers are checked before voxels are read. Every image is a volume of shape CXYZ (channels, then
three axes as in the file); a 2-D image has one slice, Z = 1. An affine maps a voxel's index to
millimetres in RAS+ (right, anterior, superior), as NIfTI defines it.
"""

import gzip
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from polyclinic.errors import (
    ImageInvalid,
    ImageUnreadable,
    LabelInvalid,
    ResourceError,
    ShapeMismatch,
)
from polyclinic.imaging.headers import (
    LIMIT_BYTES,
    MALFORMED,
    Header,
    check_header,
    open_picture,
    open_stream,
    reason_of,
)
from polyclinic.system.durable import write_durably

# Pillow's modes that are turned into grey or RGB
CONVERTIBLE = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
FLAT = "Choose a 2-D task, data=segmentation_2d or data=classification_2d, and a 2-D model"


def read_image(
    path: Path | Sequence[Path], channels: int, spatial_dims: int, limit_bytes: int = LIMIT_BYTES
) -> MetaTensor:
    """Read an image, from one file or from one file for each channel.

    Args:
        path: One file (a fourth NIfTI dimension holds channels), or one file for each channel.
        channels: Expected number of channels. Pictures are turned into grey (1) or RGB (3).
        spatial_dims: 3 refuses 2-D images; 2 takes both 2-D images and volumes, whose slices are
            chosen later.
        limit_bytes: Largest size of one file in memory.

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
            raise ImageInvalid(each, "is 2-D, but the task is 3-D", FLAT)
    wanted = channels if len(paths) == 1 else 1
    arrays = [
        _read_voxels(each, header, wanted) for each, header in zip(paths, headers, strict=True)
    ]
    found = sum(array.shape[-1] for array in arrays)
    if found != channels:
        raise ImageInvalid(paths[0], f"has {found} channel(s), but the task needs {channels}")
    for each, array in zip(paths, arrays, strict=True):
        if bad := int(array.size - np.isfinite(array).sum()):
            raise ImageInvalid(
                each, f"has NaN or infinite values in {bad:,} of {array.size:,} voxels"
            )
    image = np.ascontiguousarray(
        np.moveaxis(np.concatenate(arrays, axis=-1), -1, 0), dtype=np.float32
    )
    return MetaTensor(torch.from_numpy(image), affine=torch.from_numpy(headers[0].affine.copy()))


def read_label(
    path: Path, classes: int | None = None, limit_bytes: int = LIMIT_BYTES
) -> MetaTensor:
    """Read a label map.

    Args:
        path: An image file with one channel of whole numbers.
        classes: Number of classes; if given, labels must lie in 0 .. classes - 1.
        limit_bytes: Largest size of the file in memory.

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
    """Write a label map as NIfTI on the grid of its input, whole or not at all.

    Args:
        path: A .nii or .nii.gz file; replaced if present.
        labels: uint8, the spatial shape of `header`.
        header: Header of the input; its affine, sform and qform with their codes are kept.

    Raises:
        ValueError: `labels` has another shape, or `path` another suffix.
        DiskFull, ResourceError: No room, or no permission.
    """
    shape = header.shape[:3]
    if labels.shape != shape or not path.name.endswith((".nii", ".nii.gz")):
        raise ValueError(
            f"{path.name}: {labels.shape} labels for an input of shape {shape}, in a .nii or "
            ".nii.gz file"
        )
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
    if path.suffix == ".gz":
        blob = gzip.compress(blob, 4, mtime=0)
    try:
        write_durably(path, blob, private=False)
    except OSError as error:
        raise ResourceError(
            f"{path.parent}: cannot be written ({reason_of(error)}). Choose another folder."
        ) from error


def _read_voxels(path: Path, header: Header, channels: int | None) -> NDArray[Any]:
    """Read voxels of shape XYZC, scaled as the header says.

    For a picture, `channels` chooses grey (1) or RGB (3).
    """
    try:
        if header.nifti is None:
            return _read_pixels(path, channels)
        needed = math.prod(header.shape) * header.dtype.itemsize
        with open_stream(path) as stream:
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
        raise ImageUnreadable(path, reason_of(error)) from error


def _read_pixels(path: Path, channels: int | None) -> NDArray[Any]:
    with open_picture(path) as picture:
        if channels in (1, 3) and picture.mode in CONVERTIBLE:
            pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
        else:
            pixels = np.asarray(picture)  # numbers of a label map, or 16 bits of grey: unchanged
    return pixels.reshape(*pixels.shape[:2], 1, -1).swapaxes(0, 1)
