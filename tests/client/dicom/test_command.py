"""`import`, `check` and `predict` on series, as a person calls them."""

import json
from copy import deepcopy
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage, generate_uid
from typer.testing import CliRunner

from polyclinic.errors import ConfigError
from polyclinic.imaging.datasets import read_dataset
from polyclinic_client.cli.check_data import describe_origin
from polyclinic_client.cli.main import app
from polyclinic_client.dicom.errors import MappingInvalid, NothingFound, SiteMapInvalid
from polyclinic_client.dicom.importing.converting import Conversion, Outcome, convert, convert_all
from polyclinic_client.dicom.importing.record import read_record
from polyclinic_client.dicom.importing.site_map import SiteMap, default_site_map
from polyclinic_client.dicom.importing.splits import split_patients
from polyclinic_client.dicom.mapping import read_mapping
from polyclinic_client.dicom.reading.finding import find_series
from tests.client.dicom.labelled import boxes, write_boxes
from tests.client.dicom.simulated import CANARY, Phantom, make_slices, write

PHANTOM = Phantom()


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convert without further processes, which take seconds to start."""
    from polyclinic_client.dicom.importing import importing

    monkeypatch.setattr(
        importing, "convert_all", lambda works, at_once: [convert(work) for work in works]
    )


def make_study(folder: Path, patient: str, *, labelled: bool = True, words: str = "Head") -> None:
    """Write a CT series of a patient, a localizer, and a SEG."""

    def of_patient(one: Dataset, plane: int) -> None:
        one.PatientID, one.SeriesDescription = f"{CANARY}{patient}", f"{CANARY} {words}"

    images = make_slices(PHANTOM, change=of_patient)
    write(folder / patient / "ct", images)
    plan = deepcopy(images[0])
    plan.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    plan.SeriesInstanceUID, plan.SOPInstanceUID = generate_uid(), generate_uid()
    write(folder / patient / "plan", [plan])
    if labelled:
        (series,) = find_series(folder / patient / "ct").series
        write_boxes(folder / patient / "seg.dcm", series)


@pytest.fixture
def export(tmp_path: Path) -> Path:
    for patient in ("a", "b", "c", "d"):
        make_study(tmp_path / "export", patient, labelled=patient != "d")
    (tmp_path / "export" / "readme.txt").write_text("from the PACS, and much more of such text")
    return tmp_path / "export"


def call(export: Path, out: Path, *options: str, site: str = "site") -> str:
    """Import, and return what was printed."""
    command = ["import", "--dicom", str(export), "--out", str(out)]
    command += ["--site-map", str(out.parent / site), *options]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_a_folder_becomes_a_data_folder_split_by_patient(export: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    said = call(export, out, "--yes")
    dataset = read_dataset(out)
    assert dataset.labels == ("background", "liver", "structure-2")
    assert dataset.modality == ("CT",)
    assert len(dataset.cases) == 4 and len({case.subject for case in dataset.cases}) == 4
    assert [case.label is None for case in dataset.test].count(True) == 1
    labels = [case.label for case in dataset.cases if case.label is not None]
    for label in labels:
        assert (np.asanyarray(nib.load(label).dataobj) == boxes((10, 12, 6))).all()
    assert "localizer" in said and CANARY not in said
    assert "4 x localizer" in describe_origin(out)
    assert "imported from a folder of DICOM files: 4 cases (3 with labels)" in describe_origin(out)


def test_an_import_goes_on_where_it_was_and_keeps_splits(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from polyclinic_client.dicom.importing import importing

    out, done = tmp_path / "data", []

    def two_then_stop(works: list[Conversion], at_once: int) -> object:
        for work in works:
            if len(done) == 2:
                raise KeyboardInterrupt
            done.append(work.case.name)
            yield convert(work)

    whole = importing.convert_all
    monkeypatch.setattr(importing, "convert_all", two_then_stop)
    runner = CliRunner()
    command = ["import", "--dicom", str(export), "--out", str(out), "--yes"]
    runner.invoke(app, [*command, "--site-map", str(tmp_path / "site")])
    record = read_record(out)
    assert record is not None and len(record.cases) == 2
    monkeypatch.setattr(importing, "convert_all", whole)
    assert "4 cases, 2 of them made now" in call(export, out)
    before = read_record(out)
    make_study(export, "e")
    assert "5 cases, 1 of them made now" in call(export, out)
    after = read_record(out)
    assert before is not None and after is not None
    assert before.splits.items() < after.splits.items()


def test_all_commands_go_by_the_environments_site_map(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`predict` has no option for it, and names a series of a PACS by the same key."""
    monkeypatch.setenv("POLYCLINIC_SITE_MAP", str(tmp_path / "mounted"))
    command = ["import", "--dicom", str(export), "--out", str(tmp_path / "data"), "--preview"]
    assert CliRunner().invoke(app, command).exit_code == 0
    before = (tmp_path / "mounted" / "hash.key").read_text()
    name = SiteMap(default_site_map()).name("series", "1.2.3")
    assert name == SiteMap(tmp_path / "mounted").name("series", "1.2.3")
    assert (tmp_path / "mounted" / "hash.key").read_text() == before


