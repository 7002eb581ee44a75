"""NIfTI, PNG and JPEG files as tensors with an affine, and label maps as files.

Headers are checked before voxels are read. Every image is a volume of shape CXYZ (channels, then
three axes as in the file); a 2-D image has one slice, Z = 1. An affine maps a voxel's index to
millimetres in RAS+ (right, anterior, superior), as NIfTI defines it.
"""

import gzip
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
)
from polyclinic.imaging.headers import LIMIT_BYTES, Header, check_size, reason_of
from polyclinic.imaging.image_files import check_header, check_same_grid, read_blocks
from polyclinic.imaging.nifti import scale_of
from polyclinic.system.durable import write_durably

FLAT = "Choose a 2-D task, data=segmentation_2d or data=classification_2d, and a 2-D model"
NAN = (
    "If it marks the background, as SPM writes it, ask the coordinator for data.nan_as_zero=true; "
    "otherwise export the image again"
)
WHOLE = 1e-3  # a label this near to a whole number is that number
NAMED = 5  # wrong labels that a message names


def read_image(
    path: Path | Sequence[Path],
    channels: int,
    spatial_dims: int,
    limit_bytes: int = LIMIT_BYTES,
    *,
    nan_as_zero: bool = False,
) -> MetaTensor:
    """Read an image, from one file or from one file for each channel.

    Args:
        path: One file (a fourth NIfTI dimension holds channels), or one file for each channel.
        channels: Expected number of channels. Pictures are turned into grey (1) or RGB (3).
        spatial_dims: 3 refuses 2-D images; 2 takes both 2-D images and volumes, whose slices are
            chosen later.
        limit_bytes: Largest memory that the whole image may take.
        nan_as_zero: Whether NaN is read as 0, and not refused.

    Returns:
        float32, shape CXYZ (Z = 1 for a 2-D image), with its affine.

    Raises:
        ImageUnreadable, ImageTooLarge: As for `check_header`.
        ImageInvalid: NaN or Inf, the wrong number of channels or dimensions.
        ShapeMismatch: The files of the channels lie on different grids.
    """
    paths = [path] if isinstance(path, Path) else list(path)
    headers = [check_header(each, limit_bytes) for each in paths]
    check_size(paths[0], sum(header.bytes for header in headers), limit_bytes)
    check_same_grid(paths, headers)
    if spatial_dims == 3 and headers[0].grid.shape[2] == 1:
        raise ImageInvalid(paths[0], "is 2-D, but the task is 3-D", FLAT)
    wanted = channels if len(paths) == 1 else 1
    counts = [_channels_read(header, wanted) for header in headers]
    if sum(counts) != channels:
        raise ImageInvalid(
            paths[0],
            f"has {sum(counts)} channel(s), but the task needs {channels}",
            "Give one file for each channel, in the order of the task's channels",
        )
    image = np.empty((channels, *headers[0].grid.shape), np.float32)
    first = 0
    for each, header, count in zip(paths, headers, counts, strict=True):
        _fill(image[first : first + count], each, header, wanted, nan_as_zero)
        first += count
    return MetaTensor(torch.from_numpy(image), affine=torch.from_numpy(headers[0].affine.copy()))


def read_label(
    path: Path,
    classes: int | None = None,
    limit_bytes: int = LIMIT_BYTES,
    *,
    values: Sequence[int] = (),
) -> MetaTensor:
    """Read a label map.

    Args:
        path: An image file with one channel of whole numbers; what is within a thousandth of one,
            as scaling leaves it, counts as that number.
        classes: Number of classes; if given, labels must lie in 0 .. classes - 1.
        limit_bytes: Largest memory that reading may take.
        values: The file's number of each class, where they are not 0, 1, 2, ...

    Returns:
        Classes, int32, shape 1XYZ, with the file's affine.

    Raises:
        ImageUnreadable, ImageTooLarge: As for `check_header`.
        LabelInvalid: Values that are not whole numbers, or outside the classes.
    """
    header = check_header(path, limit_bytes)
    if header.channels != 1:
        raise ImageUnreadable(path, f"a label map has one channel, this one has {header.channels}")
    declared = np.array(values or range(classes or 0), np.int64)
    label = np.empty((1, *header.grid.shape), np.int32)
    wrong: set[float] = set()
    for place, voxels in read_blocks(path, header, None):
        label[place], bad = _classes_of(voxels, declared, bool(values))
        if len(wrong) < NAMED:
            wrong |= {float(value) for value in np.unique(bad)[:NAMED]}
    if wrong:
        found = sorted(wrong)[:NAMED]
        raise LabelInvalid(path, found, declared.tolist(), scale_of(header))
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


def _channels_read(header: Header, wanted: int) -> int:
    """Return the number of channels that reading gives."""
    return wanted if header.nifti is None and wanted in (1, 3) else header.channels


def _fill(
    image: NDArray[np.float32], path: Path, header: Header, wanted: int, nan_as_zero: bool
) -> None:
    """Read a file's channels into their place, and refuse what is not finite."""
    missing = infinite = 0
    for place, voxels in read_blocks(path, header, wanted):
        with np.errstate(all="ignore"):  # what is beyond float32 becomes infinite
            image[place] = voxels
        missing += (nan := np.isnan(image[place])).sum()
        if nan_as_zero:
            image[place][nan] = 0
        infinite += np.isinf(image[place]).sum()
    bad = infinite + (0 if nan_as_zero else missing)
    if bad:
        raise ImageInvalid(
            path,
            f"has NaN or infinite values in {bad:,} of {image.size:,} voxels",
            "Export it again" if infinite else NAN,
        )


def _classes_of(
    voxels: NDArray[Any], declared: NDArray[np.int64], renumbered: bool
) -> tuple[NDArray[np.int32], NDArray[Any]]:
    """Return the class of each voxel, and the values that belong to no class."""
    near = voxels
    if voxels.dtype.kind == "f":
        near = np.rint(voxels)
        good = np.abs(near - voxels) <= WHOLE  # False for NaN and infinity
    else:
        good = np.ones(voxels.shape, bool)
    if not len(declared):
        good &= (near >= 0) & (near <= np.iinfo(np.int32).max)
    elif not renumbered:
        good &= (near >= 0) & (near < len(declared))
    else:
        good &= np.isin(near, declared)
    classes = np.where(good, near, 0).astype(np.int64)
    if renumbered:
        order = np.argsort(declared)
        found = np.searchsorted(declared[order], np.where(good, classes, declared[order[0]]))
        classes = order[found]
    return classes.astype(np.int32), voxels[~good]
