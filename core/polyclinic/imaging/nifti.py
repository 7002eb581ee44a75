"""NIfTI files: their header checked, then their voxels in blocks.

Nothing else opens a NIfTI file. Memory is bounded by what the header claims, which is checked: one
float32 or int32 for each voxel, and a block.
"""

import gzip
import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from polyclinic.imaging.headers import (
    LIMIT_BYTES,
    MALFORMED,
    Header,
    check_size,
    spacing_of,
)

SUFFIXES = (".nii", ".nii.gz")
MAX_EXTENT_MM = 1e5  # an affine that claims a patient of more than 100 m is damaged
DEFLATE_RATIO = 1032  # a gzip stream expands at most this many times
BLOCK = 2**20  # voxels that are converted at once
VOXEL_BYTES = 4  # in memory

Block = tuple[tuple[int, slice, slice, slice], NDArray[Any]]  # place in CXYZ, voxels


def read_nifti_header(path: Path, limit_bytes: int = LIMIT_BYTES) -> Header:
    """Read and check a header.

    Raises:
        ImageTooLarge: It claims more than `limit_bytes` of voxels.
        Exception: One of `MALFORMED`, for everything else that is wrong.
    """
    with _open(path) as stream:
        block = stream.read(540)
    nifti = _parse(block)
    shape, dtype = tuple(int(size) for size in nifti.get_data_shape()), nifti.get_data_dtype()
    if not 2 <= len(shape) <= 5 or min(shape) < 1:
        raise ValueError(f"its header claims the shape {shape}")
    if dtype.kind not in "iufb":
        raise ValueError("its voxels are colours or complex numbers")
    count = math.prod(shape)
    check_size(path, count * VOXEL_BYTES, limit_bytes)
    offset = float(nifti["vox_offset"])
    if not 0 <= offset <= limit_bytes:
        raise ValueError(f"its header claims that the voxels start at byte {offset:g}")
    room = path.stat().st_size * (DEFLATE_RATIO if path.suffix.lower() == ".gz" else 1)
    if room < offset + count * dtype.itemsize:
        raise ValueError("the file is truncated: it is shorter than its header claims")
    extra = [size for size in shape[3:] if size > 1]
    if len(extra) > 1:
        raise ValueError(f"its header claims the shape {shape}")
    if len(shape) == 2 and not nifti["pixdim"][3] > 0:
        nifti["pixdim"][3] = 1.0  # a 2-D image may leave its thickness out
    affine = _check_affine(nifti.get_best_affine, shape)
    return Header(
        shape,
        affine,
        spacing_of(affine),
        dtype,
        count * VOXEL_BYTES,
        math.prod(extra),
        nifti,
        _second_form(nifti, shape),
        bool(nifti["sform_code"] > 0 or nifti["qform_code"] > 0),
    )


def read_blocks(path: Path, header: Header) -> Iterator[Block]:
    """Read the voxels in blocks, scaled as the header says.

    Yields:
        Place in an array of shape CXYZ, and the voxels there: the file's own whole numbers, or
        floating-point numbers.

    Raises:
        Exception: One of `MALFORMED`: the file is truncated or damaged.
    """
    slope, intercept = header.nifti.get_slope_inter()
    scaled = (slope, intercept) not in {(None, None), (1.0, 0.0)}
    with _open(path) as stream:
        stream.seek(int(header.nifti["vox_offset"]) or header.nifti.single_vox_offset)
        for place, shape in _places(header.grid.shape, header.channels):
            needed = math.prod(shape) * header.dtype.itemsize
            raw = stream.read(needed)
            if len(raw) < needed:
                raise ValueError("the file is truncated: its voxels end before the header says so")
            voxels = np.frombuffer(raw, header.dtype).reshape(shape, order="F")
            if scaled:
                with np.errstate(all="ignore"):
                    voxels = voxels.astype(np.float64) * slope + (intercept or 0.0)
            yield place, voxels
        stream.read(1)  # at the end of a gzip stream this verifies its checksum


def scale_of(header: Header) -> float:
    """Return the factor by which the file's numbers are multiplied."""
    slope = header.nifti.get_slope_inter()[0] if header.nifti is not None else None
    return 1.0 if slope is None else float(slope)


def _places(
    shape: tuple[int, int, int], channels: int
) -> Iterator[tuple[tuple[int, slice, slice, slice], tuple[int, ...]]]:
    """Yield blocks of at most `BLOCK` voxels in the file's order, in which x runs fastest."""
    x, y, z = shape
    steps = (min(x, BLOCK), max(1, min(y, BLOCK // x)), max(1, min(z, BLOCK // (x * y))))
    for channel in range(channels):
        for planes in _pieces(z, steps[2]):
            for rows in _pieces(y, steps[1]):
                for columns in _pieces(x, steps[0]):
                    lengths = tuple(each.stop - each.start for each in (columns, rows, planes))
                    yield (channel, columns, rows, planes), lengths


def _pieces(size: int, step: int) -> Iterator[slice]:
    for start in range(0, size, step):
        yield slice(start, min(size, start + step))


def _open(path: Path) -> IO[bytes]:
    """Open a file's bytes, decompressed if need be."""
    if path.suffix.lower() == ".gz":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    return path.open("rb")


def _parse(block: bytes) -> Any:
    """Parse the header of a single-file NIfTI-1 or NIfTI-2, of either byte order.

    Extensions are never read.
    """
    if len(block) < 348:
        raise ValueError("shorter than a NIfTI header")
    size = {struct.unpack("<i", block[:4])[0], struct.unpack(">i", block[:4])[0]}
    if 348 in size and block[344:347] == b"n+1":
        return nib.Nifti1Header(block[:348], check=False)
    if 540 in size and block[4:7] == b"n+2" and len(block) >= 540:
        return nib.Nifti2Header(block[:540], check=False)
    raise ValueError("not a NIfTI file")


def _check_affine(compute: Callable[[], object], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the affine if it is finite, invertible and of a plausible size."""
    with np.errstate(all="ignore"):
        affine = np.asarray(compute(), dtype=np.float64)
        sizes = np.array(spacing_of(affine))
        extent = sizes * np.array((*shape, 1)[:3])
        if not np.isfinite(affine).all() or not np.isfinite(sizes).all():
            raise ValueError("its affine is not finite")
        if sizes.min() <= 1e-6 or abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-3:
            raise ValueError("its affine cannot be inverted")
    if extent.max() > MAX_EXTENT_MM:
        raise ValueError(f"its affine claims an extent of {extent.max():.3g} mm")
    return affine


def _second_form(nifti: Any, shape: tuple[int, ...]) -> NDArray[np.float64] | None:
    """Return the qform's affine where it stands beside a sform, and is sound."""
    if not (nifti["sform_code"] > 0 and nifti["qform_code"] > 0):
        return None
    try:
        return _check_affine(nifti.get_qform, shape)
    except MALFORMED:
        return None
