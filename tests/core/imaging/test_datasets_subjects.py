"""Patients with several cases: dataset.json says who is who."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from polyclinic.errors import DatasetInvalid
from polyclinic.imaging.datasets import read_dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a_0", "a_1", "b_0"):
        nib.save(
            nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), tmp_path / f"{name}.nii.gz"
        )
    return tmp_path


def describe(folder: Path, *subjects: Any) -> None:
    cases = [
        {"image": f"{name}.nii.gz", "label": f"{name}.nii.gz"} for name in ("a_0", "a_1", "b_0")
    ]
    named = [
        case if subject is None else {**case, "subject": subject}
        for case, subject in zip(cases, subjects, strict=True)
    ]
    tree = {
        "modality": {"0": "T1"},
        "labels": {"0": "background", "1": "tumour"},
        "training": named[:2],
        "validation": named[2:],
    }
    (folder / "dataset.json").write_text(json.dumps(tree))


def test_cases_know_their_patient(folder: Path) -> None:
    describe(folder, "a", "a", "b")
    assert [case.subject for case in read_dataset(folder).cases] == ["a", "a", "b"]


def test_a_number_is_a_name_and_no_name_is_none(folder: Path) -> None:
    describe(folder, 7, 7, None)
    assert [case.subject for case in read_dataset(folder).cases] == ["7", "7", ""]


@pytest.mark.parametrize("subject", [["a"], {"name": "a"}, 1.5])
def test_what_is_no_name_is_refused(folder: Path, subject: Any) -> None:
    describe(folder, "a", subject, "b")
    with pytest.raises(DatasetInvalid, match=r"'training'\[1\] .*'subject'"):
        read_dataset(folder)
