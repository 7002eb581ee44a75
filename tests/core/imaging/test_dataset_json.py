"""Every dataset.json a hospital may have: of which program, in which encoding, with which files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyclinic.errors import DatasetInvalid, FileMissing, LabelInvalid
from polyclinic.imaging.dataset_checks import check_dataset
from polyclinic.imaging.dataset_files import ELSEWHERE, allow_images_in
from polyclinic.imaging.dataset_json import MAX_NAME
from polyclinic.imaging.datasets import SiteDataset, evaluation_cases, read_dataset
from polyclinic.imaging.volumes import read_label
from polyclinic.simulation.hospitals import write_dataset
from tests.core.imaging.test_datasets import save

SHAPE = (6, 5, 4)
LABELS = {"0": "background", "1": "necrosis", "2": "oedema", "4": "enhancing"}


def fill(folder: Path, *names: str, value: int = 0) -> None:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        voxels = np.full(SHAPE, value, np.uint8)
        voxels[0] = number
        save(path, voxels)


def write(folder: Path, **tree: Any) -> None:
    tree = {"modality": {"0": "T1"}, "labels": {"0": "background", "1": "tumour"}, **tree}
    (folder / "dataset.json").write_text(json.dumps(tree))


def pair(number: int, **more: Any) -> dict[str, Any]:
    name = f"brain_{number:03}.nii.gz"
    return {"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}", **more}


@pytest.fixture
def decathlon(tmp_path: Path) -> Path:
    """The layout as it is downloaded: training with labels, a test without, no validation."""
    for number in range(10):
        fill(tmp_path, pair(number)["image"], pair(number)["label"])
    fill(tmp_path, "imagesTs/brain_100.nii.gz")
    write(
        tmp_path,
        tensorImageSize="3D",
        numTraining=10,
        training=[pair(number) for number in range(10)],
        test=["./imagesTs/brain_100.nii.gz"],
    )
    return tmp_path


def names(cases: Any) -> list[str]:
    return [case.name for case in cases]


def test_the_original_decathlon_is_split_by_its_cases_names(decathlon: Path) -> None:
    dataset = read_dataset(decathlon)
    assert (len(dataset.training), len(dataset.validation), len(dataset.test)) == (8, 2, 1)
    assert set(names(dataset.training)).isdisjoint(names(dataset.validation))
    assert {case.split for case in dataset.validation} == {"validation"}
    assert names(evaluation_cases(dataset)) == names(dataset.validation)
    assert any("2 of 10" in note for note in check_dataset(dataset))
    listed = [pair(number) for number in reversed(range(10))]
    write(decathlon, training=listed, validation=[])  # in another order, the same choice
    assert set(names(read_dataset(decathlon).validation)) == set(names(dataset.validation))


def test_a_patients_cases_stay_together_where_a_fifth_is_set_apart(decathlon: Path) -> None:
    listed = [pair(number, subject=f"s{number // 2}") for number in range(10)]
    write(decathlon, training=listed)
    dataset = read_dataset(decathlon)
    whose = [{case.subject for case in each} for each in (dataset.training, dataset.validation)]
    assert [len(each) for each in whose] == [4, 1] and not whose[0] & whose[1]
    write(decathlon, training=[pair(number, subject="s") for number in range(10)])
    with pytest.raises(DatasetInvalid, match="one patient"):
        read_dataset(decathlon)


def test_images_alone_are_not_split(decathlon: Path) -> None:
    dataset = read_dataset(decathlon, labelled=False)
    assert (len(dataset.training), dataset.validation, dataset.notes) == (10, (), ())


@pytest.fixture
def nnunet(tmp_path: Path) -> Path:
    for case in range(5):
        fill(tmp_path, *(f"imagesTr/p{case}_{channel:04}.nii.gz" for channel in range(2)))
        fill(tmp_path, f"labelsTr/p{case}.nii.gz")
    fill(tmp_path, *(f"imagesTs/p9_{channel:04}.nii.gz" for channel in range(2)))
    tree = {
        "channel_names": {"0": "T2", "1": "ADC"},
        "labels": {"background": 0, "PZ": 1, "TZ": 2},
        "numTraining": 5,
        "file_ending": ".nii.gz",
    }
    (tmp_path / "dataset.json").write_text(json.dumps(tree))
    return tmp_path


def test_nnunets_folders(nnunet: Path) -> None:
    fill(nnunet, "imagesTr/._p0_0000.nii.gz", "imagesTr/notes_0000.nii")
    dataset = read_dataset(nnunet)
    assert (dataset.modality, dataset.labels) == (("T2", "ADC"), ("background", "PZ", "TZ"))
    assert (len(dataset.training), len(dataset.validation)) == (4, 1)
    case = dataset.training[0]
    assert [path.name[-11:] for path in case.image] == ["0000.nii.gz", "0001.nii.gz"]
    assert isinstance(case.label, Path) and case.label.parent.name == "labelsTr"
    assert [case.label for case in dataset.test] == [None]
    fill(nnunet, "labelsTs/p9.nii.gz")
    assert read_dataset(nnunet).test[0].label == nnunet / "labelsTs" / "p9.nii.gz"
    (nnunet / "imagesTr" / "p3_0001.nii.gz").unlink()
    with pytest.raises(FileMissing, match="p3_0001"):
        read_dataset(nnunet)


def test_nnunets_list_of_files(nnunet: Path) -> None:
    tree = json.loads((nnunet / "dataset.json").read_text())
    tree["dataset"] = {
        f"p{case}": {
            "images": [f"imagesTr/p{case}_{channel:04}.nii.gz" for channel in range(2)],
            "label": f"labelsTr/p{case}.nii.gz",
        }
        for case in range(3)
    }
    (nnunet / "dataset.json").write_text(json.dumps(tree))
    dataset = read_dataset(nnunet)
    assert (len(dataset.training), len(dataset.validation)) == (2, 1)
    tree["dataset"] = {"p0": {"label": "labelsTr/p0.nii.gz"}}
    (nnunet / "dataset.json").write_text(json.dumps(tree))
    with pytest.raises(DatasetInvalid, match="'images'"):
        read_dataset(nnunet)


@pytest.fixture
def gaps(tmp_path: Path) -> SiteDataset:
    """BraTS: the numbers 0, 1, 2 and 4."""
    for number, value in enumerate(LABELS):
        fill(tmp_path, pair(number)["label"], pair(number)["image"], value=int(value))
    write(tmp_path, labels=LABELS, training=[pair(0), pair(1), pair(2)], validation=[pair(3)])
    return read_dataset(tmp_path)


def test_numbers_with_a_gap_are_read_as_classes(gaps: SiteDataset) -> None:
    assert gaps.labels == tuple(LABELS.values()) and gaps.label_values == (0, 1, 2, 4)
    case = gaps.validation[0]
    assert isinstance(case.label, Path)
    label = read_label(case.label, 4, values=case.label_values).as_tensor()
    assert label[0, 1:].unique().tolist() == [3]  # 4 in the file
    assert not any("No case has" in note for note in check_dataset(gaps, deep=True))
    voxels = np.full(SHAPE, 3, np.uint8)
    voxels[0, 0] = 5
    save(case.label, voxels)
    with pytest.raises(LabelInvalid, match=r"3, 5.*0, 1, 2, 4"):
        check_dataset(gaps, deep=True)


def test_numbers_with_a_gap_survive_a_copy_of_the_list(gaps: SiteDataset, tmp_path: Path) -> None:
    again = read_dataset(write_dataset(gaps, tmp_path / "again"))
    assert (again.label_values, names(again.cases)) == (gaps.label_values, names(gaps.cases))
    assert again.validation[0].label_values == (0, 1, 2, 4)


def test_classes_with_a_gap(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{number}.nii.gz" for number in range(3)))
    listed = [{"image": f"{n}.nii.gz", "label": label} for n, label in enumerate((0, 5))]
    write(tmp_path, labels={"0": "a", "5": "b"}, training=listed, validation=listed)
    dataset = read_dataset(tmp_path)
    assert [case.label for case in dataset.training] == [0, 1]
    assert [case.label_values for case in dataset.training] == [(), ()]
    again = read_dataset(write_dataset(dataset, tmp_path / "again"))
    assert [case.label for case in again.training] == [0, 1]
    listed[1]["label"] = 1
    write(tmp_path, labels={"0": "a", "5": "b"}, training=listed, validation=listed)
    with pytest.raises(DatasetInvalid, match="label 1"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_windows_writes_marks_and_backslashes(decathlon: Path, encoding: str) -> None:
    text = (decathlon / "dataset.json").read_text().replace("/", "\\\\")
    tree = json.loads(text) | {"name": "Hôpital"}
    (decathlon / "dataset.json").write_text(json.dumps(tree, ensure_ascii=False), encoding=encoding)
    dataset = read_dataset(decathlon)
    assert len(dataset.cases) == 11 and dataset.name == "Hôpital"


def test_a_key_that_stands_twice_is_refused(decathlon: Path) -> None:
    path = decathlon / "dataset.json"
    path.write_text(path.read_text().replace('"1": "tumour"', '"1": "tumour", "1": "cyst"'))
    with pytest.raises(DatasetInvalid, match="'1' stands twice"):
        read_dataset(decathlon)


@pytest.mark.parametrize("text", ["1" * 5000, '{"labels": ' + "9" * 5000 + "}", '{"a": 1e99999}'])
def test_numbers_that_nobody_means(decathlon: Path, text: str) -> None:
    (decathlon / "dataset.json").write_text(text)
    with pytest.raises(DatasetInvalid):
        read_dataset(decathlon)


@pytest.mark.parametrize("name", ["", "\x1b[2J", "a" * (MAX_NAME + 1), "\ud800"])
def test_names_are_short_and_can_be_shown(decathlon: Path, name: str) -> None:
    training = [pair(number) for number in range(10)]
    for tree in ({"labels": {"0": "background", "1": name}}, {"modality": {"0": name}}):
        write(decathlon, training=training, **tree)
        with pytest.raises(DatasetInvalid):
            read_dataset(decathlon)


@pytest.mark.parametrize("way", ["dots", "absolute", "link", "linked folder"])
def test_files_outside_of_the_folder_are_refused(
    decathlon: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    fill(elsewhere, "a.nii.gz")
    (decathlon / "link.nii.gz").symlink_to(elsewhere / "a.nii.gz")
    (decathlon / "linked").symlink_to(elsewhere)
    name = {
        "dots": f"../{elsewhere.name}/a.nii.gz",
        "absolute": str(elsewhere / "a.nii.gz"),
        "link": "link.nii.gz",
        "linked folder": "linked/a.nii.gz",
    }[way]
    if way == "dots":
        name = f"{'../' * 20}{elsewhere.relative_to('/')}/a.nii.gz"
    for kind in ("image", "label"):
        write(decathlon, training=[pair(0), pair(1) | {kind: name}])
        with pytest.raises(DatasetInvalid, match=rf"'training'\[1\].*{ELSEWHERE}"):
            read_dataset(decathlon)
    with monkeypatch.context() as patch:
        patch.setenv(ELSEWHERE, str(elsewhere))
        assert len(read_dataset(decathlon).cases) == 2
    allow_images_in(elsewhere)
    assert len(read_dataset(decathlon).cases) == 2


def test_a_folder_that_is_a_link_holds_its_files(decathlon: Path, tmp_path: Path) -> None:
    (tmp_path / "here").symlink_to(decathlon)
    assert len(read_dataset(tmp_path / "here").cases) == 11
    write(decathlon, training=[pair(0), {**pair(1), "image": str(decathlon / pair(1)["image"])}])
    assert len(read_dataset(tmp_path / "here").cases) == 2


def test_what_is_no_file_is_called_by_its_name(decathlon: Path) -> None:
    (decathlon / "series").mkdir()
    (decathlon / "broken.nii.gz").symlink_to("gone.nii.gz")
    (decathlon / "circle.nii.gz").symlink_to("circle.nii.gz")
    said = {}
    for name in ("series", "broken.nii.gz"):
        write(decathlon, training=[pair(0), {**pair(1), "image": name}])
        with pytest.raises(FileMissing) as caught:
            read_dataset(decathlon)
        said[name] = str(caught.value)
    assert "DICOM" in said["series"] and "gone.nii.gz" in said["broken.nii.gz"]
    for name in ("circle.nii.gz", "\ud800.nii.gz"):
        write(decathlon, training=[pair(0), {**pair(1), "image": name}])
        with pytest.raises((DatasetInvalid, FileMissing)):
            read_dataset(decathlon)


def test_single_cases_can_be_left_out(decathlon: Path) -> None:
    (decathlon / pair(3)["image"]).unlink()
    training = [pair(number) for number in range(10)]
    write(decathlon, training=training, excluded=["imagesTr\\brain_003.nii.gz"])
    dataset = read_dataset(decathlon)
    assert "brain_003" not in names(dataset.cases) and len(dataset.cases) == 9
    assert any(note.startswith("1 case") for note in check_dataset(dataset))
    for wrong in ("imagesTr/brain_003.nii.gz", [3]):
        write(decathlon, training=training, excluded=wrong)
        with pytest.raises(DatasetInvalid, match="'excluded'"):
            read_dataset(decathlon)
