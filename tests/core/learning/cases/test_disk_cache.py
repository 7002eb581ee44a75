"""The cache of prepared cases: exact, shared, bounded, private, and never trusted blindly."""

import json
import os
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor

from polyclinic.config.compose import load_config
from polyclinic.config.schemas import DataConfig
from polyclinic.imaging.datasets import SiteDataset, read_dataset
from polyclinic.learning import preparation
from polyclinic.learning.cases.disk_cache import DiskCache, case_key
from polyclinic.learning.loading.samples import training_loader
from polyclinic.learning.preparation import Sample, prepare

SHAPE = (12, 13, 14)
LARGE = 1e9
KEY = "ab" * 32


@pytest.fixture
def dataset(tmp_path: Path) -> SiteDataset:
    folder, random = tmp_path / "data", np.random.default_rng(0)
    folder.mkdir()
    for number in range(4):
        image = random.normal(100, 10, SHAPE).astype(np.float32)
        label = (random.random(SHAPE) > 0.9).astype(np.uint8)
        nib.save(nib.Nifti1Image(image, np.eye(4)), folder / f"{number}.nii.gz")
        nib.save(nib.Nifti1Image(label, np.eye(4)), folder / f"{number}_label.nii.gz")
    entries = [{"image": f"{n}.nii.gz", "label": f"{n}_label.nii.gz"} for n in range(4)]
    tree = {
        "modality": {"0": "T1"},
        "labels": {"0": "background", "1": "lesion"},
        "training": entries[:3],
        "validation": entries[3:],
    }
    (folder / "dataset.json").write_text(json.dumps(tree))
    return read_dataset(folder)


def data(name: str = "planned") -> DataConfig:
    patch = "[8,8]" if name == "planned_2d" else "[8,8,8]"
    return replace(
        load_config(
            [f"data={name}", f"data.patch={patch}", "data.labels=[background,lesion]",
             "model=dynunet", "training=nnunet"]
        ).data,
        cache_gb=0.0,
    )  # fmt: skip


def alike(first: Sample, second: Sample) -> bool:
    assert isinstance(first.label, Tensor) and isinstance(second.label, Tensor)
    pairs = [(first.image, second.image), (first.label, second.label)]
    pairs += [(first.slices, second.slices), *zip(first.foreground, second.foreground, strict=True)]
    return all(torch.equal(one, two) and one.dtype == two.dtype for one, two in pairs)


@pytest.mark.parametrize("name", ["planned", "planned_2d"])
def test_cases_of_the_disk_are_those_of_the_memory(
    dataset: SiteDataset, tmp_path: Path, name: str
) -> None:
    memory = prepare(dataset, replace(data(name), cache_gb=1.0))
    disk = prepare(dataset, data(name), disk=DiskCache(tmp_path / "cache", LARGE))
    assert disk.training.bytes == 0 and disk.training.complete
    for one, two in zip(memory.training, disk.training, strict=True):
        assert one.foreground and alike(one, two)
    training = load_config(["data=planned", "model=dynunet", "training=nnunet"]).training
    training = replace(training, steps=3)
    batches = [list(training_loader(site, training, 4)) for site in (memory, disk)]
    assert all(torch.equal(one["image"], two["image"]) for one, two in zip(*batches, strict=True))


