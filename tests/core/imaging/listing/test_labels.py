"""Regions, findings and numbers in a dataset.json: what is read, and what is refused in words."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyclinic.errors import DatasetInvalid
from polyclinic.imaging.dataset_checks import check_dataset
from polyclinic.imaging.datasets import SiteDataset, read_dataset
from polyclinic.imaging.listing.labels import Labels, LabelsInvalid, read_labels
from polyclinic.imaging.listing.values import read_values
from polyclinic.simulation.hospitals import write_dataset
from polyclinic_client.cli.check_data import describe_dataset
from tests.core.imaging.test_datasets import save
from tests.label_cohorts import (
    FINDINGS,
    REGIONS,
    numbered,
    write_findings,
    write_numbers,
    write_regions,
)

FEW = {"training": 2, "validation": 1, "test": 1}
NAMES = ("effusion", "nodule")


def test_regions_are_places_among_all_numbers() -> None:
    found = read_labels({"background": 0, "whole": [1, 2, 4], "core": [4, 1], "enhancing": 4}, None)
    assert found == Labels(("whole", "core", "enhancing"), (0, 1, 2, 4), ((1, 2, 3), (1, 3), (3,)))
    single = read_labels({"background": 0, "lesion": 7}, "regions")
    assert single == Labels(("lesion",), (0, 7), ((1,),))
    assert read_labels({"0": "effusion"}, "multilabel") == Labels(("effusion",), (0,))


@pytest.mark.parametrize(
    ("table", "task", "problem"),
    [
        ({"background": 0, "a": []}, None, "regions of the numbers"),
        ({"background": 0, "a": [1, 1]}, None, "regions of the numbers"),
        ({"background": 0, "a": [1, True]}, None, "regions of the numbers"),
        ({"background": 0, "a": [1, "2"]}, None, "regions of the numbers"),
        ({"background": 0, "a": [40_000]}, None, "regions of the numbers"),
        ({"background": 0, "a": [1, 2], "b": [2, 1]}, None, "two regions of the same numbers"),
        ({"background": 0}, "regions", "'labels' are"),
        ({"background": 0, "a": list(range(1, 300))}, None, "300 numbers"),
        ({"background": 0, "a": [1, 2]}, "segmentation", "'task' is segmentation"),
        ({"0": "age"}, None, "'labels' are age"),
        ({"0": "a", "1": "ignore"}, None, "ignore"),
    ],
)
def test_wrong_labels_say_what_is_wrong(table: dict[str, Any], task: Any, problem: str) -> None:
    with pytest.raises(LabelsInvalid, match=problem):
        read_labels(table, task)


def test_findings_and_numbers_are_one_value_for_each_name() -> None:
    assert read_values(["nodule"], NAMES, None) == (0.0, 1.0)
    assert read_values([], NAMES, "multilabel") == (0.0, 0.0)
    found = read_values({"nodule": True, "effusion": None}, NAMES, None)
    assert isinstance(found, tuple) and math.isnan(found[0]) and found[1] == 1.0
    assert read_values(63, ("age",), "regression") == (63.0,)
    assert read_values({"effusion": -2.5, "nodule": 1e3}, NAMES, "regression") == (-2.5, 1000.0)


@pytest.mark.parametrize(
    ("label", "task", "problem"),
    [
        (["fracture"], None, "findings fracture"),
        (["nodule", "nodule"], None, "findings nodule, nodule"),
        ([1], None, "findings 1"),
        ({"nodule": 0.5}, None, "neither 1, 0 nor null"),
        ({"nodule": "1"}, None, "neither 1, 0 nor null"),
        ({"fracture": 1}, None, "values of fracture"),
        ({"nodule": "old"}, "regression", "no number"),
        ([1.0, 2.0], "regression", "list"),
        (3, "regression", "no number for effusion, nodule"),
        ([], "classification", "'task' is classification"),
    ],
)
def test_wrong_values_say_what_is_wrong(label: object, task: str | None, problem: str) -> None:
    found = read_values(label, NAMES, task)
    assert isinstance(found, str) and problem in found


@pytest.mark.parametrize("number", [math.nan, math.inf, 1e12, "63", None, [63], True])
def test_a_number_that_is_none(tmp_path: Path, number: object) -> None:
    folder = write_numbers(tmp_path / "site", counts=FEW)
    tree = json.loads((folder / "dataset.json").read_text())
    tree["training"][0]["label"] = number
    (folder / "dataset.json").write_text(json.dumps(tree))
    if number is True:  # JSON's true is 1, as in Python
        assert read_dataset(folder).training[0].label == (1.0,)
        return
    with pytest.raises(DatasetInvalid, match=r"'training'\[0\]"):
        read_dataset(folder)


@pytest.mark.parametrize("write", [write_findings, write_numbers, write_regions])
def test_a_listing_survives_a_copy(tmp_path: Path, write: Any) -> None:
    dataset = read_dataset(write(tmp_path / "site", counts=FEW))
    again = read_dataset(write_dataset(dataset, tmp_path / "again"))
    assert (again.task, again.labels, again.regions) == (
        dataset.task,
        dataset.labels,
        dataset.regions,
    )
    assert [case.label for case in again.cases] == [case.label for case in dataset.cases]


def test_the_check_tells_what_never_occurs(tmp_path: Path) -> None:
    """A finding that no case has; a region whose numbers no label map holds."""
    folder = write_findings(tmp_path / "findings", counts=FEW)  # cases 0 and 1: nothing, the ball
    notes = check_dataset(read_dataset(folder))
    assert any("No case has slab, stripes" in note for note in notes)
    labels = {"background": 0, **REGIONS, "cyst": 9}
    folder = write_regions(tmp_path / "regions", counts=FEW)
    tree = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**tree, "labels": labels}))
    dataset = read_dataset(folder)
    assert "whole tumour (1 2 4), core (1 4)" in describe_dataset(dataset)
    notes = check_dataset(dataset, deep=True)
    assert any("No case has cyst" in note for note in notes)
    assert not any("whole tumour" in note for note in notes)


def relabel(dataset: SiteDataset, **changes: Any) -> None:
    tree = json.loads((dataset.folder / "dataset.json").read_text())
    (dataset.folder / "dataset.json").write_text(json.dumps({**tree, **changes}))


def test_the_task_must_be_that_of_the_labels(tmp_path: Path) -> None:
    dataset = read_dataset(write_findings(tmp_path / "site", counts=FEW))
    relabel(dataset, task="guess")
    with pytest.raises(DatasetInvalid, match="'task' is 'guess'"):
        read_dataset(dataset.folder)
    relabel(dataset, task="regions", labels={"background": 0, "a": 1})
    with pytest.raises(DatasetInvalid, match="task"):
        read_dataset(dataset.folder)
    save(tmp_path / "site" / "map.nii.gz", np.zeros((16, 16, 16), np.uint8))
    training = [{"image": "training-0.nii.gz", "label": "map.nii.gz"}]
    relabel(dataset, task="multilabel", labels=numbered(FINDINGS), training=training)
    with pytest.raises(DatasetInvalid, match="some labels are"):
        read_dataset(dataset.folder)
