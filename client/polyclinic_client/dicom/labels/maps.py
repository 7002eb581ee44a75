"""Labels of a series as one array: from every DICOM SEG and RTSTRUCT that belongs to it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polyclinic.imaging.headers import Grid
from polyclinic_client.dicom.labels.contours import read_contours
from polyclinic_client.dicom.labels.segmentations import read_segments
from polyclinic_client.dicom.mapping import Label
from polyclinic_client.dicom.reading.instances import Instance


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Labels on a grid.

    Attributes:
        voxels: uint8, shape of the grid.
        overlapping: Number of voxels that several labels claimed; the last of them counts.
    """

    voxels: NDArray[np.uint8]
    overlapping: int


def wanted_number(labels: Sequence[Label], structure: str) -> int | None:
    """Return the class of a structure's name, 1, 2, ...; None where no label takes it."""
    return next((n for n, label in enumerate(labels, start=1) if label.fits(structure)), None)


def read_labels(
    objects: Sequence[tuple[Instance, str]], labels: Sequence[Label], grid: Grid
) -> LabelMap:
    """Read a label map from the objects that label a series.

    Args:
        objects: SEG and RTSTRUCT, each with what it is called in a sentence.
        labels: The classes.
        grid: Of the series.

    Raises:
        LabelsRefused: One does not fit the series.
        DicomUnreadable: One is damaged.
    """
    voxels = np.zeros(grid.shape, np.uint8)
    overlapping = np.zeros(grid.shape, np.bool_)

    def place(where: NDArray[np.int64], label: int) -> None:
        index = tuple(where)
        before = voxels[index]
        overlapping[index] |= (before != 0) & (before != label)
        voxels[index] = np.maximum(before, label)

    for instance, named in objects:
        read = read_contours if instance.kind == "contours" else read_segments
        read(instance.path, named, lambda name: wanted_number(labels, name), place, grid)
    return LabelMap(voxels, int(overlapping.sum()))
