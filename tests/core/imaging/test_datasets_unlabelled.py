"""A folder of images alone, for a hospital that only describes itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyclinic.errors import DatasetInvalid, FileMissing, ImageUnreadable
from polyclinic.imaging.dataset_checks import check_dataset
from polyclinic.imaging.datasets import read_dataset
from tests.core.imaging.test_datasets import describe, entry, save

IMAGES = [f"i{number}.nii.gz" for number in range(3)]
NOTHING: dict[str, Any] = {"training": None, "validation": None, "test": None}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images, with labels that need not be named."""
    for number in range(5):
        save(tmp_path / f"i{number}.nii.gz", np.arange(60, dtype=np.float32).reshape(5, 4, 3))
        save(tmp_path / f"l{number}.nii.gz", np.ones((5, 4, 3), np.uint8))
    describe(tmp_path)
    return tmp_path


def test_a_list_of_images_is_enough(folder: Path) -> None:
    describe(folder, **{**NOTHING, "test": IMAGES})
    dataset = read_dataset(folder, labelled=False)
    assert [case.name for case in dataset.cases] == ["i0", "i1", "i2"]
    assert {case.label for case in dataset.cases} == {None} and {
        case.split for case in dataset.cases
    } == {"test"}
    with pytest.raises(DatasetInvalid, match="'training'"):
        read_dataset(folder)


def test_channels_and_objects_are_as_in_any_other_folder(folder: Path) -> None:
    describe(
        folder,
        **{
            **NOTHING,
            "modality": {"0": "T1", "1": "T2"},
            "test": [{"image": IMAGES[:2]}, {"image": [IMAGES[2], IMAGES[0]]}],
        },
    )
    assert [len(case.image) for case in read_dataset(folder, labelled=False).cases] == [2, 2]


def test_labelled_cases_may_be_there_and_one_split_is_enough(folder: Path) -> None:
    assert len(read_dataset(folder, labelled=False).cases) == 5
    describe(folder, validation=None, test=None)
    assert read_dataset(folder, labelled=False).validation == ()
    describe(folder, training=None, test=[*IMAGES[:2], entry(4)])
    assert [case.split for case in read_dataset(folder, labelled=False).cases] == [
        "validation",
        "test",
        "test",
        "test",
    ]


def test_the_check_reads_headers_and_misses_no_label(folder: Path) -> None:
    describe(folder, **{**NOTHING, "test": IMAGES})
    assert check_dataset(read_dataset(folder, labelled=False)) == []
    describe(folder, test=IMAGES[:1])  # who trains is told what its tests take
    assert any(
        "no test cases with labels" in warning for warning in check_dataset(read_dataset(folder))
    )
    (folder / "i1.nii.gz").write_bytes(b"no image")
    with pytest.raises(ImageUnreadable, match=r"i1\.nii\.gz"):
        check_dataset(read_dataset(folder, labelled=False))


@pytest.mark.parametrize("test", [None, []])
def test_a_folder_without_any_image_is_refused(folder: Path, test: list[str] | None) -> None:
    describe(folder, **{**NOTHING, "test": test})
    with pytest.raises(DatasetInvalid, match="'test'"):
        read_dataset(folder, labelled=False)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"labels": None}, "'labels' is missing"),
        ({"modality": None}, "'modality'"),
        ({"training": IMAGES}, "no 'image'"),
        ({"training": [{"image": "i0.nii.gz"}]}, "no label"),
        ({"test": [3]}, "no 'image'"),
        ({"test": [{"image": []}]}, "no image"),
        ({"test": "i0.nii.gz"}, "not a list"),
    ],
)
def test_everything_else_is_demanded_as_ever(
    folder: Path, changes: dict[str, Any], problem: str
) -> None:
    describe(folder, **{**NOTHING, "test": IMAGES, **changes})
    with pytest.raises(DatasetInvalid, match=problem):
        read_dataset(folder, labelled=False)


def test_a_missing_image_is_named(folder: Path) -> None:
    describe(folder, **{**NOTHING, "test": [*IMAGES, "gone.nii.gz"]})
    with pytest.raises(FileMissing, match=r"gone\.nii\.gz"):
        read_dataset(folder, labelled=False)
