"""What comes in as DICOM: files, series.yaml, the record of an import."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import compress
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from polyclinic.errors import DatasetInvalid
from polyclinic.imaging.headers import Grid
from polyclinic_client.dicom.errors import (
    DicomUnreadable,
    LabelsRefused,
    MappingInvalid,
    SeriesRefused,
)
from polyclinic_client.dicom.importing.record import FILE, read_record
from polyclinic_client.dicom.labels.maps import read_labels
from polyclinic_client.dicom.mapping import Label, read_mapping
from polyclinic_client.dicom.reading.instances import read_instance
from polyclinic_client.dicom.reading.series import make_series
from polyclinic_client.dicom.reading.volumes import read_volume
from tests.fuzz.mutation import as_json, damaged
from tests.fuzz.reader import Reader

SIDE, PLANES = 32, 4
ALL = (Label(name="all", match=("*",)),)
ERRORS = (DicomUnreadable, SeriesRefused, LabelsRefused)
# the reader keeps voxels of what is claimed, up to its limits, and a whole file
BOUND_BYTES = 2**26
RECORD = {
    **{"format": 1, "source": "PACS", "patients": 2, "studies": 2, "series": 3},
    "splits": {"a1": "training", "b2": "test"},
    "cases": {"a1-x": {"patient": "a1", "key": "f0", "labelled": True, "resampled": 1}},
    "left_out": {"localizer": 2},
}
MAPPING = {
    **{"confirmed": True, "name": "brain", "several": "most slices", "derived": False},
    "channels": [{"name": "T1", "match": [{"modality": "MR", "description": "*t1*"}]}],
    "labels": [{"name": "tumour", "match": ["GTV*", "tumo*"]}],
}


def _image(kind: str) -> Dataset:
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = kind, generate_uid(entropy_srcs=["image"])
    made.StudyInstanceUID = made.SeriesInstanceUID = made.FrameOfReferenceUID = "1.2.3"
    made.PatientID, made.Modality, made.ImageType = "p", "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    made.Rows = made.Columns = SIDE
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit, made.PixelRepresentation = 15, 1
    return made


def _slice(syntax: str) -> bytes:
    made = _image(CTImageStorage)
    made.ImagePositionPatient, made.PixelSpacing = [1, 2, 3], [0.5, 0.5]
    made.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    made.SliceThickness, made.RescaleSlope, made.RescaleIntercept = 2, 1, -5
    pixels = np.arange(SIDE * SIDE, dtype=np.int16).reshape(SIDE, SIDE)
    made.PixelData = pixels.astype(">i2" if syntax == ExplicitVRBigEndian else "<i2").tobytes()
    if syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
        made.file_meta = FileMetaDataset()
        made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        compress(made, syntax, pixels, generate_instance_uid=False)
    return _file(made, syntax)


def _frames() -> bytes:
    made = _image(EnhancedMRImageStorage)
    made.NumberOfFrames = PLANES
    made.SharedFunctionalGroupsSequence = [_shared()]
    made.PerFrameFunctionalGroupsSequence = [_place(number) for number in range(PLANES)]
    made.PixelData = np.arange(PLANES * SIDE * SIDE, dtype=np.int16).tobytes()
    return _file(made, ExplicitVRLittleEndian)


def _segmentation() -> bytes:
    made = _image("1.2.840.10008.5.1.4.1.1.66.4")
    made.SegmentationType, made.NumberOfFrames = "BINARY", PLANES
    made.BitsAllocated = made.BitsStored = 1
    made.HighBit = made.PixelRepresentation = 0
    segment, owner = Dataset(), Dataset()
    segment.SegmentNumber, segment.SegmentLabel = 1, "liver"
    owner.ReferencedSegmentNumber = 1
    made.SegmentSequence = [segment]
    shared = _shared()
    shared.SegmentIdentificationSequence = [owner]
    made.SharedFunctionalGroupsSequence = [shared]
    made.PerFrameFunctionalGroupsSequence = [_place(number) for number in range(PLANES)]
    made.PixelData = bytes(range(SIDE * SIDE // 8)) * PLANES
    return _file(made, ExplicitVRLittleEndian)


def _contours() -> bytes:
    made = _image("1.2.840.10008.5.1.4.1.1.481.3")
    region, found, contour = Dataset(), Dataset(), Dataset()
    region.ROINumber, region.ROIName = 1, "liver"
    found.ReferencedROINumber = 1
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.ContourData = [0.4, 0.4, 0, 0.4, 2.4, 0, 2.4, 2.4, 0]
    found.ContourSequence = [contour]
    made.StructureSetROISequence, made.ROIContourSequence = [region], [found]
    return _file(made, ExplicitVRLittleEndian)


def _shared() -> Dataset:
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.5], 2
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    return shared


def _place(number: int) -> Dataset:
    frame, position = Dataset(), Dataset()
    position.ImagePositionPatient = [0, 0, 2 * number]
    frame.PlanePositionSequence = [position]
    return frame


def _file(made: Dataset, syntax: str) -> bytes:
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    content = io.BytesIO()
    dcmwrite(content, made, enforce_file_format=True)
    return content.getvalue()


def read_image(content: bytes, folder: Path) -> None:
    """Read a file as a series of its own: a volume comes of it, or a sentence."""
    path = folder / "a.dcm"
    path.write_bytes(content)
    series = make_series([read_instance(path)])
    volume = read_volume(series, "series")
    assert volume.voxels.shape == volume.grid.shape
    assert np.isfinite(volume.grid.affine).all()


def read_label_object(content: bytes, folder: Path) -> None:
    path = folder / "a.dcm"
    path.write_bytes(content)
    grid = Grid((SIDE, SIDE, PLANES), np.diag([-0.5, -0.5, 2.0, 1.0]))
    found = read_labels([(read_instance(path), "labels")], ALL, grid)
    assert found.voxels.max() <= 1


def read_series_yaml(content: bytes, folder: Path) -> None:
    path = folder / "series.yaml"
    path.write_bytes(content)
    assert all(name.isprintable() for name in read_mapping(path).label_names())


def read_dicom_json(content: bytes, folder: Path) -> None:
    (folder / FILE).write_bytes(content)
    record = read_record(folder)
    assert record is not None and all(text.isprintable() for text in record.sentences())


def _reader(name: str, sound: bytes, read: Callable[[bytes, Path], None]) -> Reader:
    def draw(random: Random) -> bytes:
        # the first half of them in the header, where a byte means more
        last = len(sound) if random.random() < 0.5 else min(900, len(sound))
        return damaged(sound, random, 0 if random.random() < 0.1 else 128, last)

    return Reader(name, sound, draw, read, ERRORS, BOUND_BYTES)


def _tree(name: str, tree: dict[str, Any], read: Any, error: type[Exception]) -> Reader:
    sound = json.dumps(tree).encode()
    return Reader(name, sound, lambda random: as_json(tree, random), read, (error,))


SYNTAXES = {
    "plain": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "big-endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg-ls": JPEGLSLossless,
    "jpeg-2000": JPEG2000Lossless,
}
READERS = (
    *(_reader(f"dicom-{name}", _slice(syntax), read_image) for name, syntax in SYNTAXES.items()),
    _reader("dicom-frames", _frames(), read_image),
    _reader("dicom-seg", _segmentation(), read_label_object),
    _reader("dicom-rtstruct", _contours(), read_label_object),
    _tree("series-yaml", MAPPING, read_series_yaml, MappingInvalid),
    _tree("dicom-json", RECORD, read_dicom_json, DatasetInvalid),
)
