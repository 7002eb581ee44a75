"""DICOM SEG as a label map on the grid of an image.

Every frame is placed by its own position: no order, name or number of a frame counts.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from polyclinic.imaging.headers import Grid
from polyclinic_client.dicom.errors import LabelsRefused
from polyclinic_client.dicom.reading.elements import (
    Malformed,
    damage_named,
    item,
    items,
    text,
    whole,
)
from polyclinic_client.dicom.reading.frames import Frame, read_frames
from polyclinic_client.dicom.reading.geometry import TO_RAS
from polyclinic_client.dicom.reading.instances import check_inflated
from polyclinic_client.dicom.reading.pixels import read_planes

NEAR = 0.05  # of a voxel, by which a frame may lie beside the image's voxels
MOST_SEGMENTS = 65_535

Number = Callable[[str], int | None]  # name of a structure to the number of its label
Place = Callable[[NDArray[Any], int], None]  # voxels (indices, shape 3xN), and their label


def read_segments(path: Path, named: str, number_of: Number, place: Place, grid: Grid) -> None:
    """Place the voxels of the wanted segments.

    Args:
        path: A DICOM SEG.
        named: What it is called in a sentence.
        number_of: The label of a segment's name; None where it is not wanted.
        place: Takes the voxels of a label.
        grid: Of the image.

    Raises:
        LabelsRefused: It does not lie on the grid, or is no map of whole voxels.
        DicomUnreadable: It is damaged.
    """
    with damage_named(path, "its header"):
        check_inflated(path)
        header = dcmread(path, stop_before_pixels=True, force=True)
        kind = text(header, "SegmentationType").upper()
        if kind not in ("BINARY", "LABELMAP"):
            raise LabelsRefused(named, "it holds probabilities, no whole voxels")
        wanted = {
            whole(each, "SegmentNumber", 0, MOST_SEGMENTS): number_of(text(each, "SegmentLabel"))
            for each in items(header, "SegmentSequence")
        }
        frames = read_frames(header)
        owners = [_segments_of(header, frame, kind, wanted) for frame in frames]
    chosen = [n for n, owner in enumerate(owners) if any(v is not None for v in owner.values())]
    if not chosen:
        return
    for number, plane in zip(chosen, read_planes(path, chosen), strict=True):
        step = _placement(frames[number], plane.shape, grid, named)
        for value, label in owners[number].items():
            if label is None:
                continue
            rows, columns = np.nonzero(plane == value if kind == "LABELMAP" else plane)
            flat = np.stack([columns, rows, np.zeros_like(rows), np.ones_like(rows)])
            voxels = (step @ flat)[:3]
            _check_inside(voxels, grid, named)
            place(voxels, label)


def _segments_of(
    header: Dataset, frame: Frame, kind: str, wanted: dict[int, int | None]
) -> dict[int, int | None]:
    """Return what stands in a frame: for each value in it the label, None if not wanted."""
    if kind == "LABELMAP":
        return wanted
    own = items(header, "PerFrameFunctionalGroupsSequence")[frame.number]
    shared = item(header, "SharedFunctionalGroupsSequence") or Dataset()
    found = item(own, "SegmentIdentificationSequence") or item(
        shared, "SegmentIdentificationSequence"
    )
    if found is None:
        raise Malformed("a frame does not say of which segment it is")
    return {1: wanted.get(whole(found, "ReferencedSegmentNumber", 1, MOST_SEGMENTS))}


def _placement(frame: Frame, shape: tuple[int, ...], grid: Grid, named: str) -> NDArray[np.int64]:
    """Return the matrix from (column, row, 0, 1) in a frame to the index in the image."""
    affine = np.eye(4)
    affine[:3, 0] = np.multiply(frame.along_row, frame.spacing[0])
    affine[:3, 1] = np.multiply(frame.along_column, frame.spacing[1])
    affine[:3, 2] = np.multiply(frame.normal, max(frame.thickness, 1.0))
    affine[:3, 3] = frame.position
    step = np.linalg.inv(grid.affine) @ TO_RAS @ affine
    step[:, 2] = 0  # a frame has one plane
    near = np.rint(step)
    corners = np.array([[x * shape[1], y * shape[0], 0, 1] for x in (0, 1) for y in (0, 1)]).T
    if np.abs((step - near) @ corners).max() > NEAR or np.abs(near[:3, :2]).sum() != 2:
        raise LabelsRefused(named, "its voxels are not those of the image that it labels")
    return near.astype(np.int64)


def _check_inside(voxels: NDArray[Any], grid: Grid, named: str) -> None:
    shape = np.array(grid.shape)[:, None]
    if voxels.size and ((voxels < 0).any() or (voxels >= shape).any()):
        raise LabelsRefused(named, "it reaches beyond the image that it labels")
