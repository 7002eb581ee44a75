"""Tasks on real images, from a small made-up collection, and from the real one if it is there."""

from collections import Counter
from itertools import combinations
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from polyclinic.errors import ConfigError
from polyclinic.imaging.dataset_checks import check_dataset
from polyclinic.imaging.datasets import read_dataset
from polyclinic_demos.cohorts.laboratories import find_photographs
from polyclinic_demos.cohorts.task_sources import (
    CELLS,
    STRUCTURES,
    draw_cells,
    draw_chest,
    draw_public_cells,
    draw_public_chest,
    draw_structures,
)
from polyclinic_demos.cohorts.tasks import TaskCohort, write_tasks
from tests.demos.cohorts.test_task_volumes import write_source as write_volumes

pytestmark = pytest.mark.usefixtures("found")
IMAGES, PUBLIC, SIZE, EVERYTHING = (8, 4, 4), 24, 48, 100_000
NAMES = ["cells-a", "cells-b", "cells-c", "chest", "structures"]
SPLITS = ("training", "validation", "test")
MADE_UP_CODES = (4, 10, 17, 8, 16, 2, 3)  # one of each structure, and two that are none


def write_source(root: Path) -> None:
    values = np.random.default_rng(0)
    folders = {"white_blood_cells": "abc", "white_blood_cells_4th": "d"}
    for folder, letters in folders.items():
        lines = ["site,image,label"]
        for site in (f"site_{letter}" for letter in letters):
            (root / folder / site).mkdir(parents=True)
            for number in range(32):
                Image.fromarray(values.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(
                    root / folder / f"{site}/{number:03d}.png"
                )
                lines.append(f"{site},{site}/{number:03d}.png,{CELLS[number % 4]}")
        (root / folder / "labels.csv").write_text("\n".join(lines) + "\n")
    write_volumes(root)
    chest = {}
    for split, count in (("train", 40), ("val", 12), ("test", 12)):
        chest[f"{split}_images"] = values.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        chest[f"{split}_labels"] = (np.arange(count) % 3 > 0).astype(np.uint8)[:, None]
    chest["train_images"][5] = chest["test_images"][2]
    np.savez(root / "pneumoniamnist.npz", **chest)
    (root / "brain_label_maps").mkdir()
    for person in range(16):
        codes = np.zeros((40, 40, 40), np.int16)
        codes[6:34, 6:34, 6:34] = np.array(MADE_UP_CODES)[np.arange(28) % 7][:, None, None]
        codes[6 + person, 6, 6] = 517  # of the head
        nibabel.Nifti1Image(codes, np.diag([4.5, 4.5, 4.5, 1])).to_filename(
            root / f"brain_label_maps/training_seg_{person:02d}.nii.gz"
        )


def read(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.fixture(scope="module")
def cohort(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TaskCohort:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYCLINIC_DATA", str(data))
        return write_tasks(
            tmp_path_factory.mktemp("tasks"), images=IMAGES, public=PUBLIC, size=SIZE, names=NAMES
        )


def test_every_task_is_a_data_set_that_passes_every_check(cohort: TaskCohort) -> None:
    assert [folder.name for folder in cohort.hospitals] == [
        "cells-a",
        "cells-c",
        "chest",
        "structures",
    ]
    assert [folder.name for folder in cohort.held_out] == ["cells-b"]
    for folder in cohort.hospitals + cohort.held_out:
        dataset = read_dataset(folder)
        assert check_dataset(dataset, deep=True) == []
        splits = [dataset.training, dataset.validation, dataset.test]
        assert [len(cases) for cases in splits] == list(IMAGES)
        subjects = [{case.subject for case in cases} for cases in splits]
        assert all(subjects) and all(
            one.isdisjoint(other) for one, other in combinations(subjects, 2)
        )
        for case in dataset.cases:
            with Image.open(case.image[0]) as picture:
                assert (picture.mode, picture.size) == (
                    "RGB" if "cells" in folder.name else "L",
                    (SIZE, SIZE),
                )


def test_public_images_are_of_every_kind_and_of_no_hospital(cohort: TaskCohort) -> None:
    taken = {
        path.read_bytes()
        for folder in cohort.hospitals + cohort.held_out
        for path in (folder / "images").iterdir()
    }
    public = {path.read_bytes() for path in cohort.public.iterdir()}
    assert len(public) == PUBLIC and public.isdisjoint(taken)
    arrays = [read(path) for path in cohort.public.iterdir()]
    assert Counter(array.ndim for array in arrays) == {3: 5, 2: 19}
    chests = {
        drawn.pixels.tobytes() for drawn in draw_public_chest(0, IMAGES[0], PUBLIC // 4, SIZE)
    }
    assert len(chests) == 6 and chests <= {array.tobytes() for array in arrays}


def test_the_laboratory_that_is_apart_gives_nothing_away_and_is_mostly_for_the_test() -> None:
    public = {drawn.subject for drawn in draw_public_cells(0, EVERYTHING, SIZE)}
    splits = [
        {drawn.subject for drawn in draw_cells("laboratory-d", 0, split, EVERYTHING, SIZE)}
        for split in SPLITS
    ]
    assert sum(map(len, splits)) == len(find_photographs("white_blood_cells_4th"))
    assert len(splits[2]) > len(splits[0]) > len(splits[1]) > 0
    assert not [name for name in public if name.startswith("laboratory-d")]


def test_a_laboratory_gives_a_quarter_away_and_keeps_the_rest() -> None:
    given = {drawn.subject for drawn in draw_public_cells(0, EVERYTHING, SIZE)}
    photographs = find_photographs()
    for laboratory in ("laboratory-a", "laboratory-b", "laboratory-c"):
        kept = [
            drawn.subject
            for split in SPLITS
            for drawn in draw_cells(laboratory, 0, split, EVERYTHING, SIZE)
        ]
        everything = [
            f"{each.laboratory}/{each.source.stem}"
            for each in photographs
            if each.laboratory == laboratory
        ]
        assert len(kept) == len(set(kept)) and given.isdisjoint(kept)
        assert {*kept, *(name for name in given if name.startswith(laboratory))} == set(everything)
        assert abs(len(kept) - 0.75 * len(everything)) <= 2  # rounded for each of four classes


def test_chests_are_balanced_and_each_image_counts_once() -> None:
    seen: list[bytes] = []
    for split in SPLITS:
        drawn = list(draw_chest(0, split, EVERYTHING, SIZE))
        counts = Counter(each.label for each in drawn)
        assert counts[0] == counts[1] > 0
        seen += [each.pixels.tobytes() for each in drawn]
    seen += [each.pixels.tobytes() for each in draw_public_chest(0, EVERYTHING, EVERYTHING, SIZE)]
    assert len(seen) == len(set(seen))


def test_slices_of_real_brains_show_two_structures_at_least() -> None:
    drawn = list(draw_structures(0, "training", 12, SIZE))
    assert len({each.subject for each in drawn}) == 10
    shown = [set(np.unique(np.asarray(each.label))) - {0} for each in drawn]
    assert all(len(classes) >= 2 for classes in shown)
    assert set().union(*shown) == set(range(1, len(STRUCTURES) + 1))


def test_another_seed_deals_the_people_anew() -> None:
    tests = [
        {drawn.subject for drawn in draw_structures(seed, "test", 4, 16)} for seed in (0, 0, 1)
    ]
    assert tests[0] == tests[1] != tests[2]


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("pneumoniamnist.npz", "pneumonia"),
        ("brain_label_maps", "label maps"),
        ("white_blood_cells", "labels.csv"),
    ],
)
def test_what_is_missing_is_named(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, missing: str, message: str
) -> None:
    for each in data.iterdir():
        if each.name != missing:
            (tmp_path / each.name).symlink_to(each)
    monkeypatch.setenv("POLYCLINIC_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match=message):
        write_tasks(
            tmp_path / "out",
            images=(1, 1, 0),
            public=0,
            size=16,
            names=["cells-a", "chest", "structures"],
        )
