"""A series as an array with an affine, and as a NIfTI file that holds nothing else."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import igzip
from numpy.typing import NDArray

from polyclinic.imaging.headers import Grid
from polyclinic.system.durable import replacing
from polyclinic_client.dicom.errors import DicomUnreadable, SeriesRefused
from polyclinic_client.dicom.reading.instances import Instance
from polyclinic_client.dicom.reading.mosaic import cut_tiles
from polyclinic_client.dicom.reading.pixels import LIMIT_BYTES, read_planes
from polyclinic_client.dicom.reading.series import Series

BLOCK = 2**23  # bytes that one thread compresses at a time
LEVEL = 1  # of ISA-L's gzip, three times as fast as zlib's 1 and as small on noise


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels of a series.

    Attributes:
        voxels: Shape (columns, rows, planes), scaled as the files say.
        grid: Its shape and its affine to mm in RAS+.
    """

    voxels: NDArray[Any]
    grid: Grid


def read_volume(series: Series, named: str) -> Volume:
    """Read the voxels of a series.

    Args:
        series: One whose stack is known.
        named: What the series is called in a sentence.

    Raises:
        SeriesRefused: It is no volume, or too large.
        DicomUnreadable: A file is damaged, or claims what it does not hold.
    """
    if series.stack is None:
        raise SeriesRefused(named, series.problem or "it holds no images")
    columns, rows, count = series.stack.grid.shape
    if columns * rows * count * 4 > LIMIT_BYTES:
        raise SeriesRefused(
            named,
            f"it has {columns}x{rows}x{count} voxels, more than fit into 2 GiB",
            "Crop or resample it first.",
        )
    places = {source: plane for plane, source in enumerate(series.stack.order)}
    frames = [frame for each in series.instances for frame in each.frames]
    canvas = _Canvas((count, rows, columns), {(each.slope, each.intercept) for each in frames})
    source = 0
    for instance in series.instances:
        for raw, frame in zip(_planes_of(instance, rows, columns), instance.frames, strict=True):
            if not canvas.fill(places[source], raw, frame.slope, frame.intercept):
                raise DicomUnreadable(instance.path, "its scaled values are not finite")
            source += 1
    return Volume(canvas.finished().transpose(2, 1, 0), series.stack.grid)


def write_volume(path: Path, volume: Volume) -> None:
    """Write a volume as NIfTI: voxels and affine, no text; whole or not at all.

    Args:
        path: A .nii.gz file; replaced if present.
        volume: What is written.

    Raises:
        DiskFull: No room.
    """
    write_nifti(path, volume.voxels, volume.grid)


def write_nifti(path: Path, voxels: NDArray[Any], grid: Grid) -> None:
    """Write an array on a grid as NIfTI, compressed by several threads."""
    image = nib.Nifti1Image(np.empty((1, 1, 1), voxels.dtype), grid.affine)
    header = image.header
    header.set_data_shape(voxels.shape)
    header.set_sform(grid.affine, 1)
    header.set_qform(grid.affine, 1, strip_shears=True)
    header.set_xyzt_units("mm")
    header.set_slope_inter(1, 0)
    header["vox_offset"] = 352
    head = header.binaryblock + b"\0" * 4
    with replacing(path, needed_bytes=voxels.nbytes) as unfinished, unfinished.open("wb") as file:
        for block in compress_blocks(head, voxels):
            file.write(block)


def compress_blocks(head: bytes, voxels: NDArray[Any]) -> Iterable[bytes]:
    """Compress an array in the order of NIfTI, x fastest, as members of one gzip file.

    ISA-L lets other threads run while it compresses, so two cores take half the time.
    """
    planes = voxels.shape[2]
    step = max(1, BLOCK // max(1, voxels[:, :, 0].nbytes))

    def packed(start: int) -> bytes:
        block = voxels[:, :, start : start + step].tobytes(order="F")
        content: bytes = igzip.compress(block if start else head + block, LEVEL, mtime=0)
        return content

    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(packed, range(0, planes, step))


def _planes_of(instance: Instance, rows: int, columns: int) -> Iterable[NDArray[Any]]:
    """Return the planes of a file, in the order of its frames."""
    if not instance.tiles:
        return _checked(instance, read_planes(instance.path), rows, columns)
    (mosaic,) = read_planes(instance.path)
    return _checked(instance, cut_tiles(mosaic, instance.tiles), rows, columns)


def _checked(
    instance: Instance, planes: Iterable[NDArray[Any]], rows: int, columns: int
) -> Iterable[NDArray[Any]]:
    count = 0
    for plane in planes:
        count += 1
        if plane.shape != (rows, columns) or count > len(instance.frames):
            raise DicomUnreadable(instance.path, "its pixels are not as its header says")
        yield plane
    if count < len(instance.frames):
        raise DicomUnreadable(instance.path, "it holds fewer frames than it claims")


class _Canvas:
    """Planes of one type: the smallest that holds every value so far, as they become known."""

    def __init__(self, shape: tuple[int, int, int], scales: set[tuple[float, float]]) -> None:
        self._whole = all(
            slope == int(slope) and shift == int(shift) and max(abs(slope), abs(shift)) <= 2**20
            for slope, shift in scales
        )
        self._planes = np.empty(shape, np.int16 if self._whole else np.float32)
        self._low = self._high = 0

    def fill(self, plane: int, raw: NDArray[Any], slope: float, shift: float) -> bool:
        """Scale a plane and put it in its place; tell whether all values are finite."""
        if self._whole:
            ends = [int(end) * int(slope) + int(shift) for end in (raw.min(), raw.max())]
            self._low, self._high = min(self._low, *ends), max(self._high, *ends)
            self._widen()
        target = self._planes[plane]
        if target.dtype.kind == "i":
            np.multiply(raw, int(slope), out=target, dtype=target.dtype, casting="unsafe")
            target += int(shift)
            return True
        with np.errstate(all="ignore"):
            target[...] = raw.astype(np.float64) * slope + shift
        return bool(np.isfinite(target).all())

    def finished(self) -> NDArray[Any]:
        """Return the planes, in 16 bits where these hold them."""
        if self._planes.dtype == np.int32 and _holds(np.uint16, self._low, self._high):
            return self._planes.astype(np.uint16)
        return self._planes

    def _widen(self) -> None:
        if self._planes.dtype.kind == "i" and not _holds(
            self._planes.dtype.type, self._low, self._high
        ):
            wide = np.int32 if _holds(np.int32, self._low, self._high) else np.float32
            self._planes = self._planes.astype(wide)


def _holds(kind: type, low: int, high: int) -> bool:
    limits = np.iinfo(kind)
    return bool(limits.min <= low and high <= limits.max)