def test_another_process_prepares_nothing_again(
    dataset: SiteDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(dataset, data(), disk=DiskCache(tmp_path / "cache", LARGE))

    def refuse(*_: object) -> Sample:
        raise AssertionError("prepared again")

    monkeypatch.setattr(preparation, "prepare_case", refuse)
    site = prepare(dataset, replace(data(), overlap=0.1), disk=DiskCache(tmp_path / "cache", LARGE))
    assert site.training[2].image.shape == (1, *SHAPE)
    with pytest.raises(AssertionError):
        prepare(
            dataset,
            replace(data(), spacing_mm=(2.0, 2.0, 2.0)),
            disk=DiskCache(tmp_path / "cache", LARGE),
        )


def test_a_changed_file_is_prepared_again(dataset: SiteDataset, tmp_path: Path) -> None:
    site = prepare(dataset, data(), disk=DiskCache(tmp_path / "cache", LARGE))
    before = site.training[0].image.clone()
    path = dataset.training[0].image[0]
    other = np.random.default_rng(9).normal(5, 1, SHAPE).astype(np.float32)
    nib.save(nib.Nifti1Image(other, np.eye(4)), path)
    again = prepare(dataset, data(), disk=DiskCache(tmp_path / "cache", LARGE))
    assert not torch.equal(again.training[0].image, before)


def test_damaged_and_missing_entries_are_prepared_again(
    dataset: SiteDataset, tmp_path: Path
) -> None:
    cache = DiskCache(tmp_path / "cache", LARGE)
    site = prepare(dataset, data(), disk=cache)
    expected = [sample.image.clone() for sample in site.training]
    entries = sorted(path for path in cache.folder.iterdir())
    assert len(entries) == 4
    for entry, content in zip(entries, (b"", b"\x93NUMPY", b"x" * 1000, None), strict=True):
        if content is None:
            (entry / "image.npy").unlink()
        else:
            (entry / "image.npy").write_bytes(content)
    assert all(
        torch.equal(sample.image, image)
        for sample, image in zip(site.training, expected, strict=True)
    )
    fresh = prepare(dataset, data(), disk=DiskCache(tmp_path / "cache", LARGE))
    assert all(
        torch.equal(sample.image, image)
        for sample, image in zip(fresh.training, expected, strict=True)
    )


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path) -> None:
    tensor = {"image": torch.zeros(1000)}
    earlier = DiskCache(tmp_path, LARGE)
    for number in range(3):
        assert earlier.save(f"{number}" * 64, tensor)
        os.utime(tmp_path / (f"{number}" * 64), (1000 + number, 1000 + number))
    entry_bytes = earlier.bytes // 3
    later = DiskCache(tmp_path, 3 * entry_bytes)
    assert later.load("0" * 64) is not None  # used again
    assert later.save(KEY, tensor)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"0" * 64, "2" * 64, KEY}
    assert not later.save("cd" * 32, {"image": torch.zeros(3000)})  # what is in use stays
    assert {path.name for path in tmp_path.iterdir()} >= {"0" * 64, KEY}


def test_without_room_cases_are_read_again(dataset: SiteDataset, tmp_path: Path) -> None:
    site = prepare(dataset, data(), disk=DiskCache(tmp_path / "cache", 0))
    assert not site.training.complete and site.training[1].image.shape == (1, *SHAPE)
    assert not (tmp_path / "cache").exists()


def test_nobody_else_can_read_it_and_writing_changes_no_file(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", LARGE)
    cache.save(KEY, {"image": torch.arange(10.0)})
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0
    assert (tmp_path / "cache" / KEY).stat().st_mode & 0o077 == 0
    mapped = cache.load(KEY)
    assert mapped is not None
    mapped["image"].zero_()
    again = cache.load(KEY)
    assert again is not None and torch.equal(again["image"], torch.arange(10.0))


def test_what_dead_processes_left_is_removed(tmp_path: Path) -> None:
    old, new = tmp_path / ".old.partial", tmp_path / ".new.partial"
    for path in (old, new):
        path.mkdir()
    os.utime(old, (1000, 1000))
    DiskCache(tmp_path, LARGE)
    assert not old.exists() and new.exists()


def test_a_key_depends_on_all_that_preparing_depends_on(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("1")
    keys = {
        case_key([path], [], data()),
        case_key([path], [0, 4], data()),
        case_key([path], [], replace(data(), normalization=())),
        case_key([path], [], replace(data(), foreground_share=0.0)),
    }
    path.write_text("22")
    keys.add(case_key([path], [], data()))
    assert len(keys) == 5
    assert case_key([path], [], data()) == case_key(
        [path], [], replace(data(), augment=(), overlap=0.9, cache_gb=3.0)
    )
