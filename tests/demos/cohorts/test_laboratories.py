"""Laboratories' folders.

From a small made-up collection, and from the real one where it is at hand.
"""

import json
import os
from collections import Counter
from itertools import chain
from pathlib import Path
from shutil import rmtree

import numpy as np
import pytest
from PIL import Image

from polyclinic.config.jobs import load_job
from polyclinic.errors import ConfigError
from polyclinic.imaging.dataset_checks import check_dataset
from polyclinic.imaging.datasets import read_dataset
from polyclinic_demos.cohorts.laboratories import write_laboratories

real = pytest.mark.skipif(
    "POLYCLINIC_DATA" not in os.environ,
    reason="POLYCLINIC_DATA is unset: no real laboratories here",
)
JOB = {"data": "white_blood_cells", "model": "efficientnet_lite0", "training": "fine_tuning"}
CLASSES = ("eosinophil", "lymphocyte", "monocyte", "neutrophil")


def write_source(root: Path, counts: dict[str, int]) -> Path:
    """So many different photographs of each class from each of two laboratories."""
    home = root / "white_blood_cells"
    lines, values = ["site,image,label"], np.random.default_rng(0)
    for site in ("site_a", "site_b"):
        (home / site).mkdir(parents=True)
        labels = [label for label in sorted(counts) for _ in range(counts[label])]
        for number, label in enumerate(labels):
            pixels = values.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(home / site / f"{number:03d}.png")
            lines.append(f"{site},{site}/{number:03d}.png,{label}")
    (home / "labels.csv").write_text("\n".join(lines) + "\n")
    return home


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POLYCLINIC_DATA", str(tmp_path / "data"))
    return write_source(tmp_path / "data", dict.fromkeys(CLASSES, 10))


def splits(folder: Path) -> dict[str, list[tuple[str, int]]]:
    tree = json.loads((folder / "dataset.json").read_text())
    return {
        split: [(entry["image"], entry["label"]) for entry in tree[split]]
        for split in ("training", "validation", "test")
    }


def test_each_laboratory_has_a_data_set_that_passes_every_check(
    source: Path, tmp_path: Path
) -> None:
    seen: list[tuple[int, int, str]] = []
    folders = write_laboratories(tmp_path / "out", on_progress=lambda *news: seen.append(news))
    assert [folder.name for folder in folders] == ["laboratory-a", "laboratory-b"]
    assert seen[0] == (1, 80, "laboratory-a/000.png") and seen[-1] == (
        80,
        80,
        "laboratory-b/039.png",
    )
    data = load_job(JOB, {}).data
    for folder in folders:
        dataset = read_dataset(folder)
        assert (dataset.name, dataset.labels, dataset.task) == (
            folder.name,
            CLASSES,
            "classification",
        )
        assert check_dataset(dataset, data, deep=True) == []
        for case in dataset.cases:
            original = source / folder.name.replace("laboratory-", "site_") / case.image[0].name
            assert case.image[0].read_bytes() == original.read_bytes()


def test_every_class_is_divided_alike_and_no_image_is_in_two_splits(
    source: Path, tmp_path: Path
) -> None:
    for folder in write_laboratories(tmp_path / "out"):
        divided = splits(folder)
        counts = {
            split: Counter(label for _, label in entries) for split, entries in divided.items()
        }
        assert counts == {
            split: dict.fromkeys(range(4), count)
            for split, count in (("training", 6), ("validation", 2), ("test", 2))
        }
        assert len({image for entries in divided.values() for image, _ in entries}) == 40


def test_the_seed_moves_the_splits_and_nothing_else(source: Path, tmp_path: Path) -> None:
    first, again, other = (
        write_laboratories(tmp_path / str(n), seed=seed)[0] for n, seed in enumerate((3, 3, 4))
    )
    assert splits(first) == splits(again) != splits(other)
    assert {*chain(*splits(first).values())} == {*chain(*splits(other).values())}


def test_splits_do_not_hang_on_the_order_of_the_list(source: Path, tmp_path: Path) -> None:
    first = splits(write_laboratories(tmp_path / "first")[0])
    head, *lines = (source / "labels.csv").read_text().splitlines()
    (source / "labels.csv").write_text("\n".join([head, *reversed(lines)]))
    assert splits(write_laboratories(tmp_path / "second")[0]) == first


def test_equal_photographs_are_taken_once(source: Path, tmp_path: Path) -> None:
    (source / "site_a" / "007.png").write_bytes((source / "site_a" / "003.png").read_bytes())
    (folder, _) = write_laboratories(tmp_path / "out")
    images = {image for entries in splits(folder).values() for image, _ in entries}
    assert len(images) == 39 and "images/003.png" in images and "images/007.png" not in images


def test_writing_again_leaves_nothing_stale(source: Path, tmp_path: Path) -> None:
    write_laboratories(tmp_path / "out")
    rmtree(source)
    write_source(tmp_path / "data", dict.fromkeys(CLASSES, 5))
    (folder, _) = write_laboratories(tmp_path / "out", seed=1)
    assert len(list((folder / "images").iterdir())) == 20


def test_an_interrupted_laboratory_is_written_again(source: Path, tmp_path: Path) -> None:
    def interrupted(done: int, total: int, text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_laboratories(tmp_path / "out", on_progress=interrupted)
    assert not (tmp_path / "out" / "laboratory-a" / "dataset.json").exists()
    assert len(write_laboratories(tmp_path / "out")) == 2


def test_a_folder_that_is_not_ours_is_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "laboratory-b").mkdir()
    (tmp_path / "laboratory-b" / "dataset.json").write_text("a laboratory's own")
    with pytest.raises(ConfigError, match="another folder"):
        write_laboratories(tmp_path)
    assert (tmp_path / "laboratory-b" / "dataset.json").read_text() == "a laboratory's own"
    assert not (tmp_path / "laboratory-a").exists()


def test_what_is_missing_is_said(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "site_b" / "000.png").unlink()
    with pytest.raises(ConfigError, match=r"000\.png"):
        write_laboratories(tmp_path / "out")
    for content in ("site,image\nsite_a,a.png\n", "", "site,image,label\nsite_a,,x\n"):
        (source / "labels.csv").write_text(content)
        with pytest.raises(ConfigError, match="every line needs site, image, label"):
            write_laboratories(tmp_path / "out")
    (source / "labels.csv").unlink()
    with pytest.raises(ConfigError, match=r"labels\.csv"):
        write_laboratories(tmp_path / "out")
    monkeypatch.delenv("POLYCLINIC_DATA")
    with pytest.raises(ConfigError, match="POLYCLINIC_DATA"):
        write_laboratories(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@real
def test_the_real_laboratories(tmp_path: Path) -> None:
    folders = write_laboratories(tmp_path)
    assert [folder.name for folder in folders] == ["laboratory-a", "laboratory-b", "laboratory-c"]
    data = load_job(JOB, {}).data
    found = [read_dataset(folder) for folder in folders]
    assert sum(len(dataset.cases) for dataset in found) == 735
    for dataset in found:
        assert check_dataset(dataset, data, deep=True) == []
        for cases in (dataset.training, dataset.validation, dataset.test):
            assert {case.label for case in cases} == {0, 1, 2, 3}
