"""Simulated series for every trap: the right volume comes of one, or a sentence, never another."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import compress
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    generate_uid,
)

from polyclinic_client.dicom.errors import DicomUnreadable
from polyclinic_client.dicom.reading.finding import find_series
from polyclinic_client.dicom.reading.geometry import TO_RAS
from polyclinic_client.dicom.reading.series import Series
from polyclinic_client.dicom.reading.volumes import Volume, read_volume
from tests.client.dicom.reference import (
    Apart,
    apart,
    compare,
    needs_reference,
    reference_volumes,
)
from tests.client.dicom.simulated import (
    Phantom,
    make_enhanced,
    make_slices,
    mr,
    rotation,
    write,
)

OBLIQUE = Phantom(orientation=rotation(23.0, 0))
NEAR_MM, NEAR_VALUE = 1e-3, 1.0


def only(folder: Path) -> Series:
    (series,) = find_series(folder).series
    return series


def truth(phantom: Phantom) -> np.ndarray:
    """Return the affine in RAS+ that the phantom was made with."""
    affine = np.eye(4)
    affine[:3, 0] = np.multiply(phantom.orientation[:3], phantom.spacing[1])
    affine[:3, 1] = np.multiply(phantom.orientation[3:], phantom.spacing[0])
    affine[:3, 2] = phantom.normal * phantom.spacing[2]
    affine[:3, 3] = phantom.origin
    return TO_RAS @ affine


def check(
    folder: Path,
    phantom: Phantom,
    tmp_path: Path,
    intercept: float = 0.0,
    *,
    reference: bool = True,
) -> Volume:
    """Check a series' volume against what it was made of, and against dcm2niix."""
    series = only(folder)
    assert series.problem == ""
    volume = read_volume(series, "series")
    found = apart(volume, phantom.stored() + intercept, truth(phantom))
    assert found.mm < NEAR_MM and found.values < 0.01
    if reference:
        assert compare_all(series, volume, tmp_path).values <= NEAR_VALUE
    return volume


def compare_all(series: Series, volume: Volume, tmp_path: Path) -> Apart:
    (other,) = reference_volumes([each.path for each in series.instances], tmp_path / "reference")
    found = compare(volume, other)
    assert found.mm < NEAR_MM
    return found


@needs_reference
@pytest.mark.parametrize("turned", [0.0, 23.0, 90.0, -41.5])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_ct_and_mr_in_any_orientation(turned: float, axis: int, tmp_path: Path) -> None:
    phantom = Phantom(orientation=rotation(turned, axis))
    check(write(tmp_path / "ct", make_slices(phantom)), phantom, tmp_path, -24)
    check(write(tmp_path / "mr", mr(phantom)), phantom, tmp_path)


@needs_reference
@pytest.mark.parametrize("signed", [True, False])
def test_numbers_of_16_bits_with_and_without_sign(signed: bool, tmp_path: Path) -> None:
    phantom = Phantom(signed=signed)

    def extreme(one: Dataset, plane: int) -> None:
        low, high = (-32768, 32767) if signed else (0, 65535)
        values = phantom.pixels(plane).copy()
        values[0, 0], values[0, 1] = low, high
        one.PixelData = values.tobytes()
        one.RescaleSlope, one.RescaleIntercept = 1, 0

    series = only(write(tmp_path / "a", make_slices(phantom, change=extreme)))
    volume = read_volume(series, "a")
    assert int(volume.voxels.min()) == (-32768 if signed else 0)
    assert int(volume.voxels.max()) == (32767 if signed else 65535)
    assert volume.voxels.dtype == (np.int16 if signed else np.uint16)
    assert compare_all(series, volume, tmp_path).values <= NEAR_VALUE


def test_values_beyond_16_bits_are_not_wrapped(tmp_path: Path) -> None:
    phantom = Phantom()

    def scaled(one: Dataset, plane: int) -> None:
        one.RescaleSlope, one.RescaleIntercept = (1, 0) if plane < 3 else (100, -1)

    volume = read_volume(only(write(tmp_path / "a", make_slices(phantom, change=scaled))), "a")
    expected = phantom.stored().astype(np.int64)
    expected[..., 3:] = expected[..., 3:] * 100 - 1
    assert (volume.voxels == expected).all()


@needs_reference
def test_a_slope_for_each_slice(tmp_path: Path) -> None:
    phantom = Phantom()

    def scaled(one: Dataset, plane: int) -> None:
        one.RescaleSlope, one.RescaleIntercept = 0.5 + 0.01 * plane, 3.25

    volume = read_volume(only(write(tmp_path / "a", make_slices(phantom, change=scaled))), "a")
    expected = phantom.stored() * (0.5 + 0.01 * np.arange(6)) + 3.25
    assert np.abs(volume.voxels - expected).max() < 0.01


