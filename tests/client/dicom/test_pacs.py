"""A real PACS: studies are looked up, fetched and imported, and a result is stored."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from polyclinic.errors import ConfigError
from polyclinic.imaging.datasets import read_dataset
from polyclinic.system.processes import free_port
from polyclinic_client.cli.check_data import describe_origin
from polyclinic_client.cli.main import app
from polyclinic_client.dicom import pacs as module
from polyclinic_client.dicom.errors import NothingFound, PacsRefused, PacsUnreachable
from polyclinic_client.dicom.importing import importing
from polyclinic_client.dicom.importing.converting import convert
from polyclinic_client.dicom.pacs import Pacs, RemoteSeries, check_uid, wanted_studies
from polyclinic_client.dicom.reading.finding import find_series
from polyclinic_client.dicom.reading.volumes import read_volume
from tests.client.dicom.labelled import write_boxes
from tests.client.dicom.orthanc import MISSING, REASON, fill, pacs
from tests.client.dicom.simulated import Phantom, make_slices
from tests.client.dicom.simulated import write as write_files

needs_pacs = pytest.mark.skipif(MISSING, reason=REASON)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    for patient in "abc":
        images = make_slices(Phantom())
        for one in images:
            one.PatientID = patient
        write_files(folder / patient, images)
        (series,) = find_series(folder / patient).series
        write_boxes(folder / patient / "seg.dcm", series)
    return folder


@pytest.fixture(scope="module")
def archive(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pacs(tmp_path_factory.mktemp("orthanc")) as url:
        fill(url, export)
        yield url


@needs_pacs
def test_a_study_is_fetched_whole(archive: str, export: Path, tmp_path: Path) -> None:
    (source,) = (s for s in find_series(export / "a").series if s.first.kind == "image")
    found = {each.series: each for each in Pacs(archive).list_series(source.first.study)}
    assert {each.modality for each in found.values()} == {"CT", "SEG"}
    assert Pacs(archive).fetch(found[source.first.series], tmp_path / "ct") == 6
    (fetched,) = find_series(tmp_path / "ct").series
    assert (read_volume(fetched, "a").voxels == read_volume(source, "a").voxels).all()


@needs_pacs
def test_an_import_from_a_pacs(
    archive: str, export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "convert_all", lambda works, _: map(convert, works))
    studies = sorted({series.first.study for series in find_series(export).series})
    (tmp_path / "studies.txt").write_text("\n".join(studies[:2]))
    command = ["import", "--pacs", archive, "--out", str(tmp_path / "data"), "--yes"]
    command += ["--site-map", str(tmp_path / "site"), "--studies"]
    for which, cases in ((str(tmp_path / "studies.txt"), 2), ("ModalitiesInStudy=CT", 3)):
        done = CliRunner().invoke(app, [*command, which], catch_exceptions=False)
        assert done.exit_code == 0
        assert len(read_dataset(tmp_path / "data").cases) == cases
        assert not (tmp_path / "site" / "downloads").exists()
    assert "imported from a PACS" in describe_origin(tmp_path / "data")
    with pytest.raises(NothingFound, match="no such study"):
        CliRunner().invoke(app, [*command, "PatientID=nobody"], catch_exceptions=False)


@needs_pacs
def test_a_result_is_stored(archive: str, export: Path, tmp_path: Path) -> None:
    (source,) = (s for s in find_series(export / "b").series if s.first.kind == "image")
    write_boxes(tmp_path / "seg.dcm", source)
    before = Pacs(archive).list_series(source.first.study)
    Pacs(archive).store(tmp_path / "seg.dcm")
    (fresh,) = set(Pacs(archive).list_series(source.first.study)) - set(before)
    assert fresh.modality == "SEG"


@needs_pacs
def test_what_a_pacs_does_not_give_is_said(archive: str, tmp_path: Path) -> None:
    with pytest.raises(PacsRefused, match="does not know"):
        Pacs(archive).fetch(RemoteSeries("1.2.3", "1.2.3.4"), tmp_path / "a")
    assert not (tmp_path / "a").exists()
    with pytest.raises(PacsRefused, match=r"DICOMweb|does not know"):
        Pacs(archive.replace("dicom-web", "nothing")).find_studies({})


@needs_pacs
def test_a_password_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pacs(tmp_path / "orthanc", {"north": "secret"}) as url:
        with pytest.raises(PacsRefused, match="asks who this is"):
            Pacs(url).find_studies({})
        monkeypatch.setenv(module.USER, "north")
        monkeypatch.setenv(module.PASSWORD, "secret")
        assert Pacs(url).find_studies({}) == []


def test_addresses_and_identifiers(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="https://HOST"):
        Pacs("ftp://pacs")
    with pytest.raises(PacsUnreachable):
        Pacs(f"http://127.0.0.1:{free_port()}/dicom-web").find_studies({})
    for wrong in ("", "1.2/../3", "a" * 10, "1." * 40, "1..2"):
        with pytest.raises(ConfigError):
            check_uid(wrong)
    with pytest.raises(ConfigError, match="needs --studies"):
        wanted_studies(Pacs("http://127.0.0.1/dicom-web"), [], lambda _: None)
    with pytest.raises(ConfigError, match=r"nofile\.txt.*nor a file that exists"):
        wanted_studies(Pacs("http://127.0.0.1/dicom-web"), ["nofile.txt"], lambda _: None)
    monkeypatch.setenv(module.TOKEN, "secret")
    with pytest.raises(ConfigError, match="unprotected"):
        Pacs("http://pacs.example.org/dicom-web")
