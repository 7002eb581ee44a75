"""Simulated labels: a SEG that highdicom writes, and an RTSTRUCT of circles."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage, generate_uid

from polyclinic.imaging.headers import Grid
from polyclinic_client.dicom.labels.writing import write_segmentation
from polyclinic_client.dicom.reading.geometry import TO_RAS
from polyclinic_client.dicom.reading.series import Series
from tests.client.dicom.simulated import write_one

NAMES = ("background", "liver", "odd thing")


def boxes(shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Make a label map of two boxes."""
    found = np.zeros(shape, np.uint8)
    found[1:5, 2:7, 1:4] = 1
    found[6:9, 3:6, 2:5] = 2
    return found


def write_boxes(path: Path, series: Series) -> NDArray[np.uint8]:
    """Write the boxes as DICOM SEG; return them."""
    assert series.stack is not None
    labels = boxes(series.stack.grid.shape)
    write_segmentation(path, labels, series, NAMES, "series")
    return labels


def write_circles(
    path: Path, series: Series, radii: tuple[float, ...], lift: float = 0.0, name: str = "Liver"
) -> None:
    """Write an RTSTRUCT of concentric circles about voxel (5, 6) on every inner slice.

    Args:
        path: The file.
        series: The source.
        radii: In mm.
        lift: Distance from the slice, in slices.
        name: Of the region.
    """
    assert series.stack is not None
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = RTStructureSetStorage, generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID = series.first.study, generate_uid()
    made.PatientID, _, made.IssuerOfPatientID = series.first.patient.partition("\\")
    made.Modality = "RTSTRUCT"
    made.ReferencedFrameOfReferenceSequence = [_reference(series)]
    region, contours = Dataset(), Dataset()
    region.ROINumber, region.ROIName = 7, name
    contours.ReferencedROINumber = 7
    contours.ContourSequence = [
        _circle(series.stack.grid, radius, plane + lift)
        for plane in range(1, series.stack.grid.shape[2] - 1)
        for radius in radii
    ]
    made.StructureSetROISequence, made.ROIContourSequence = [region], [contours]
    write_one(path, made)


def in_circles(grid: Grid, radii: tuple[float, ...]) -> NDArray[np.bool_]:
    """Return which voxels lie in an odd number of the circles."""
    x, y, z = np.indices(grid.shape)
    size = np.sqrt((grid.affine[:3, :3] ** 2).sum(axis=0))
    away = np.hypot((x - 5) * size[0], (y - 6) * size[1])
    inside = sum((away < radius).astype(int) for radius in radii) % 2 == 1
    return np.asarray(inside & (z >= 1) & (z < grid.shape[2] - 1))


def _circle(grid: Grid, radius: float, plane: float) -> Dataset:
    angles = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    affine = TO_RAS @ grid.affine
    along = affine[:3, :2] / np.sqrt((affine[:3, :2] ** 2).sum(axis=0))
    middle = (affine @ np.array([5, 6, plane, 1]))[:3]
    corners = middle + radius * (
        np.outer(np.cos(angles), along[:, 0]) + np.outer(np.sin(angles), along[:, 1])
    )
    made = Dataset()
    made.ContourGeometricType = "CLOSED_PLANAR"
    made.NumberOfContourPoints = len(corners)
    made.ContourData = [f"{each:.6f}"[:16] for each in corners.ravel()]
    return made


def _reference(series: Series) -> Dataset:
    one, study, frame = Dataset(), Dataset(), Dataset()
    one.SeriesInstanceUID = series.first.series
    study.RTReferencedSeriesSequence = [one]
    frame.FrameOfReferenceUID = series.first.frame_of_reference
    frame.RTReferencedStudySequence = [study]
    return frame