@needs_reference
def test_the_order_of_files_and_numbers_does_not_count(tmp_path: Path) -> None:
    phantom = OBLIQUE

    def inverted(one: Dataset, plane: int) -> None:
        one.InstanceNumber = phantom.shape[2] - plane

    images = make_slices(phantom, change=inverted)
    check(write(tmp_path / "a", images[::-1]), phantom, tmp_path, -24)
    shuffled = [images[n] for n in (3, 0, 5, 1, 4, 2)]
    check(write(tmp_path / "b", shuffled), phantom, tmp_path, -24)


def test_a_file_twice_counts_once_and_another_at_its_place_is_refused(tmp_path: Path) -> None:
    images = make_slices(Phantom())
    write(tmp_path / "a", [*images, images[2], images[2]])
    series = only(tmp_path / "a")
    assert series.stack is not None and series.copies == 2
    other = deepcopy(images[2])
    other.PixelData = images[3].PixelData
    write(tmp_path / "b", [*images, other])
    assert "different files claim to be the same" in only(tmp_path / "b").problem
    other.SOPInstanceUID = generate_uid()
    write(tmp_path / "c", [*images, other])
    assert "same place (1 of 6 places)" in only(tmp_path / "c").problem


def test_missing_slices(tmp_path: Path) -> None:
    images = make_slices(Phantom(shape=(12, 10, 9)))
    problem = only(write(tmp_path / "a", images[:4] + images[5:])).problem
    assert problem.startswith("1 slice(s) are missing")
    problem = only(write(tmp_path / "b", images[:3] + images[5:])).problem
    assert problem.startswith("2 slice(s) are missing")


def moved(images: list[Dataset], offsets: np.ndarray) -> list[Dataset]:
    for one, offset in zip(images, offsets, strict=True):
        one.ImagePositionPatient = [
            float(x) for x in np.array(one.ImagePositionPatient, float) + offset
        ]
    return images


@pytest.mark.parametrize(
    ("offsets", "said"),
    [
        (np.outer(np.arange(6), [0, 0.6, 0]), "sheared by 13.5 degrees"),
        (np.outer(np.arange(6) ** 2 * 0.1, [0, 0, 1]), "distance between its slices varies"),
        (np.outer([0, 0, 0, 1.1, 1.1, 1.1], [0, 0, 1]), "distance between its slices varies"),
        (np.outer([0, 0, 0.9, 0, 0, 0], [1, 0, 0]), "distance between its slices varies"),
    ],
)
def test_slices_that_are_no_grid(offsets: np.ndarray, said: str, tmp_path: Path) -> None:
    assert said in only(write(tmp_path / "a", moved(make_slices(Phantom()), offsets))).problem


@needs_reference
def test_positions_rounded_as_scanners_do_are_a_grid(tmp_path: Path) -> None:
    phantom = Phantom(spacing=(0.8, 0.7, 0.6249), shape=(12, 10, 40))

    def rounded(one: Dataset, plane: int) -> None:
        one.ImagePositionPatient = [round(x, 2) for x in phantom.position(plane)]

    series = only(write(tmp_path / "a", make_slices(phantom, change=rounded)))
    volume = read_volume(series, "a")
    assert np.abs(volume.grid.affine - truth(phantom)).max() < 0.01


def two_kinds(attribute: str, values: tuple[object, object], places: str) -> list[Dataset]:
    """Make 12 slices of two kinds: both at each place, or in turn at places of one grid."""
    fine = Phantom(spacing=(0.8, 0.7, 1.25), shape=(12, 10, 12))
    images = mr(fine)
    for number, one in enumerate(images):
        setattr(one, attribute, values[number % 2])
        if places == "same":
            one.ImagePositionPatient = fine.position(number // 2)
    return images


@pytest.mark.parametrize(
    ("attribute", "values", "said"),
    [
        ("EchoTime", (2.46, 4.92), "echo time"),
        ("TemporalPositionIdentifier", (1, 2), "point in time"),
        ("DiffusionBValue", (0.0, 1000.0), "b-value"),
        ("ImageType", (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]), "kind of"),
    ],
)
def test_several_volumes_in_one_series(
    attribute: str, values: tuple[object, object], said: str, tmp_path: Path
) -> None:
    for places in ("same", "interleaved"):
        images = two_kinds(attribute, values, places)
        assert said in only(write(tmp_path / places, images)).problem


def test_two_interleaved_stacks(tmp_path: Path) -> None:
    first = make_slices(Phantom(spacing=(0.8, 0.7, 4.0)))
    second = moved(make_slices(Phantom(spacing=(0.8, 0.7, 4.0))), np.full((6, 3), [0, 0, 1.0]))
    for one in second:
        one.SeriesInstanceUID = first[0].SeriesInstanceUID
        one.StudyInstanceUID = first[0].StudyInstanceUID
        one.FrameOfReferenceUID = first[0].FrameOfReferenceUID
    problem = only(write(tmp_path / "a", first + second)).problem
    assert "distance between its slices varies" in problem


