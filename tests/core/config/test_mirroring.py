"""Flips of left and right, and labels that name a side."""

from dataclasses import replace
from pathlib import Path

import pytest

from polyclinic.config.compose import load_data
from polyclinic.config.mirroring import (
    augmentation_of,
    describe_mirroring,
    labels_of_sides,
)
from polyclinic.config.schemas import DataConfig

FLIP = "monai.transforms.RandFlipd"
OTHER = {"_target_": "monai.transforms.RandScaleIntensityd", "keys": "image", "factors": 0.1}


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        (("background", "left kidney", "right kidney"), 2),
        (("background", "Kidney_L", "Kidney_R"), 2),
        (("Unknown", "Left-Hippocampus", "Right-Hippocampus"), 2),
        (("background", "LeftLung", "RightLung"), 2),
        (("background", "ctx-lh-insula", "ctx-rh-insula"), 2),
        (("background", "Niere links", "Niere rechts"), 2),
        (("background", "rein gauche", "rein droit"), 2),
        (("healthy", "left"), 1),
        (("background", "CSF", "grey matter", "white matter"), 0),
        (("background", "L1", "L2"), 0),  # vertebrae
        (("background", "R wave", "T wave"), 0),
        (("background", "bright spot", "cleft"), 0),
    ],
)
def test_labels_that_name_a_side(labels: tuple[str, ...], named: int) -> None:
    assert len(labels_of_sides(labels)) == named


def made(axis: object, orientation: str = "RAS", **changes: object) -> DataConfig:
    flip = {"_target_": FLIP, "keys": ["image", "label"], "prob": 0.5}
    flip |= {} if axis is None else {"spatial_axis": axis}
    return replace(
        load_data(["data=segmentation", "data.labels=[background,left kidney,right kidney]"]),
        augment=(flip, OTHER),
        orientation=orientation,
        **changes,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("axis", "orientation", "kept"),
    [
        (0, "RAS", 1),
        (1, "RAS", 2),
        ([0, 1], "RAS", 1),
        ([1, 2], "LPS", 2),
        (None, "RAS", 1),
        (0, "AS", 2),
        (2, "AS", 1),
        (1, "PL", 1),
    ],
)
def test_the_flip_of_left_and_right_is_left_out(axis: object, orientation: str, kept: int) -> None:
    data = made(axis, orientation)
    assert len(augmentation_of(data)) == kept
    assert ("left kidney" in describe_mirroring(data)) == (kept == 1)


def test_one_switch_decides() -> None:
    assert len(augmentation_of(made(0, mirroring="on"))) == 2
    assert describe_mirroring(made(0, mirroring="on")) == ""
    tissues = replace(made(0), labels=("background", "CSF"))
    assert len(augmentation_of(tissues)) == 2
    assert len(augmentation_of(replace(tissues, mirroring="off"))) == 1
    assert load_data(["data=brain_tissue", "data.mirroring=off"]).mirroring == "off"


@pytest.mark.parametrize(
    "path", sorted(Path("conf/data").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_task_of_ours_can_be_kept_from_flipping(path: Path) -> None:
    data = load_data([f"data={path.stem}", "data.mirroring=off"])
    targets = [str(part["_target_"]) for part in augmentation_of(data)]
    assert FLIP not in targets
