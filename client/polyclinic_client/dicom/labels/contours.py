"""RTSTRUCT as a label map on the grid of an image: closed contours, filled slice by slice.

A voxel belongs to a region if its centre lies within an odd number of the region's contours on its
slice, so an inner contour cuts a hole.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from polyclinic.imaging.headers import Grid
from polyclinic_client.dicom.errors import LabelsRefused
from polyclinic_client.dicom.labels.segmentations import Number, Place
from polyclinic_client.dicom.reading.elements import (
    Malformed,
    damage_named,
    items,
    text,
    whole,
)
from polyclinic_client.dicom.reading.geometry import TO_RAS
from polyclinic_client.dicom.reading.instances import check_inflated

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
OFF_SLICE = 0.1  # of the distance between slices, by which a contour may lie off one
TAGS = ["ROIContourSequence", "StructureSetROISequence"]


def read_contours(path: Path, named: str, number_of: Number, place: Place, grid: Grid) -> None:
    """Place the voxels of the wanted regions.

    Args:
        path: An RTSTRUCT.
        named: What it is called in a sentence.
        number_of: The label of a region's name; None where it is not wanted.
        place: Takes the voxels of a label.
        grid: Of the image.

    Raises:
        LabelsRefused: A contour lies between the image's slices.
        DicomUnreadable: It is damaged.
    """
    with damage_named(path, "its contours"):
        check_inflated(path)
        content = dcmread(path, stop_before_pixels=True, force=True, specific_tags=TAGS)
        labels = {
            whole(each, "ROINumber", 0, 10**9): number_of(text(each, "ROIName"))
            for each in items(content, "StructureSetROISequence")
        }
        for region in items(content, "ROIContourSequence"):
            label = labels.get(whole(region, "ReferencedROINumber", 0, 10**9))
            if label is None:
                continue
            for plane, contours in _by_slice(region, grid, named).items():
                columns, rows = np.nonzero(fill(contours, grid.shape[:2]))
                place(np.stack([columns, rows, np.full_like(rows, plane)]), label)


def fill(contours: list[NDArray[np.float64]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Fill contours by the even-odd rule.

    Args:
        contours: Corners of each, shape Nx2, in voxels; the centre of voxel (i, j) is (i, j).
        shape: Of the result, as the corners' two axes.

    Returns:
        Whether a voxel's centre lies within an odd number of contours.
    """
    starts = np.concatenate(contours)
    ends = np.concatenate([np.roll(each, -1, axis=0) for each in contours])
    rising = np.where((starts[:, 1] <= ends[:, 1])[:, None, None], *_ordered(starts, ends))
    (low_x, low_y), (high_x, high_y) = rising[:, 0].T, rising[:, 1].T
    first = np.clip(np.ceil(low_y), 0, shape[1]).astype(np.int64)
    last = np.clip(np.ceil(high_y), 0, shape[1]).astype(np.int64)  # the upper end does not count
    counts = np.maximum(0, last - first)
    edge = np.repeat(np.arange(len(counts)), counts)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    part = (row - low_y[edge]) / (high_y - low_y)[edge]
    crossing = low_x[edge] + part * (high_x - low_x)[edge]
    column = np.clip(np.ceil(crossing), 0, shape[0]).astype(np.int64)
    turns = np.zeros((shape[0] + 1, shape[1]), np.int64)
    np.add.at(turns, (column, row), 1)
    return np.asarray(np.cumsum(turns, axis=0)[:-1] % 2 == 1)


def _ordered(
    starts: NDArray[np.float64], ends: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.stack([starts, ends], axis=1), np.stack([ends, starts], axis=1)


def _by_slice(region: Dataset, grid: Grid, named: str) -> dict[int, list[NDArray[np.float64]]]:
    """Return the contours of a region on each slice, in voxels of the slice."""
    found: dict[int, list[NDArray[np.float64]]] = defaultdict(list)
    to_index = np.linalg.inv(grid.affine) @ TO_RAS
    for contour in items(region, "ContourSequence"):
        if text(contour, "ContourGeometricType").upper() not in CLOSED:
            continue  # points and lines enclose nothing
        corners = _corners(contour)
        index = to_index[:3, :3] @ corners.T + to_index[:3, 3:]
        plane = int(np.rint(index[2].mean()))
        if np.abs(index[2] - plane).max() > OFF_SLICE:
            raise LabelsRefused(named, "a contour lies between the slices of its image")
        if not 0 <= plane < grid.shape[2]:
            raise LabelsRefused(named, "it reaches beyond the image that it labels")
        found[plane].append(index[:2].T)
    return found


def _corners(contour: Dataset) -> NDArray[Any]:
    values = contour.get("ContourData")
    numbers = np.array([float(each) for each in values or ()], np.float64)
    if len(numbers) % 3 or len(numbers) < 9 or not np.isfinite(numbers).all():
        raise Malformed("a contour does not hold three corners or more")
    if np.abs(numbers).max() > 1e6:
        raise Malformed("a contour lies nowhere")
    return numbers.reshape(-1, 3)
