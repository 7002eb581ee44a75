"""Headers of image files, checked before the voxels are read: shape, affine, type, memory.

An affine maps a voxel's index to millimetres in RAS+ (right, anterior, superior), as NIfTI defines
it. This module does not import torch, so that a supervising process can read headers too.
"""

import gzip
import math
import re
import struct
import warnings
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError, HeaderTypeError
from numpy.typing import NDArray
from PIL import Image

from polyclinic.errors import ImageTooLarge, ImageUnreadable

LIMIT_BYTES = 2 * 2**30
SUFFIXES = (".nii", ".nii.gz", ".png", ".jpg", ".jpeg")
MAX_EXTENT_MM = 1e5  # an affine that claims a patient of more than 100 m is damaged
DEFLATE_RATIO = 1032  # a gzip stream expands at most this many times
# columns run to the patient's left, rows to the back, as on a screen
PICTURE_AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])
# what damaged files raise inside nibabel, numpy and Pillow
MALFORMED: tuple[type[Exception], ...] = (
    *(OSError, EOFError, ValueError, KeyError, TypeError, OverflowError, MemoryError, SyntaxError),
    *(zlib.error, struct.error, HeaderDataError, HeaderTypeError, np.linalg.LinAlgError),
)


@dataclass(frozen=True, eq=False)
class Grid:
    """Position of voxels: the shape XYZ and the affine (4 x 4) from voxel index to mm in RAS+."""

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    def __str__(self) -> str:
        sizes = "x".join(f"{value:.3g}" for value in spacing_of(self.affine))
        origin = ", ".join(f"{value:.1f}" for value in self.affine[:3, 3])
        axes = "".join(nib.aff2axcodes(self.affine))
        return f"{'x'.join(map(str, self.shape))} voxels of {sizes} mm, {axes}, origin ({origin})"

    def matches(self, other: "Grid") -> bool:
        """Tell whether the shapes are equal and no corner is more than a tenth of a voxel away."""
        if self.shape != other.shape:
            return False
        corners = np.array(
            [[*np.multiply(corner, self.shape), 1.0] for corner in np.ndindex(2, 2, 2)]
        ).T
        apart = np.abs((self.affine - other.affine) @ corners).max()
        return bool(apart <= 0.1 * min(spacing_of(self.affine)))


@dataclass(frozen=True, eq=False)
class Header:
    """What a file says about its voxels before they are read."""

    shape: tuple[int, ...]  # as in the file; a picture's is (columns, rows)
    affine: NDArray[np.float64]  # 4 x 4
    spacing_mm: tuple[float, float, float]
    dtype: np.dtype[Any]
    bytes: int  # size in memory, in the file's own type or as float32, whichever is more
    channels: int
    nifti: Any = field(default=None, repr=False)  # nibabel's header; None for a picture

    @property
    def grid(self) -> Grid:
        """Grid of the three spatial axes; a 2-D image has one slice."""
        x, y, z = (*self.shape[:3], 1)[:3]
        return Grid((x, y, z), self.affine)


def spacing_of(affine: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the voxel size in mm along each axis."""
    x, y, z = (float(value) for value in np.sqrt((affine[:3, :3] ** 2).sum(axis=0)))
    return x, y, z


def check_header(path: Path, limit_bytes: int = LIMIT_BYTES) -> Header:
    """Read and check the header alone.

    Args:
        path: A .nii, .nii.gz, .png or .jpg file.
        limit_bytes: Largest size of the voxels in memory.

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
        header = (
            _check_nifti(path, limit_bytes) if ".nii" in name else _check_picture(path, limit_bytes)
        )
    except MALFORMED as error:
        raise ImageUnreadable(path, reason_of(error)) from error
    return header


def _check_nifti(path: Path, limit_bytes: int) -> Header:
    with open_stream(path) as stream:
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
    return Header(
        shape,
        affine,
        spacing_of(affine),
        dtype,
        count * max(dtype.itemsize, 4),
        math.prod(extra),
        nifti,
    )


def _parse_nifti(block: bytes) -> Any:
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


def _check_size(path: Path, claimed_bytes: int, limit_bytes: int) -> None:
    if claimed_bytes > limit_bytes:
        raise ImageTooLarge(path, claimed_bytes, limit_bytes)


def _check_affine(nifti: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the affine if it is finite, invertible and of a plausible size."""
    if len(shape) == 2 and not nifti["pixdim"][3] > 0:
        nifti["pixdim"][3] = 1.0  # a 2-D image may leave its thickness out
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
        with open_picture(path) as picture:
            (columns, rows), bands = picture.size, len(picture.getbands())
            whole = np.int32 if picture.mode.startswith("I") else np.uint8
            dtype: np.dtype[Any] = np.dtype(np.float32 if picture.mode == "F" else whole)
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))
        raise ImageTooLarge(path, 4 * int(pixels.group() if pixels else 0), limit_bytes) from error
    _check_size(path, columns * rows * bands * 4, limit_bytes)
    return Header(
        (columns, rows),
        PICTURE_AFFINE.copy(),
        (1.0, 1.0, 1.0),
        dtype,
        columns * rows * bands * 4,
        bands,
    )


def open_picture(path: Path) -> Any:
    """Open a PNG or JPEG file without reading its pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `limit_bytes` is checked
        return Image.open(path, formats=("PNG", "JPEG"))


def open_stream(path: Path) -> IO[bytes]:
    """Open a NIfTI file's bytes, decompressed if need be."""
    return (
        cast("IO[bytes]", gzip.open(path, "rb"))
        if path.suffix.lower() == ".gz"
        else path.open("rb")
    )


def reason_of(error: BaseException) -> str:
    """Return one line that says what went wrong, without the path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split())[:200] or type(error).__name__
