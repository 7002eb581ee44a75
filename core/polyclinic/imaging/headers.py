"""What is known of an image file before its voxels are read: shape, affines, type, memory.

An affine maps a voxel's index to millimetres in RAS+ (right, anterior, superior), as NIfTI defines
it. This module does not import torch, so that a supervising process can read headers too.
"""

import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError, HeaderTypeError
from numpy.typing import NDArray

from polyclinic.errors import ImageTooLarge

LIMIT_BYTES = 2 * 2**30
NEAR = 0.1  # of a voxel: grids whose corners are no further apart are one grid
# what damaged files raise inside nibabel, numpy and Pillow
MALFORMED: tuple[type[Exception], ...] = (
    *(OSError, EOFError, ValueError, LookupError, TypeError, ArithmeticError, MemoryError),
    *(
        SyntaxError,
        zlib.error,
        struct.error,
        HeaderDataError,
        HeaderTypeError,
        np.linalg.LinAlgError,
    ),
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

    def distance_mm(self, other: "Grid") -> float:
        """Return the largest distance, along one axis, between corners of two grids of one shape.

        Raises:
            ValueError: The shapes differ.
        """
        if self.shape != other.shape:
            raise ValueError(f"{self} and {other} differ in shape")
        corners = np.array(
            [[*np.multiply(corner, self.shape), 1.0] for corner in np.ndindex(2, 2, 2)]
        ).T
        return float(np.abs((self.affine - other.affine) @ corners).max())

    def matches(self, other: "Grid") -> bool:
        """Tell whether the shapes are equal and no corner is more than a tenth of a voxel away."""
        return self.shape == other.shape and self.distance_mm(other) <= NEAR * min(
            spacing_of(self.affine)
        )


@dataclass(frozen=True, eq=False)
class Header:
    """What a file says about its voxels before they are read.

    Attributes:
        shape: As in the file; of a picture (columns, rows).
        affine: 4 x 4.
        spacing_mm: Voxel size.
        dtype: Type of the numbers in the file.
        bytes: Memory that reading takes.
        channels: Number of channels.
        nifti: nibabel's header; None for a picture.
        qform: Affine of the qform, where the file has a sform too; 4 x 4.
        oriented: Whether the file says how it lies in the patient.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    spacing_mm: tuple[float, float, float]
    dtype: np.dtype[Any]
    bytes: int
    channels: int
    nifti: Any = field(default=None, repr=False)
    qform: NDArray[np.float64] | None = None
    oriented: bool = True

    @property
    def grid(self) -> Grid:
        """Grid of the three spatial axes; a 2-D image has one slice."""
        x, y, z = (*self.shape[:3], 1)[:3]
        return Grid((x, y, z), self.affine)

    @property
    def grids(self) -> tuple[Grid, ...]:
        """The grid, and the one of the qform where the file has both forms."""
        return (
            (self.grid,) if self.qform is None else (self.grid, Grid(self.grid.shape, self.qform))
        )

    def lies_on(self, other: "Header") -> bool:
        """Tell whether two files lie on one grid.

        Programs that write a label map may keep only one of its image's two forms: one form in
        common is enough. The affine of a picture cannot be compared with that of a NIfTI.
        """
        if (self.nifti is None) != (other.nifti is None):
            return self.grid.shape == other.grid.shape
        return any(mine.matches(theirs) for mine in self.grids for theirs in other.grids)


def spacing_of(affine: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the voxel size in mm along each axis."""
    x, y, z = (float(value) for value in np.sqrt((affine[:3, :3] ** 2).sum(axis=0)))
    return x, y, z


def check_size(path: Path, claimed_bytes: int, limit_bytes: int) -> None:
    """Refuse what would take too much memory.

    Raises:
        ImageTooLarge: More than the limit.
    """
    if claimed_bytes > limit_bytes:
        raise ImageTooLarge(path, claimed_bytes, limit_bytes)


def reason_of(error: BaseException) -> str:
    """Return one line that says what went wrong, without the path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split())[:200] or type(error).__name__