def test_a_folder_that_is_somebody_elses_is_left_alone(export: Path, tmp_path: Path) -> None:
    out, file = tmp_path / "data", tmp_path / "notes.txt"
    out.mkdir()
    (out / "dataset.json").write_text("{}")
    file.write_text("mine")
    for target in (out, file):
        with pytest.raises(ConfigError, match="--out"):
            call(export, target)
    assert (out / "dataset.json").read_text() == "{}" and file.read_text() == "mine"
    assert not (tmp_path / "site").exists()


def test_studies_without_a_pacs_are_not_passed_over(export: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one source"):
        call(export, tmp_path / "data", "--studies", "1.2.3")


def test_a_series_yaml_is_proposed_kept_and_confirmed_once(export: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    path = tmp_path / "site" / "data" / "series.yaml"
    call(export, out, "--preview")
    assert not out.exists() and not read_mapping(path).confirmed
    with pytest.raises(ConfigError, match="--yes"):
        call(export, out)
    text = path.read_text().replace("name: structure-2", "name: tumour  # ours")
    path.write_text(text)
    call(export, out, "--yes")
    assert read_mapping(path).confirmed and "# ours" in path.read_text()
    assert read_dataset(out).labels[2] == "tumour"
    path.write_text(path.read_text().replace("channels:", "chanels:"))
    with pytest.raises(MappingInvalid, match="channels"):
        call(export, out)


def test_a_channel_is_proposed_after_images_that_are_no_volume(tmp_path: Path) -> None:
    images = make_slices(PHANTOM, MRImageStorage)
    for one in images:
        one.SeriesDescription = "T2 tse"
    write(tmp_path / "export", [*images[:2], *images[3:]])
    said = call(tmp_path / "export", tmp_path / "data", "--preview")
    assert "slice(s) are missing" in said and "fits channel T2" in said
    mapping = read_mapping(tmp_path / "site" / "data" / "series.yaml")
    assert [each.name for each in mapping.channels] == ["T2"]


def test_several_series_for_a_channel_are_left_out_unless_the_site_says_which(
    tmp_path: Path,
) -> None:
    for patient in ("a", "b"):
        make_study(tmp_path / "export", patient)
    more = make_slices(Phantom(shape=(12, 10, 9)))
    (first,) = find_series(tmp_path / "export" / "a" / "ct").series
    for one in more:
        one.StudyInstanceUID = first.first.study
        one.PatientID, one.SeriesDescription = f"{CANARY}a", f"{CANARY} Head"
    write(tmp_path / "export" / "a" / "thin", more)
    out = tmp_path / "data"
    said = call(tmp_path / "export", out, "--yes")
    assert "2 series fit" in said and len(read_dataset(out, labelled=False).cases) == 1
    path = tmp_path / "site" / "data" / "series.yaml"
    path.write_text(path.read_text().replace("several: leave out", "several: most slices"))
    call(tmp_path / "export", out)
    shapes = [nib.load(case.image[0]).shape for case in read_dataset(out, labelled=False).cases]
    assert sorted(shapes) == [(10, 12, 6), (10, 12, 9)]


def test_channels_of_several_grids_are_resampled_onto_the_labelled_one(tmp_path: Path) -> None:
    coarse = Phantom(shape=(6, 5, 6), spacing=(1.6, 1.4, 2.5))
    for patient in ("a", "b"):
        study, place = generate_uid(), generate_uid()
        for name, phantom in (("T1 mprage", PHANTOM), ("T2 tse", coarse)):
            images = make_slices(phantom, MRImageStorage)
            for one in images:
                one.StudyInstanceUID, one.FrameOfReferenceUID = study, place
                one.PatientID, one.SeriesDescription = patient, name
                one.ProtocolName = one.SequenceName = ""
            write(tmp_path / "export" / patient / name, images)
        (series,) = find_series(tmp_path / "export" / patient / "T1 mprage").series
        write_boxes(tmp_path / "export" / patient / "seg.dcm", series)
    out = tmp_path / "data"
    call(tmp_path / "export", out, "--yes")
    dataset = read_dataset(out)
    assert dataset.modality == ("T1", "T2")
    first, second = (nib.load(path) for path in dataset.training[0].image)
    assert first.shape == second.shape and (first.affine == second.affine).all()
    inside = np.asanyarray(second.dataobj)[:7, :9]  # the coarse image's field is linear
    x, y, z = np.indices(inside.shape)
    assert np.abs(inside - (x / 2 + 20 * y / 2 + 300 * z - 900)).max() < 1e-3
    assert "2 cases have channels resampled" in describe_origin(out)


def test_names_of_patients_are_the_same_here_and_others_elsewhere(
    export: Path, tmp_path: Path
) -> None:
    names = []
    for out, site in (("one", "site"), ("two", "site"), ("three", "elsewhere")):
        call(export, tmp_path / out, "--yes", site=site)
        names.append({case.subject for case in read_dataset(tmp_path / out).cases})
    assert names[0] == names[1] and not names[0] & names[2]
    site = tmp_path / "site"
    known = json.loads((site / "patients.json").read_text())["patients"]
    assert f"{CANARY}a\\{CANARY}" in known.values() and set(known) == names[0]
    assert (site.stat().st_mode | (site / "hash.key").stat().st_mode) & 0o077 == 0
    (site / "hash.key").unlink()
    with pytest.raises(SiteMapInvalid, match="key of the map"):
        SiteMap(site)


def test_splits_are_near_their_shares_and_never_change() -> None:
    few = split_patients([f"{n:03}" for n in range(10)])
    counts = {split: list(few.values()).count(split) for split in set(few.values())}
    assert counts == {"training": 7, "validation": 1, "test": 2}
    more = split_patients([f"{n:03}" for n in range(100)], few)
    assert few.items() <= more.items()
    assert list(more.values()).count("training") == 70


def test_what_cannot_be_imported_is_said(tmp_path: Path) -> None:
    make_study(tmp_path / "export", "a", labelled=False)
    (tmp_path / "export" / "a" / "ct" / "0002.dcm").unlink()
    with pytest.raises(NothingFound, match="no case came"):
        call(tmp_path / "export", tmp_path / "data", "--yes")
    with pytest.raises(ConfigError, match="must not lie in the data folder"):
        call(tmp_path / "export", tmp_path / "data", "--yes", site="data/inside")
    with pytest.raises(ConfigError, match="one source"):
        CliRunner().invoke(app, ["import", "--out", "x"], catch_exceptions=False)


def dies(work: Conversion) -> Outcome:
    """Stand for a decoder that ends its process on the second case."""
    import os

    if work.case.name == "b":
        os._exit(1)
    return Outcome(work.case.name)


@pytest.mark.parametrize("at_once", [2])
def test_a_decoder_that_dies_takes_one_case_with_it(at_once: int, tmp_path: Path) -> None:
    from polyclinic_client.dicom.importing.planning import PlannedCase

    works = [Conversion(PlannedCase(name, name, (), (), 0, name), (), tmp_path) for name in "abc"]
    found = {each.case: each.problem for each in convert_all(works, at_once, dies)}
    assert found == {"a": "", "b": "a decoder failed on it and ended its process", "c": ""}


def test_an_unlabelled_study_of_a_patient_who_trains_is_no_test(
    export: Path, tmp_path: Path
) -> None:
    def again(one: Dataset, plane: int) -> None:
        one.PatientID, one.SeriesDescription = f"{CANARY}a", f"{CANARY} Head"

    write(tmp_path / "export" / "again", make_slices(PHANTOM, change=again))
    out = tmp_path / "data"
    call(export, out, "--yes")
    record = read_record(out)
    assert record is not None and len(record.cases) == 5
    cases = read_dataset(out).cases
    splits: dict[str, set[str]] = {}
    for case in cases:
        splits.setdefault(case.subject, set()).add(case.split)
    assert len(cases) in (4, 5) and all(
        found <= {"training", "validation"} or found == {"test"} for found in splits.values()
    )
    if len(cases) == 4:
        assert "study without labels, of a patient" in describe_origin(out)
