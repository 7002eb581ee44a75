"""Samples: the same for any number of workers, centred on the foreground, padded at borders."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor

from polyclinic.config.compose import load_config
from polyclinic.config.schemas import Config
from polyclinic.imaging.datasets import read_dataset
from polyclinic.learning.loading.samples import training_loader
from polyclinic.learning.preparation import PreparedSite, prepare

AFFINE = np.diag([1.0, 1.0, 1.0, 1.0])


def write_site(folder: Path, shape: tuple[int, ...], marks: list[tuple[int, int, int]]) -> Path:
    """Two training cases of noise with single voxels of classes 1, 2, ...; one for validation."""
    random = np.random.default_rng(0)
    for name in "abc":
        label = np.zeros(shape, np.uint8)
        for number, mark in enumerate(marks, start=1):
            label[mark] = number
        image = random.normal(100, 10, shape).astype(np.float32) + 50 * label
        nib.save(nib.Nifti1Image(image, AFFINE), folder / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(label, AFFINE), folder / f"{name}_label.nii.gz")
    entries = [{"image": f"{name}.nii.gz", "label": f"{name}_label.nii.gz"} for name in "abc"]
    tree = {
        "modality": {"0": "T1"},
        "labels": {str(number): f"class {number}" for number in range(len(marks) + 1)},
        "training": entries[:2],
        "validation": entries[2:],
    }
    (folder / "dataset.json").write_text(json.dumps(tree))
    return folder


def planned(folder: Path, name: str, classes: int, *settings: str) -> tuple[Config, PreparedSite]:
    labels = ",".join(f"class {number}" for number in range(classes))
    config = load_config(
        [f"data={name}", "model=dynunet", "training=nnunet", f"data.labels=[{labels}]", *settings]
    )
    return config, prepare(read_dataset(folder), config.data)


def batches(config: Config, site: PreparedSite, seed: int = 5) -> list[dict[str, Tensor]]:
    return list(training_loader(site, config.training, seed))


def same(first: list[dict[str, Tensor]], second: list[dict[str, Tensor]]) -> bool:
    return all(
        torch.equal(one[key], two[key])
        for one, two in zip(first, second, strict=True)
        for key in ("image", "label")
    )


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("name", ["planned", "planned_2d"])
def test_any_number_of_workers_loads_the_same(tmp_path: Path, name: str, steps: int) -> None:
    write_site(tmp_path, (20, 18, 16), [(5, 5, 5), (14, 9, 12)])
    patch = "[16,16]" if name == "planned_2d" else "[16,16,16]"
    config, site = planned(
        tmp_path, name, 3, f"data.patch={patch}", f"training.steps={steps}",
        "training.workers=1", "data.samples_per_case=3", "training.shifts.noise=0.5",
    )  # fmt: skip
    one, two, none = (
        replace(config, training=replace(config.training, workers=workers)) for workers in (1, 2, 0)
    )
    first = batches(one, site)
    assert len(first) == 3
    assert same(first, batches(two, site))
    if steps:
        assert same(first, batches(none, site))
    assert not same(first, batches(one, site, seed=6))


def test_centred_patches_hold_every_class_equally_often(tmp_path: Path) -> None:
    write_site(tmp_path, (40, 40, 40), [(3, 20, 36), (30, 30, 30), (20, 5, 20)])
    config, site = planned(
        tmp_path, "planned", 4, "data.patch=[8,8,8]", "training.batch_size=3",
        "data.foreground_share=0.5", "training.steps=60",
    )  # fmt: skip
    data = replace(site.data, augment=())
    site = replace(site, data=data)
    seen = torch.zeros(4)
    for batch in batches(config, site):
        assert batch["label"].shape == (3, 1, 8, 8, 8)
        found = [int(label.max()) for label in batch["label"]]
        assert all(found[1:])  # two of three are centred; uniform patches hardly ever hold any
        for number in found[1:]:
            seen[number] += 1
    assert seen[0] == 0 and seen[1:].min() > 20


def test_slices_are_drawn_where_the_foreground_is(tmp_path: Path) -> None:
    write_site(tmp_path, (24, 24, 30), [(2, 20, 29)])
    config, site = planned(
        tmp_path, "planned_2d", 2, "data.patch=[16,16]", "training.batch_size=4",
        "training.steps=20", "data.foreground_share=0.25",
    )  # fmt: skip
    for batch in batches(config, replace(site, data=replace(site.data, augment=()))):
        assert batch["image"].shape == (4, 1, 16, 16)
        assert int(batch["label"][-1].sum()) == 1
        assert int(batch["label"][:-1].sum()) <= 1  # one slice of thirty, if at all


def test_a_patch_about_a_voxel_at_the_border_is_padded(tmp_path: Path) -> None:
    write_site(tmp_path, (20, 20, 20), [(19, 0, 10)])
    config, site = planned(
        tmp_path, "planned", 2, "data.patch=[8,8,8]", "training.steps=4", "training.batch_size=1"
    )
    for batch in batches(config, replace(site, data=replace(site.data, augment=()))):
        where = batch["label"][0, 0].nonzero()[0].tolist()
        assert where == [4, 0, 4]
        assert not batch["image"][0, 0, 5:].any() and bool(batch["image"][0, 0, :5].any())


def test_a_case_without_foreground_gives_any_patch(tmp_path: Path) -> None:
    write_site(tmp_path, (20, 20, 20), [])
    tree: dict[str, Any] = json.loads((tmp_path / "dataset.json").read_text())
    tree["labels"] = {"0": "class 0", "1": "class 1"}
    (tmp_path / "dataset.json").write_text(json.dumps(tree))
    config, site = planned(tmp_path, "planned", 2, "data.patch=[8,8,8]", "training.steps=2")
    assert all(not batch["label"].any() for batch in batches(config, site))


def test_a_rotated_patch_has_no_empty_corners(tmp_path: Path) -> None:
    """The crop is larger where the patch is turned: only the image's own border is padded."""
    write_site(tmp_path, (60, 60, 60), [(30, 30, 30)])
    config, site = planned(
        tmp_path, "planned", 2, "data.patch=[12,12,12]", "training.steps=25",
        "data.foreground_share=1",
    )  # fmt: skip
    plain = replace(site, data=replace(site.data, augment=()))
    moved = sum(
        not torch.equal(one["label"], other["label"])
        for one, other in zip(batches(config, site), batches(config, plain), strict=True)
    )
    assert moved > 15
    assert all(
        float((batch["image"] == 0).float().mean()) < 0.001 for batch in batches(config, site)
    )
