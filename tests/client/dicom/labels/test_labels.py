"""Labels from DICOM SEG and RTSTRUCT lie where they were drawn, or are refused."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.uid import CTImageStorage

from polyclinic_client.dicom.errors import DicomUnreadable, LabelsRefused
from polyclinic_client.dicom.labels.codes import code_of, known_name
from polyclinic_client.dicom.labels.contours import fill
from polyclinic_client.dicom.labels.maps import LabelMap, read_labels
from polyclinic_client.dicom.mapping import Label
from polyclinic_client.dicom.reading.finding import find_series
from polyclinic_client.dicom.reading.geometry import TO_RAS
from polyclinic_client.dicom.reading.instances import read_instance
from polyclinic_client.dicom.reading.series import Series, make_series
from tests.client.dicom.labelled import NAMES, boxes, in_circles, write_boxes, write_circles
from tests.client.dicom.simulated import (
    Phantom,
    make_enhanced,
    make_slices,
    rotation,
    write,
    write_one,
)

OBLIQUE = Phantom(orientation=rotation(23.0))
LIVER = (Label(name="liver", match=("liver",)), Label(name="odd", match=("odd*",)))
DATA = Path(os.environ.get("POLYCLINIC_DATA", "")) / "dicom"


def only(folder: Path) -> Series:
    (series,) = find_series(folder).series
    return series


@pytest.fixture
def series(tmp_path: Path) -> Series:
    return only(write(tmp_path / "ct", make_slices(OBLIQUE)))


def read(path: Path, series: Series, labels: tuple[Label, ...] = LIVER) -> LabelMap:
    assert series.stack is not None
    return read_labels([(read_instance(path), "labels")], labels, series.stack.grid)


def source(kind: str, tmp_path: Path) -> Series:
    if kind == "enhanced":
        return only(write(tmp_path / "a", [make_enhanced(OBLIQUE, order=(3, 0, 5, 1, 4, 2))]))
    return only(write(tmp_path / "a", make_slices(OBLIQUE)[::-1]))


@pytest.mark.parametrize("kind", ["slices", "enhanced"])
def test_a_segmentation_read_back_is_what_was_written(kind: str, tmp_path: Path) -> None:
    series = source(kind, tmp_path)
    labels = write_boxes(tmp_path / "seg.dcm", series)
    instance = read_instance(tmp_path / "seg.dcm")
    assert instance.names == ((1, NAMES[1]), (2, NAMES[2]))
    assert instance.references == {series.first.series}
    found = read(tmp_path / "seg.dcm", series)
    assert (found.voxels == labels).all() and found.overlapping == 0


@pytest.mark.parametrize("kind", ["slices", "enhanced"])
def test_highdicoms_reader_finds_it_on_its_source(kind: str, tmp_path: Path) -> None:
    series = source(kind, tmp_path)
    labels = write_boxes(tmp_path / "seg.dcm", series)
    made = hd.seg.segread(tmp_path / "seg.dcm")
    volume = made.get_volume(combine_segments=True)
    assert series.stack is not None
    affine = (TO_RAS @ series.stack.grid.affine)[:, [2, 1, 0, 3]]
    step = np.linalg.inv(affine) @ volume.affine
    near = np.rint(step)
    corners = np.array([[*np.multiply(n, volume.array.shape), 1] for n in np.ndindex(2, 2, 2)]).T
    assert np.abs(affine @ (step - near) @ corners)[:3].max() < 1e-3  # mm
    z, y, x = (near[:3, :3] @ np.argwhere(volume.array).T + near[:3, 3:]).astype(int)
    assert (labels[x, y, z] == volume.array[volume.array > 0]).all()
    assert (volume.array > 0).sum() == (labels > 0).sum()
    first = made.get_segment_description(1)
    assert first.segmented_property_type == code_of("liver")
    assert first.segmented_property_type.scheme_designator == "SCT"
    assert made.PatientID == "CANARY" and made.StudyInstanceUID == series.first.study


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools is not installed")
@pytest.mark.parametrize("kind", ["slices", "enhanced"])
def test_a_validator_finds_no_error_of_ours(kind: str, tmp_path: Path) -> None:
    write_boxes(tmp_path / "seg.dcm", source(kind, tmp_path))
    done = subprocess.run(
        ["dciodvfy", str(tmp_path / "seg.dcm")], capture_output=True, text=True, check=False
    )
    wrong = [line for line in done.stderr.splitlines() if line.startswith("Error")]
    assert not wrong


@pytest.mark.skipif(shutil.which("dcm2json") is None, reason="dcmtk is not installed")
def test_dcmtk_reads_it(series: Series, tmp_path: Path) -> None:
    write_boxes(tmp_path / "seg.dcm", series)
    command = ["dcm2json", str(tmp_path / "seg.dcm"), str(tmp_path / "seg.json")]
    assert subprocess.run(command, check=False).returncode == 0
    tree = json.loads((tmp_path / "seg.json").read_text())
    assert [each["00620005"]["Value"] for each in tree["00620002"]["Value"]] == [
        [NAMES[1]],
        [NAMES[2]],
    ]


def test_an_empty_label_map_is_written_and_read(series: Series, tmp_path: Path) -> None:
    from polyclinic_client.dicom.labels.writing import write_segmentation

    assert series.stack is not None
    empty = np.zeros(series.stack.grid.shape, np.uint8)
    write_segmentation(tmp_path / "seg.dcm", empty, series, NAMES, "series")
    assert not read(tmp_path / "seg.dcm", series).voxels.any()


def test_a_segmentation_of_another_grid_is_refused(series: Series, tmp_path: Path) -> None:
    write_boxes(tmp_path / "seg.dcm", series)
    shifted = Phantom(orientation=OBLIQUE.orientation, origin=(-31.2, 12.25, -100.0))
    other = only(write(tmp_path / "other", make_slices(shifted)))
    with pytest.raises(LabelsRefused, match="not those of the image"):
        read(tmp_path / "seg.dcm", other)
    shorter = only(write(tmp_path / "short", make_slices(OBLIQUE)[3:]))
    with pytest.raises(LabelsRefused, match="beyond the image"):
        read(tmp_path / "seg.dcm", shorter)


def test_overlapping_labels_are_counted_and_the_later_one_counts(
    series: Series, tmp_path: Path
) -> None:
    write_boxes(tmp_path / "seg.dcm", series)
    write_circles(tmp_path / "rt.dcm", series, (1.5,), name="odd region")
    assert series.stack is not None
    objects = [(read_instance(tmp_path / name), name) for name in ("rt.dcm", "seg.dcm")]
    found = read_labels(objects, LIVER, series.stack.grid)
    circle, box = in_circles(series.stack.grid, (1.5,)), boxes(series.stack.grid.shape)
    assert found.overlapping == (circle & (box == 1)).sum() > 0
    assert (found.voxels[circle] == 2).all()


@pytest.mark.parametrize("radii", [(2.0,), (3.1,), (3.1, 1.2)])
def test_circles_are_filled_and_inner_ones_are_holes(
    radii: tuple[float, ...], series: Series, tmp_path: Path
) -> None:
    write_circles(tmp_path / "rt.dcm", series, radii)
    assert series.stack is not None
    found = read(tmp_path / "rt.dcm", series).voxels
    assert (found == in_circles(series.stack.grid, radii)).all()


def test_a_contour_between_slices_is_refused(series: Series, tmp_path: Path) -> None:
    write_circles(tmp_path / "rt.dcm", series, (2.0,), lift=0.4)
    with pytest.raises(LabelsRefused, match="between the slices"):
        read(tmp_path / "rt.dcm", series)


def test_polygons_by_hand() -> None:
    square = np.array([[1.0, 1.0], [1.0, 4.0], [4.0, 4.0], [4.0, 1.0]])
    assert fill([square], (6, 6)).sum() == 9  # an edge belongs to one of two neighbours
    moved = square + 0.5
    assert fill([moved], (6, 6))[2:5, 2:5].all() and fill([moved], (6, 6)).sum() == 9
    assert fill([moved], (6, 6)).sum() + fill([moved + np.array([3, 0])], (9, 6)).sum() == 18
    assert not fill([square, square], (6, 6)).any()
    assert fill([square * 100 - 150], (6, 6)).all()  # far beyond the image


def test_codes_and_names() -> None:
    assert code_of("left kidney").meaning.lower() == "left kidney"
    assert code_of("tumour").meaning == "Neoplasm"
    assert code_of("class seven").scheme_designator == "99POLYCLINIC"
    assert known_name("Liver") == "liver" and known_name("CANARY^JOHN") == ""


@pytest.mark.skipif("POLYCLINIC_DATA" not in os.environ, reason="POLYCLINIC_DATA is not set")
@pytest.mark.parametrize("name", ["liver", "liver_expb", "liver_j2k"])
def test_real_segmentations_of_every_transfer_syntax(name: str, tmp_path: Path) -> None:
    path = DATA / "pydicom_data" / f"{name}.dcm"
    made = pydicom.dcmread(path)
    shared = made.SharedFunctionalGroupsSequence[0]
    frames = made.PerFrameFunctionalGroupsSequence
    positions = [each.PlanePositionSequence[0].ImagePositionPatient for each in frames]
    orientation = [float(x) for x in shared.PlaneOrientationSequence[0].ImageOrientationPatient]
    normal = np.cross(orientation[:3], orientation[3:])
    lowest = min(positions, key=lambda each: float(np.array(each, float) @ normal))
    measures = shared.PixelMeasuresSequence[0]
    heights = sorted(float(np.array(each, float) @ normal) for each in positions)
    phantom = Phantom(
        (made.Rows, made.Columns, 3),
        (*map(float, measures.PixelSpacing), heights[1] - heights[0]),
        tuple(orientation),
        tuple(map(float, lowest)),
    )
    images = make_slices(phantom, CTImageStorage)
    series = make_series(
        [
            read_instance(write_one(tmp_path / f"{number}.dcm", image))
            for number, image in enumerate(images)
        ]
    )
    found = read(path, series, (Label(name="liver", match=("*",)),)).voxels
    wanted = pydicom.dcmread(DATA / "pydicom_data" / "liver.dcm").pixel_array
    assert found.sum() == wanted.sum() > 0


@pytest.mark.skipif("POLYCLINIC_DATA" not in os.environ, reason="POLYCLINIC_DATA is not set")
@pytest.mark.parametrize("name", ["liver_rle", "liver_deflate"])
def test_what_pydicom_does_not_decode_is_refused(name: str, series: Series, tmp_path: Path) -> None:
    anything = (Label(name="liver", match=("*",)),)
    with pytest.raises(DicomUnreadable, match="its pixels cannot be read"):
        read(DATA / "pydicom_data" / f"{name}.dcm", series, anything)
