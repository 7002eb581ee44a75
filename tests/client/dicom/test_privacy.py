"""No text of a file, no date and no identifier leaves: a canary stands in every one of them.

It goes through import, check, training, a contribution, a description, the report and the logs, and
is looked for in every byte that these wrote, outside of the site's own folder.
"""

import gzip
import io
import json
import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from typer.testing import CliRunner

from polyclinic.imaging.dataset_checks import check_dataset
from polyclinic.imaging.datasets import read_dataset
from polyclinic.simulation.run import simulate
from polyclinic_client.cli.check_data import describe_dataset, describe_origin
from polyclinic_client.cli.main import app
from polyclinic_client.dicom.errors import DicomUnreadable, SeriesRefused
from polyclinic_client.dicom.importing import importing
from polyclinic_client.dicom.importing.converting import convert
from polyclinic_client.dicom.reading.finding import find_series
from polyclinic_client.dicom.reading.instances import read_instance
from tests.client.dicom.labelled import write_boxes
from tests.client.dicom.simulated import CANARY, Phantom, make_slices, write
from tests.core.simulation.small_hospitals import SMALL

DATES = ("19310203", "19990405", "101112")
PHANTOM = Phantom(shape=(16, 16, 12))


@pytest.fixture(scope="module")
def uids() -> list[str]:
    return []


@pytest.fixture(scope="module")
def hospitals(
    tmp_path_factory: pytest.TempPathFactory, uids: list[str]
) -> Iterator[dict[str, Path]]:
    """Import the series of three hospitals; what was printed lies beside their data."""
    folder = tmp_path_factory.mktemp("hospitals")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importing, "convert_all", lambda works, _: map(convert, works))
        for number, name in enumerate(("north", "south", "west")):
            _export(folder / "export" / name, number, uids)
            command = ["import", "--dicom", str(folder / "export" / name), "--yes"]
            command += ["--out", str(folder / "data" / name)]
            command += ["--site-map", str(folder / "site" / name)]
            done = CliRunner().invoke(app, command, catch_exceptions=False)
            assert done.exit_code == 0
            (folder / "data" / name / "printed.txt").write_text(done.output)
        yield {path.name: path for path in sorted((folder / "data").iterdir())}


def _export(folder: Path, seed: int, uids: list[str]) -> None:
    """Write series whose every text, name and date is a canary, two of them faulty."""
    random = np.random.default_rng(seed)
    for patient in range(6):

        def drawn(one: Dataset, plane: int, patient: int = patient) -> None:
            one.PatientID = f"{CANARY}{patient}"
            noise = random.integers(-80, 80, (16, 16))
            one.PixelData = (PHANTOM.pixels(plane) + noise).astype(np.int16).tobytes()

        images = make_slices(PHANTOM, change=drawn)
        place = folder / f"patient{patient}"
        if patient == 4:
            images = images[:3] + images[5:]  # slices are missing
        write(place, images)
        (series,) = find_series(place).series
        uids += [series.first.study, series.first.series, *(x.uid for x in series.instances)]
        uids += [series.first.frame_of_reference]
        if patient < 4:
            write_boxes(place / "seg.dcm", series)
    damaged = (folder / "patient5" / "0001.dcm").read_bytes()
    (folder / "patient5" / "0001.dcm").write_bytes(damaged[:300])


def all_bytes(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Yield every file's name and content; compressed ones are opened as well."""
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        content = path.read_bytes()
        yield path, str(path.relative_to(folder)).encode() + b"\0" + content
        if content[:2] == b"\x1f\x8b":
            yield path, gzip.decompress(content)
        elif zipfile.is_zipfile(io.BytesIO(content)):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    yield path, archive.read(name)


def assert_clean(folder: Path, uids: list[str]) -> int:
    """Look for canaries, dates and identifiers; return how many files were looked at."""
    wanted = [each.encode() for each in (CANARY, CANARY.lower(), *DATES[:2], *uids)]
    looked = 0
    for path, content in all_bytes(folder):
        found = [each for each in wanted if each in content]
        assert not found, f"{path} holds {found[:3]}"
        looked += 1
    return looked


def test_a_data_folder_holds_nothing_of_the_files(
    hospitals: dict[str, Path], uids: list[str]
) -> None:
    for folder in hospitals.values():
        assert assert_clean(folder, uids) >= 11
        assert len(read_dataset(folder).cases) == 4
        site = folder.parent.parent / "site" / folder.name
        texts = (
            (site / "patients.json").read_text(),
            (site / folder.name / "left-out.csv").read_text(),
        )
        assert all(CANARY in text or uids[0][:10] in text for text in texts)  # the test can fail


def test_check_tells_nothing_of_the_files(hospitals: dict[str, Path], uids: list[str]) -> None:
    for folder in hospitals.values():
        dataset = read_dataset(folder)
        said = [describe_dataset(dataset), describe_origin(folder), *check_dataset(dataset)]
        assert "2 slice(s) are missing" in said[1]
        assert not any(each in " ".join(said) for each in (CANARY, *DATES, *uids))


def test_errors_and_logs_quote_nothing(
    hospitals: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    said = []
    for keyword in ("Rows", "ImagePositionPatient", "PixelSpacing", "RescaleSlope", "ImageType"):

        def spoiled(one: Dataset, plane: int, keyword: str = keyword) -> None:
            one.add_new(keyword, "LO", CANARY)

        folder = write(tmp_path / keyword, make_slices(Phantom(), change=spoiled))
        try:
            said.append(find_series(folder).series[0].problem)
            read_instance(folder / "0000.dcm")
        except (DicomUnreadable, SeriesRefused, IndexError) as error:
            said.append(str(error).replace(str(folder), ""))
    assert CANARY not in " ".join(said) and CANARY not in caplog.text
    assert hospitals


@pytest.mark.parametrize(
    ("strategy", "settings"),
    [
        ("averaging/fedavg", ()),
        ("merging/mean", ()),
        ("refinement", ("strategy.base_rounds=1", "strategy.sharpness=[0.2]")),
    ],
)
def test_a_federation_tells_nothing_of_the_files(
    strategy: str,
    settings: tuple[str, ...],
    hospitals: dict[str, Path],
    uids: list[str],
    tmp_path: Path,
) -> None:
    given = [each for each in SMALL if not each.startswith("data.labels")]
    labels = "data.labels=[background,liver,structure-2]"
    with simulate(
        hospitals, *given, labels, *settings, strategy=strategy, rounds=2, folder=tmp_path / "run"
    ) as result:
        result.report(tmp_path / "report.html")
        (tmp_path / "table.txt").write_text(str(result.table()))
    assert assert_clean(tmp_path, uids) > 8
    (events,) = tmp_path.rglob("events.jsonl")
    assert json.loads(events.read_text().splitlines()[0])
