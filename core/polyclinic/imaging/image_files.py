"""Image files of any kind that a hospital may have: one door to their headers and their voxels."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from polyclinic.errors import ImageUnreadable, ShapeMismatch
from polyclinic.imaging import nifti, raster
from polyclinic.imaging.headers import LIMIT_BYTES, MALFORMED, Header, reason_of

SUFFIXES = (*nifti.SUFFIXES, *raster.SUFFIXES)
DICOM = "it is a folder: make a data set of DICOM by `polyclinic-client import`"


def check_header(path: Path, limit_bytes: int = LIMIT_BYTES) -> Header:
    """Read and check the header alone.

    Args:
        path: A .nii, .nii.gz, .png or .jpg file.
        limit_bytes: Largest memory that reading may take.

    Raises:
        ImageUnreadable: Not an image, truncated, or an impossible header.
        ImageTooLarge: The header claims more than `limit_bytes`.
    """
    name = path.name.lower()
    try:
        if path.is_dir():
            raise ImageUnreadable(path, DICOM)
        if not name.endswith(SUFFIXES):
            raise ImageUnreadable(path, f"only {', '.join(SUFFIXES)} are images here")
        if not path.is_file():
            raise ImageUnreadable(path, "there is no such file")
        if name.endswith(nifti.SUFFIXES):
            return nifti.read_nifti_header(path, limit_bytes)
        return raster.read_raster_header(path, limit_bytes)
    except MALFORMED as error:
        raise ImageUnreadable(path, reason_of(error)) from error


def check_same_grid(paths: Sequence[Path], headers: Sequence[Header]) -> None:
    """Check that several files lie on the grid of the first.

    Raises:
        ShapeMismatch: One does not.
    """
    for path, header in zip(paths, headers, strict=True):
        if not header.lies_on(headers[0]):
            apart = (
                header.grid.distance_mm(headers[0].grid)
                if header.grid.shape == headers[0].grid.shape
                else None
            )
            raise ShapeMismatch(paths[0], str(headers[0].grid), path, str(header.grid), apart)


def read_blocks(path: Path, header: Header, channels: int | None) -> Iterator[nifti.Block]:
    """Read voxels in blocks, as `nifti.read_blocks` does; a picture is one block.

    Args:
        path: The file.
        header: From `check_header`.
        channels: Chooses grey (1) or RGB (3) of a picture.

    Raises:
        ImageUnreadable: The file is truncated or damaged.
    """
    try:
        if header.nifti is not None:
            yield from nifti.read_blocks(path, header)
            return
        pixels = raster.read_pixels(path, channels)
        whole = slice(None)
        for channel, plane in enumerate(pixels):
            yield (channel, whole, whole, whole), plane
    except MALFORMED as error:
        raise ImageUnreadable(path, reason_of(error)) from error
