"""Real series: each has the geometry and the values of dcm2niix, or is refused in a sentence.

The files are pydicom's own, and those in POLYCLINIC_DATA/dicom.
"""

import os
from pathlib import Path

import pydicom
import pytest

from polyclinic_client.dicom.errors import DicomUnreadable, NothingFound, SeriesRefused
from polyclinic_client.dicom.reading.finding import find_series
from polyclinic_client.dicom.reading.instances import Instance, read_instance
from polyclinic_client.dicom.reading.series import make_series
from polyclinic_client.dicom.reading.volumes import read_volume
from tests.client.dicom.reference import compare, needs_reference, reference_volumes

PYDICOM = Path(pydicom.__file__).parent / "data" / "test_files"
DATA = Path(os.environ.get("POLYCLINIC_DATA", "")) / "dicom"
needs_data = pytest.mark.skipif(
    "POLYCLINIC_DATA" not in os.environ, reason="POLYCLINIC_DATA is not set"
)
# dcm2niix makes nothing of these, or only with a decoder that some of its builds lack
UNKNOWN_THERE = {"explicit_VR-UN.dcm"}


def agree(files: list[Path], tmp_path: Path) -> bool:
    """Read one volume of files; tell whether there is one, and fail if it is not dcm2niix's."""
    instances: list[Instance] = []
    for file in files:
        try:
            instances.append(read_instance(file))
        except DicomUnreadable as error:
            assert str(error)
            return False
    series = make_series(instances)
    try:
        volume = read_volume(series, "series")
    except (SeriesRefused, DicomUnreadable) as error:
        assert len(error.problem) > 5
        return False
    (reference,) = reference_volumes(files, tmp_path)
    found = compare(volume, reference)
    assert found.mm < 1e-3 and found.values <= 1.0
    return True


@needs_reference
def test_each_of_pydicoms_files_alone(tmp_path: Path) -> None:
    files = [each for each in sorted(PYDICOM.rglob("*")) if each.is_file()]
    read = [each.name for each in files if agree([each], tmp_path)]
    assert len(files) > 80 and len(read) >= 39


@needs_reference
def test_pydicoms_series_as_they_lie(tmp_path: Path) -> None:
    found = find_series(PYDICOM)
    read = 0
    for series in found.series:
        read += series.stack is not None and agree([e.path for e in series.instances], tmp_path)
    assert read >= 8
    assert [kind for _, kind in found.archives] == ["a gzip"]


@needs_data
@needs_reference
@pytest.mark.parametrize(
    ("folder", "count", "shape"),
    [
        ("ct_philips_head_phantom_5mm", 14, (512, 512, 14)),
        ("mr_ge_mr750_epi_24_slices", 8, (64, 64, 8)),  # the first point in time
        ("mr_siemens_prisma_mosaic", 1, (64, 64, 36)),
        ("mr_siemens_vida_xa10_enhanced", 1, (64, 64, 6)),
    ],
)
def test_real_volumes(folder: str, count: int, shape: tuple[int, int, int], tmp_path: Path) -> None:
    files = sorted((DATA / folder).iterdir())[:count]
    assert agree(files, tmp_path)
    series = make_series([read_instance(file) for file in files])
    assert series.stack is not None and series.stack.grid.shape == shape


@needs_data
@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("mr_ge_mr750_epi_24_slices", "3 images at each of 8 places"),
        ("mr_siemens_prisma_mosaic", "2 images at each of 36 places"),
        ("mr_siemens_vida_xa10_enhanced", "18 images at each of 6 places, which differ in point"),
    ],
)
def test_real_time_series_are_refused(folder: str, said: str) -> None:
    (series,) = find_series(DATA / folder).series
    assert said in series.problem


@needs_data
@needs_reference
def test_each_awkward_file_alone(tmp_path: Path) -> None:
    files = sorted((DATA / "pydicom_data").iterdir())
    assert sum(agree([each], tmp_path) for each in files) >= 6


def test_an_empty_folder_an_archive_and_other_files(tmp_path: Path) -> None:
    with pytest.raises(NothingFound, match="empty"):
        find_series(tmp_path)
    (tmp_path / "a.txt").write_text("no images here, only words that go on and on")
    with pytest.raises(NothingFound, match="none of the 1 files"):
        find_series(tmp_path)
    (tmp_path / "a.txt").unlink()
    (tmp_path / "series.zip").write_bytes(b"PK\x03\x04" + bytes(600))
    with pytest.raises(NothingFound, match="Unpack"):
        find_series(tmp_path)
    with pytest.raises(NothingFound, match="it is a zip archive"):
        find_series(tmp_path / "series.zip")
