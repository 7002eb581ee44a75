"""Frames: planes of voxels, where each lies in the patient, and how its numbers are scaled.

A file has one frame, or as many as `NumberOfFrames` says; the functional groups of an enhanced
object (DICOM PS3.3, C.7.6.16) say where each lies. Positions and directions are DICOM's: mm, LPS
(left, posterior, superior).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.dataset import Dataset

from polyclinic_client.dicom.reading.elements import (
    MOST_FRAMES,
    MOST_MM,
    Malformed,
    item,
    items,
    number,
    numbers,
    text,
    whole,
    words,
)

Vector = tuple[float, float, float]
STRAY = 1e-3  # of a direction's length, and of the right angle between two
# what may tell apart two images at one place: its name in a sentence, the group that holds it in an
# enhanced object, and the keyword
DIFFERENCES = (
    ("echo time", "MREchoSequence", "EffectiveEchoTime"),
    ("echo time", "", "EchoTime"),
    ("inversion time", "", "InversionTime"),
    ("b-value", "MRDiffusionSequence", "DiffusionBValue"),
    ("b-value", "", "DiffusionBValue"),
    ("point in time", "FrameContentSequence", "TemporalPositionIndex"),
    ("point in time", "", "TemporalPositionIdentifier"),
    ("stack", "FrameContentSequence", "StackID"),
    ("acquisition", "", "AcquisitionNumber"),
    ("reconstruction kernel", "", "ConvolutionKernel"),
)


@dataclass(frozen=True)
class Frame:
    """One plane of voxels.

    Attributes:
        number: From 0, within the file.
        position: Centre of the first voxel.
        along_row: Unit vector in which the column's number rises.
        along_column: Unit vector in which the row's number rises.
        spacing: Between columns, and between rows (the order of `along_row`, `along_column`).
        thickness: Distance between planes as far as the file says; 0 if it does not.
        slope: By which the stored numbers are multiplied.
        intercept: Which is then added.
        differences: What may tell it apart from another image at its place: (name, value).
    """

    number: int
    position: Vector
    along_row: Vector
    along_column: Vector
    spacing: tuple[float, float]
    thickness: float
    slope: float = 1.0
    intercept: float = 0.0
    differences: tuple[tuple[str, str], ...] = ()

    @property
    def normal(self) -> Vector:
        """Unit vector across the plane: along the row x along the column."""
        (a, b, c), (x, y, z) = self.along_row, self.along_column
        return (b * z - c * y, c * x - a * z, a * y - b * x)


def read_frames(header: Dataset) -> tuple[Frame, ...]:
    """Read where every frame of an object lies.

    Raises:
        Malformed: A value is missing or impossible.
    """
    count = whole(header, "NumberOfFrames", 1, MOST_FRAMES, default=1)
    each = items(header, "PerFrameFunctionalGroupsSequence")
    shared = item(header, "SharedFunctionalGroupsSequence")
    if each or shared is not None:
        if len(each) != count:
            raise Malformed(f"it has {count} frames and describes {len(each)}")
        groups = _Groups(header, shared)
        return tuple(groups.frame(number, one) for number, one in enumerate(each))
    if count != 1:
        raise Malformed("it has several frames and does not say where they lie")
    return (_plain_frame(header),)


def _plain_frame(header: Dataset) -> Frame:
    return _make_frame(
        0,
        numbers(header, "ImagePositionPatient", 3),
        numbers(header, "ImageOrientationPatient", 6),
        numbers(header, "PixelSpacing", 2),
        _thickness(header, header),
        (number(header, "RescaleSlope", 1.0), number(header, "RescaleIntercept", 0.0)),
        tuple(_differences(header, "", [header])),
    )


class _Groups:
    """Functional groups: of one frame, of all, and what the object itself says."""

    def __init__(self, header: Dataset, shared: Dataset | None) -> None:
        self.header = header
        self.shared = shared if shared is not None else Dataset()

    def find(self, own: Dataset, name: str) -> Dataset:
        found = item(own, name)
        found = item(self.shared, name) if found is None else found
        return Dataset() if found is None else found

    def frame(self, place: int, own: Dataset) -> Frame:
        measures = self.find(own, "PixelMeasuresSequence")
        values = self.find(own, "PixelValueTransformationSequence")
        named: list[tuple[str, str]] = []
        for group in {group for _, group, _ in DIFFERENCES if group}:
            named += _differences(self.find(own, group), group, [])
        for kind in ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence"):
            if found := words(self.find(own, kind), "FrameType")[2:4]:
                named.append(("kind of image", "\\".join(found)))
        return _make_frame(
            place,
            numbers(self.find(own, "PlanePositionSequence"), "ImagePositionPatient", 3),
            numbers(self.find(own, "PlaneOrientationSequence"), "ImageOrientationPatient", 6),
            numbers(measures, "PixelSpacing", 2),
            _thickness(measures, self.header),
            (number(values, "RescaleSlope", 1.0), number(values, "RescaleIntercept", 0.0)),
            tuple(sorted(named)),
        )


def _differences(of: Dataset, group: str, plain: list[Dataset]) -> Iterator[tuple[str, str]]:
    for name, holder, keyword in DIFFERENCES:
        if holder == group and (value := text(of, keyword)):
            yield name, value
    for header in plain:
        if found := words(header, "ImageType")[2:]:
            yield "kind of image", "\\".join(found)


def _thickness(measures: Dataset, header: Dataset) -> float:
    """Return the distance between planes, or else the thickness of one."""
    for of in (measures, header):
        for keyword in ("SpacingBetweenSlices", "SliceThickness"):
            found = abs(number(of, keyword, 0.0))
            if 0 < found < MOST_MM:
                return found
    return 0.0


def _make_frame(
    place: int,
    position: tuple[float, ...] | None,
    orientation: tuple[float, ...] | None,
    spacing: tuple[float, ...] | None,
    thickness: float,
    scale: tuple[float, float],
    differences: tuple[tuple[str, str], ...],
) -> Frame:
    if position is None or orientation is None:
        raise Malformed("it does not say where it lies in the patient")
    if spacing is None:
        raise Malformed("it does not say how large its voxels are")
    if max(map(abs, position)) > MOST_MM or not all(1e-4 < each < MOST_MM for each in spacing):
        raise Malformed("its position or the size of its voxels is impossible")
    row, column = _unit(orientation[:3]), _unit(orientation[3:])
    if abs(sum(a * b for a, b in zip(row, column, strict=True))) > STRAY:
        raise Malformed("its rows and columns are not at right angles")
    if scale[0] == 0:
        raise Malformed("its RescaleSlope is zero")
    x, y, z = position
    return Frame(
        place, (x, y, z), row, column, (spacing[1], spacing[0]), thickness, *scale, differences
    )


def _unit(vector: tuple[float, ...]) -> Vector:
    length = math.sqrt(sum(each * each for each in vector))
    if abs(length - 1) > STRAY:
        raise Malformed("its orientation is impossible")
    x, y, z = (each / length for each in vector)
    return x, y, z
