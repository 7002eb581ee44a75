"""One DICOM file: what it is, whose, and where its frames lie. No voxel is read here.

`read_instance` is the one door through which a DICOM file comes in. It reads the elements that it
knows and passes over all others.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydicom import dcmread, uid
from pydicom.dataset import Dataset, FileDataset
from pydicom.filereader import read_file_meta_info
from pydicom.tag import Tag

from polyclinic_client.dicom.reading.elements import (
    Malformed,
    damage_named,
    items,
    text,
    whole,
    words,
)
from polyclinic_client.dicom.reading.frames import DIFFERENCES, Frame, read_frames
from polyclinic_client.dicom.reading.mosaic import CSA, is_mosaic, tile_frames

Kind = Literal["image", "segmentation", "contours", "other"]
VOLUMES = frozenset(
    {
        uid.CTImageStorage,
        uid.EnhancedCTImageStorage,
        uid.LegacyConvertedEnhancedCTImageStorage,
        uid.MRImageStorage,
        uid.EnhancedMRImageStorage,
        uid.LegacyConvertedEnhancedMRImageStorage,
        uid.PositronEmissionTomographyImageStorage,
        uid.EnhancedPETImageStorage,
        uid.LegacyConvertedEnhancedPETImageStorage,
    }
)
SEGMENTATIONS = frozenset({uid.SegmentationStorage, "1.2.840.10008.5.1.4.1.1.66.7"})
PLAIN = (
    None,
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)
KEYWORDS = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"),
    *("FrameOfReferenceUID", "PatientID", "IssuerOfPatientID", "Modality", "ImageType"),
    *("SeriesDescription", "ProtocolName", "SequenceName"),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("SliceThickness", "SpacingBetweenSlices", "RescaleSlope", "RescaleIntercept"),
    *("ModalityLUTSequence",),
    *("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"),
    *("SegmentSequence", "StructureSetROISequence", "ReferencedSeriesSequence"),
    *("ReferencedFrameOfReferenceSequence", "SegmentationType"),
    *(keyword for _, group, keyword in DIFFERENCES if not group),
)
TAGS = [*map(Tag, dict.fromkeys(KEYWORDS)), Tag(CSA)]
LARGEST_SIDE = 65_535
MOST_INFLATED = 2**28  # bytes of a deflated data set, as it is in memory
PREAMBLE = 132
META_BYTES = 2**16  # in which the transfer syntax stands
DEFLATED = uid.DeflatedExplicitVRLittleEndian.encode()
BEGINNINGS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")  # groups with which a data set begins


@dataclass(frozen=True)
class Instance:
    """What a file says of itself.

    Attributes:
        path: The file.
        kind: An image of a kind that can be part of a volume, labels, or something else.
        problem: Why an image cannot be part of a volume; empty if it can.
        uid: Identifier of the object.
        series: Identifier of its series.
        study: Identifier of its study.
        patient: Identifier of its patient, with whoever issued it; may be empty.
        frame_of_reference: Objects of one such identifier share coordinates; may be empty.
        modality: As CT or MR.
        texts: Description, protocol and sequence, which may hold anything that a person typed.
        image_type: Values of ImageType.
        rows: Of a frame.
        columns: Of a frame.
        frames: Where they lie.
        tiles: Number of frames that are tiles of one picture; 0 if they are none.
        size: Bytes of the file.
        compressed: Whether a library in C decodes its pixels.
        references: Series to which labels refer.
        names: What labels call their structures, with their numbers.
    """

    path: Path
    kind: Kind
    problem: str
    uid: str
    series: str
    study: str
    patient: str
    frame_of_reference: str
    modality: str
    texts: tuple[str, str, str]
    image_type: tuple[str, ...]
    rows: int = 0
    columns: int = 0
    frames: tuple[Frame, ...] = ()
    tiles: int = 0
    size: int = 0
    compressed: bool = False
    references: frozenset[str] = frozenset()
    names: tuple[tuple[int, str], ...] = ()


def looks_like_dicom(path: Path) -> bool:
    """Tell by its first bytes whether a file may be DICOM.

    Raises:
        OSError: It cannot be opened.
    """
    with path.open("rb") as file:
        head = file.read(PREAMBLE)
    return head[128:132] == b"DICM" or (len(head) > 8 and head[:2] in BEGINNINGS)


def read_instance(path: Path) -> Instance:
    """Read what a file says of itself.

    Raises:
        DicomUnreadable: It is no DICOM object, is damaged, or lacks what every object has.
    """
    with damage_named(path, "its header"):
        if not looks_like_dicom(path):
            raise Malformed("it does not begin as DICOM does")
        return _describe(path, read_header(path))


def read_header(path: Path) -> FileDataset:
    """Read the known elements of a file; the caller names its damage.

    Raises:
        Malformed: It is deflated, and would be too large.
        Exception: One of `DAMAGED`.
    """
    check_inflated(path)
    return dcmread(path, stop_before_pixels=True, force=True, specific_tags=TAGS)


def _describe(path: Path, header: FileDataset) -> Instance:
    found = str(header.get("SOPClassUID") or "")
    own, series = text(header, "SOPInstanceUID"), text(header, "SeriesInstanceUID")
    if not found or not own or not series:
        raise Malformed("it does not say what it is")
    kind: Kind = "other"
    if found in VOLUMES:
        kind = "image"
    elif found in SEGMENTATIONS:
        kind = "segmentation"
    elif found == uid.RTStructureSetStorage:
        kind = "contours"
    image = Instance(
        path,
        kind,
        "",
        own,
        series,
        text(header, "StudyInstanceUID"),
        "\\".join(filter(None, (text(header, "PatientID"), text(header, "IssuerOfPatientID")))),
        text(header, "FrameOfReferenceUID"),
        text(header, "Modality").upper(),
        (
            text(header, "SeriesDescription"),
            text(header, "ProtocolName"),
            text(header, "SequenceName"),
        ),
        words(header, "ImageType"),
        size=path.stat().st_size,
        compressed=header.file_meta.get("TransferSyntaxUID") not in PLAIN,
    )
    if kind == "image":
        return _with_frames(image, header)
    problem = "" if kind != "other" else "no CT, MR or PET image"
    return replace(
        image,
        problem=problem,
        references=frozenset(_references(header)),
        names=tuple(_names(header)),
    )


def _with_frames(image: Instance, header: Dataset) -> Instance:
    """Add where the frames lie, or why the image cannot be part of a volume."""
    rows = whole(header, "Rows", 1, LARGEST_SIDE)
    columns = whole(header, "Columns", 1, LARGEST_SIDE)
    try:
        _check_pixels(header)
        frames, tiles = read_frames(header), 0
        if is_mosaic(image.image_type) and len(frames) == 1:
            frames = tile_frames(header, frames[0], rows, columns)
            tiles = len(frames)
            side = next(n for n in range(1, tiles + 1) if n * n >= tiles)
            rows, columns = rows // side, columns // side
        return replace(image, rows=rows, columns=columns, frames=frames, tiles=tiles)
    except Malformed as error:
        return replace(image, rows=rows, columns=columns, problem=str(error))


def _check_pixels(header: Dataset) -> None:
    if whole(header, "SamplesPerPixel", 1, 4, default=1) != 1:
        raise Malformed("it is in colour")
    colours = text(header, "PhotometricInterpretation") or "MONOCHROME2"
    if colours != "MONOCHROME2":
        named = "colours of a palette" if colours.startswith("PALETTE") else "inverted grey values"
        raise Malformed(f"its numbers are {named}")
    if items(header, "ModalityLUTSequence"):
        raise Malformed("its numbers are scaled by a table (Modality LUT)")
    if whole(header, "BitsAllocated", 1, 64) not in (8, 16, 32):
        raise Malformed("its numbers have neither 8 nor 16 nor 32 bits")


def _references(header: Dataset) -> Iterator[str]:
    for series in items(header, "ReferencedSeriesSequence"):
        yield text(series, "SeriesInstanceUID")
    for frame in items(header, "ReferencedFrameOfReferenceSequence"):
        for study in items(frame, "RTReferencedStudySequence"):
            for series in items(study, "RTReferencedSeriesSequence"):
                yield text(series, "SeriesInstanceUID")


def _names(header: Dataset) -> Iterator[tuple[int, str]]:
    for segment in items(header, "SegmentSequence"):
        yield whole(segment, "SegmentNumber", 1, LARGEST_SIDE), text(segment, "SegmentLabel")
    for region in items(header, "StructureSetROISequence"):
        yield whole(region, "ROINumber", 0, 10**9), text(region, "ROIName")


def check_inflated(path: Path) -> None:
    """Refuse a deflated data set that would be too large in memory.

    Raises:
        Malformed: It inflates to more than the limit.
    """
    with path.open("rb") as file:
        if DEFLATED not in file.read(META_BYTES):  # for nearly all files no more is read
            return
    meta = read_file_meta_info(path)
    with path.open("rb") as file:
        file.seek(PREAMBLE + 12 + int(meta.get("FileMetaInformationGroupLength", 0)))
        inflating, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
        data = file.read(2**20)
        while data and not inflating.eof:
            total += len(inflating.decompress(data, 2**20))
            if total > MOST_INFLATED:
                raise Malformed(f"it inflates to more than {MOST_INFLATED >> 20} MiB")
            data = inflating.unconsumed_tail or file.read(2**20)
