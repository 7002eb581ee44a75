"""Simulated DICOM series: the phantom is a field of numbers that tells every voxel's place.

Every text tag of a file holds a canary, so that any test can look for it.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)
from pydicom.valuerep import DSfloat

CANARY = "CANARY"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
TEXTS = (
    *("PatientName", "PatientComments", "InstitutionName", "ReferringPhysicianName"),
    *("StudyDescription", "OperatorsName", "StationName", "AdditionalPatientHistory"),
    *("AccessionNumber", "StudyID", "RequestedProcedureDescription", "ImageComments"),
    *("Occupation", "PatientAddress", "OtherPatientNames", "PerformedProcedureStepDescription"),
    *("ProtocolName", "SequenceName", "ManufacturerModelName", "DeviceSerialNumber"),
    *("DerivationDescription", "ContrastBolusAgent", "PatientID", "IssuerOfPatientID"),
)
Change = Callable[[Dataset, int], None]


def rotation(degrees: float, axis: int = 0) -> tuple[float, ...]:
    """Return axial directions turned about an axis of the patient."""
    angle = np.radians(degrees)
    others = [each for each in range(3) if each != axis]
    turn = np.eye(3)
    turn[np.ix_(others, others)] = [
        [np.cos(angle), -np.sin(angle)],
        [np.sin(angle), np.cos(angle)],
    ]
    return tuple(float(each) for each in (turn @ np.array(AXIAL).reshape(2, 3).T).T.ravel())


def decimals(values: Sequence[float]) -> list[DSfloat]:
    """Write numbers as DICOM allows, in 16 characters."""
    return [DSfloat(value, auto_format=True) for value in values]


@dataclass(frozen=True)
class Phantom:
    """A regular stack of planes.

    Attributes:
        shape: Rows, columns, planes.
        spacing: Between rows, columns, planes.
        orientation: As ImageOrientationPatient.
        origin: Position of the first voxel.
        signed: Whether the stored numbers have a sign.
    """

    shape: tuple[int, int, int] = (12, 10, 6)
    spacing: tuple[float, float, float] = (0.8, 0.7, 2.5)
    orientation: tuple[float, ...] = AXIAL
    origin: tuple[float, float, float] = (-31.5, 12.25, -100.0)
    signed: bool = True

    @property
    def normal(self) -> NDArray[np.float64]:
        return np.cross(self.orientation[:3], self.orientation[3:])

    def position(self, plane: float) -> list[float]:
        return [float(x) for x in np.array(self.origin) + self.normal * self.spacing[2] * plane]

    def pixels(self, plane: int) -> NDArray[np.integer[Any]]:
        rows, columns, planes = np.ogrid[: self.shape[0], : self.shape[1], plane : plane + 1]
        values = (columns + 20 * rows + 300 * planes)[:, :, 0]
        return (values - 900).astype(np.int16) if self.signed else values.astype(np.uint16)

    def stored(self) -> NDArray[np.integer[Any]]:
        """Return all stored numbers, shape (columns, rows, planes)."""
        return np.stack([self.pixels(plane).T for plane in range(self.shape[2])], axis=2)


def make_header(phantom: Phantom, kind: str = CTImageStorage, canary: str = CANARY) -> Dataset:
    """Make what all images of a series have in common."""
    made = Dataset()
    for keyword in TEXTS:
        setattr(made, keyword, canary)
    made.PatientBirthDate, made.StudyDate, made.PatientSex = "19310203", "19990405", "O"
    made.SeriesDescription = f"{canary} Head 5.0"
    made.SOPClassUID = kind
    made.StudyInstanceUID, made.SeriesInstanceUID = generate_uid(), generate_uid()
    made.FrameOfReferenceUID = generate_uid()
    made.Modality = "CT" if kind in (CTImageStorage, EnhancedCTImageStorage) else "MR"
    made.Manufacturer = "SIEMENS"
    made.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    made.Rows, made.Columns = phantom.shape[:2]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit, made.PixelRepresentation = 15, int(phantom.signed)
    made.StudyTime = made.SeriesTime = made.ContentTime = "101112"
    made.SeriesNumber, made.AcquisitionNumber = 4, 1
    return made


def make_slices(
    phantom: Phantom, kind: str = CTImageStorage, change: Change | None = None, **texts: str
) -> list[Dataset]:
    """Make a file for each plane; `change` may change each, given its number."""
    common = make_header(phantom, kind, **texts)
    found = []
    for plane in range(phantom.shape[2]):
        one = deepcopy(common)
        one.SOPInstanceUID = generate_uid()
        one.InstanceNumber = plane + 1
        one.ImagePositionPatient = decimals(phantom.position(plane))
        one.ImageOrientationPatient = decimals(phantom.orientation)
        one.PixelSpacing = list(phantom.spacing[:2])
        one.SliceThickness = one.SpacingBetweenSlices = phantom.spacing[2]
        if kind == CTImageStorage:
            one.RescaleSlope, one.RescaleIntercept, one.RescaleType = 1, -24, "HU"
        else:
            one.EchoTime, one.RepetitionTime, one.MagneticFieldStrength = 4.2, 700.0, 3.0
            one.ScanningSequence, one.MRAcquisitionType = "GR", "3D"
        one.PixelData = phantom.pixels(plane).tobytes()
        if change is not None:
            change(one, plane)
        found.append(one)
    return found


def make_enhanced(
    phantom: Phantom, kind: str = EnhancedMRImageStorage, order: Sequence[int] | None = None
) -> Dataset:
    """Make one enhanced object with a frame for each plane, in any order."""
    made = make_header(phantom, kind)
    made.SOPInstanceUID = generate_uid()
    made.InstanceNumber = 1
    order = range(phantom.shape[2]) if order is None else order
    made.NumberOfFrames = len(order)
    shared = Dataset()
    measures, orientation = Dataset(), Dataset()
    measures.PixelSpacing = list(phantom.spacing[:2])
    measures.SliceThickness = measures.SpacingBetweenSlices = phantom.spacing[2]
    orientation.ImageOrientationPatient = decimals(phantom.orientation)
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    made.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for number, plane in enumerate(order):
        position, content, values = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = decimals(phantom.position(plane))
        content.StackID, content.InStackPositionNumber = "1", plane + 1
        content.DimensionIndexValues = [1, plane + 1]
        content.FrameAcquisitionNumber = number + 1
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, -24, "HU"
        frame = Dataset()
        frame.PlanePositionSequence, frame.FrameContentSequence = [position], [content]
        frame.PixelValueTransformationSequence = [values]
        frames.append(frame)
    made.PerFrameFunctionalGroupsSequence = frames
    made.PixelData = b"".join(phantom.pixels(plane).tobytes() for plane in order)
    return made


def write(folder: Path, images: Sequence[Dataset], syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write files, named by number."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        write_one(folder / f"{number:04}.dcm", image, syntax)
    return folder


def write_one(path: Path, image: Dataset, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write a file."""
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = syntax
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.save_as(path, enforce_file_format=True)
    return path


def mr(phantom: Phantom, change: Change | None = None) -> list[Dataset]:
    """Make a plain MR series."""
    return make_slices(phantom, MRImageStorage, change)
