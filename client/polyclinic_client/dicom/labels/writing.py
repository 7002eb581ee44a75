"""A label map as DICOM SEG that refers to its source: highdicom writes it, on the source's grid.

The object belongs to the source's patient and study, as the PACS needs it. It goes nowhere but into
the hospital's own files or its PACS.
"""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from polyclinic.system.durable import replacing
from polyclinic_client.dicom.errors import SeriesRefused
from polyclinic_client.dicom.labels.codes import category_of, code_of, colour_of
from polyclinic_client.dicom.reading.elements import DAMAGED, SILENCE, damage_named, items, text
from polyclinic_client.dicom.reading.geometry import TO_RAS
from polyclinic_client.dicom.reading.instances import check_inflated
from polyclinic_client.dicom.reading.series import Series

SERIES_NUMBER = 9900  # beyond those that scanners give
SEXES = ("M", "F", "O", "")
MAKER = "polyclinic"


def write_segmentation(
    path: Path, labels: NDArray[np.uint8], series: Series, names: Sequence[str], named: str
) -> None:
    """Write a label map as DICOM SEG, whole or not at all.

    Args:
        path: The file; replaced if present.
        labels: Shape of the series' grid; class 0 is the background and is not written.
        series: The source.
        names: Name of class 0, 1, ...
        named: What the series is called in a sentence.

    Raises:
        SeriesRefused: What the source says of itself does not allow to write a SEG that refers to
            it.
        DiskFull: No room.
    """
    if series.stack is None or labels.shape != series.stack.grid.shape:
        raise ValueError(f"labels of shape {labels.shape} for another series")
    sources = [_source(each.path) for each in series.instances]
    affine = (TO_RAS @ series.stack.grid.affine)[:, [2, 1, 0, 3]]
    volume = hd.Volume(
        np.ascontiguousarray(labels.transpose(2, 1, 0)),
        affine,
        coordinate_system="PATIENT",
        frame_of_reference_uid=series.first.frame_of_reference or None,
    )
    try:
        with SILENCE:
            made = _make(sources, volume, names)
    except DAMAGED as error:
        raise SeriesRefused(
            named,
            "its header does not allow to write a DICOM SEG that refers to it "
            f"({type(error).__name__})",
            "The label map was written as NIfTI.",
        ) from error
    with replacing(path) as unfinished:
        made.save_as(unfinished)


def _make(sources: list[Dataset], volume: hd.Volume, names: Sequence[str]) -> Any:
    release = version("polyclinic")
    algorithm = hd.AlgorithmIdentificationSequence(
        name=MAKER, family=codes.DCM.ArtificialIntelligence, version=release
    )
    segments = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name[:64],
            segmented_property_category=category_of(name),
            segmented_property_type=code_of(name),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            display_color=hd.color.CIELabColor.from_rgb(
                *(round(255 * part) for part in colour_of(number))
            ),
        )
        for number, name in enumerate(names)
        if number
    ]
    return hd.seg.Segmentation(
        source_images=sources,
        pixel_array=volume,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=hd.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=MAKER,
        software_versions=release,
        device_serial_number="0",
        content_label="SEGMENTATION",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description="Segmentation by polyclinic",
        omit_empty_frames=bool(volume.array.any()),
    )


def _source(path: Path) -> Dataset:
    """Read a source's header, and mend what highdicom is strict about."""
    with damage_named(path, "its header"):
        check_inflated(path)
        header = dcmread(path, stop_before_pixels=True, force=True)
        if text(header, "PatientSex") not in SEXES:
            header.PatientSex = ""
        _share(header)
        return header


def _share(header: Dataset) -> None:
    """Say for all frames what each of them says alike: highdicom looks for it there."""
    frames = items(header, "PerFrameFunctionalGroupsSequence")
    if not frames or "SharedFunctionalGroupsSequence" not in header:
        return
    shared = header.SharedFunctionalGroupsSequence[0]
    for name in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
        if name not in shared and all(name in frame for frame in frames):
            setattr(shared, name, getattr(frames[0], name))