def test_mixed_orientations_sizes_and_patients(tmp_path: Path) -> None:
    def turned(one: Dataset, plane: int) -> None:
        if plane > 3:
            one.ImageOrientationPatient = list(rotation(90.0))

    def coarser(one: Dataset, plane: int) -> None:
        one.PixelSpacing = [0.8, 0.7 if plane else 0.71]

    def other_patient(one: Dataset, plane: int) -> None:
        one.PatientID = f"p{plane // 4}"

    def other_place(one: Dataset, plane: int) -> None:
        one.FrameOfReferenceUID = f"1.2.{plane // 4}"

    for name, change, said in (
        ("a", turned, "different orientations (2 of 6"),
        ("b", coarser, "voxels of different sizes"),
        ("c", other_patient, "different patients"),
        ("d", other_place, "one coordinate system"),
    ):
        assert said in only(write(tmp_path / name, make_slices(Phantom(), change=change))).problem


@needs_reference
@pytest.mark.parametrize("kind", [EnhancedCTImageStorage, EnhancedMRImageStorage])
def test_enhanced_objects_in_any_order_of_frames(kind: str, tmp_path: Path) -> None:
    image = make_enhanced(OBLIQUE, kind, (3, 0, 5, 1, 4, 2))
    volume = check(write(tmp_path / "a", [image]), OBLIQUE, tmp_path, -24, reference=False)
    ordered = make_enhanced(OBLIQUE, kind)
    again = check(write(tmp_path / "b", [ordered]), OBLIQUE, tmp_path, -24)
    assert (volume.voxels == again.voxels).all()


def test_enhanced_objects_that_are_no_volume(tmp_path: Path) -> None:
    image = make_enhanced(Phantom())
    for number, frame in enumerate(image.PerFrameFunctionalGroupsSequence):
        frame.FrameContentSequence[0].TemporalPositionIndex = number % 2
        frame.PlanePositionSequence[0].ImagePositionPatient = Phantom().position(number // 2)
    assert "point in time" in only(write(tmp_path / "a", [image])).problem
    image = make_enhanced(Phantom())
    del image.PerFrameFunctionalGroupsSequence[3]
    assert "6 frames and describes 5" in only(write(tmp_path / "b", [image])).problem


@needs_reference
@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        DeflatedExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        RLELossless,
        JPEGLSLossless,
        JPEG2000Lossless,
    ],
)
@pytest.mark.parametrize("kind", [CTImageStorage, MRImageStorage])
def test_transfer_syntaxes(syntax: str, kind: str, tmp_path: Path) -> None:
    phantom = Phantom(shape=(32, 40, 5))

    def encoded(one: Dataset, plane: int) -> None:
        if syntax == ExplicitVRBigEndian:
            one.PixelData = phantom.pixels(plane).astype(">i2").tobytes()
        elif syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
            one.BitsStored, one.HighBit = 16, 15
            from pydicom.dataset import FileMetaDataset

            one.file_meta = FileMetaDataset()
            one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            compress(one, syntax, phantom.pixels(plane), generate_instance_uid=False)

    images = make_slices(phantom, kind, encoded)
    shift = -24 if kind == CTImageStorage else 0
    # dcm2niix has neither JPEG-LS nor deflation in every build
    reference = syntax not in (JPEGLSLossless, DeflatedExplicitVRLittleEndian)
    check(write(tmp_path / "a", images, syntax), phantom, tmp_path, shift, reference=reference)


def test_colour_palettes_and_inverted_values(tmp_path: Path) -> None:
    def coloured(one: Dataset, plane: int) -> None:
        one.SamplesPerPixel, one.PhotometricInterpretation = 3, "RGB"

    def palette(one: Dataset, plane: int) -> None:
        one.PhotometricInterpretation = "PALETTE COLOR"

    def inverted(one: Dataset, plane: int) -> None:
        one.PhotometricInterpretation = "MONOCHROME1"

    for name, change, said in (
        ("a", coloured, "in colour"),
        ("b", palette, "palette"),
        ("c", inverted, "inverted"),
    ):
        assert said in only(write(tmp_path / name, make_slices(Phantom(), change=change))).problem


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("ImagePositionPatient", None),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0]),
        ("ImageOrientationPatient", [2, 0, 0, 0, 1, 0]),
        ("PixelSpacing", [0, 0.7]),
        ("PixelSpacing", None),
        ("RescaleSlope", 0),
    ],
)
def test_impossible_values(keyword: str, value: object, tmp_path: Path) -> None:
    def change(one: Dataset, plane: int) -> None:
        if value is None:
            delattr(one, keyword)
        else:
            setattr(one, keyword, value)

    assert only(write(tmp_path / "a", make_slices(Phantom(), change=change))).problem


def test_truncated_pixels_are_refused_when_they_are_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", make_slices(Phantom()))
    path = folder / "0003.dcm"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DicomUnreadable, match="truncated"):
        read_volume(only(folder), "a")


def test_a_localizer_is_known_as_one(tmp_path: Path) -> None:
    def planned(one: Dataset, plane: int) -> None:
        one.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    assert only(write(tmp_path / "a", make_slices(Phantom(), change=planned))).is_localizer
