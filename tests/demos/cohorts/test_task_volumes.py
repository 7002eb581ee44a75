"""Tasks on slices of volumes, of a small made-up collection, and of the real one if it is there."""

from collections import Counter
from itertools import combinations
from pathlib import Path

import nibabel
import numpy as np
import pytest

from polyclinic.errors import ConfigError
from polyclinic_demos.cohorts.task_images import Drawn
from polyclinic_demos.cohorts.task_list import find_tasks
from polyclinic_demos.cohorts.task_volumes import (
    draw_hippocampus_maps,
    draw_hippocampus_parts,
    draw_hippocampus_planes,
    draw_public_volumes,
    draw_tumour_maps,
    draw_tumours,
)

pytestmark = pytest.mark.usefixtures("found")
SPLITS = ("training", "validation", "test")
COUNT, SIZE = 40, 32
DRAWN = {
    "tumour": lambda split, seed=0: draw_tumours(("ht",), seed, split, COUNT, SIZE),
    "tumour-map": lambda split, seed=0: draw_tumour_maps(("du",), seed, split, COUNT, SIZE),
    "elsewhere": lambda split, seed=0: draw_tumours(("cs", "fg"), seed, split, COUNT, SIZE),
    "plane": lambda split, seed=0: draw_hippocampus_planes(seed, split, COUNT, SIZE),
    "map": lambda split, seed=0: draw_hippocampus_maps(seed, split, COUNT, SIZE),
    "part": lambda split, seed=0: draw_hippocampus_parts(seed, split, COUNT, SIZE),
}


def write_source(root: Path) -> None:
    """Write four hospitals of ten people with a tumour each, and forty hippocampi."""
    values = np.random.default_rng(0)
    for hospital in ("cs", "du", "fg", "ht"):
        for person in range(10):
            image = values.integers(60, 90, (24, 24, 12)).astype(np.float32)
            label = np.zeros((24, 24, 12), np.uint8)
            label[4:12, 6:12, 3:7] = 1
            write(root / "lgg_mri" / hospital, f"{hospital}-{person}", image + 90 * label, label)
    for person in range(40):
        image = values.integers(0, 3000, (20, 26, 18)).astype(np.float32)
        label = np.zeros((20, 26, 18), np.uint8)
        label[8:13, 6:12, 6:12], label[8:13, 14:20, 6:12] = 2, 1
        write(root / "hippocampus", f"hippocampus-{person}", image, label)


def write(folder: Path, name: str, image: np.ndarray, label: np.ndarray) -> None:
    for kind, content in (("images", image), ("labels", label)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        nibabel.Nifti1Image(content, np.eye(4)).to_filename(folder / kind / f"{name}.nii.gz")


def people(drawn: list[Drawn]) -> set[str]:
    return {each.subject for each in drawn}


def test_nobody_is_in_two_splits_or_two_tasks_or_public() -> None:
    groups = [people(list(draw(split))) for draw in DRAWN.values() for split in SPLITS]
    groups.append(people(list(draw_public_volumes(0, 4 * COUNT, SIZE))))
    assert all(groups) and all(one.isdisjoint(other) for one, other in combinations(groups, 2))


def test_no_image_is_drawn_twice() -> None:
    for draw in DRAWN.values():
        drawn = [each.pixels.tobytes() for split in SPLITS for each in draw(split)]
        assert len(drawn) == len(set(drawn))


@pytest.mark.parametrize(("task", "classes"), [("tumour", 2), ("elsewhere", 2), ("part", 3)])
def test_classes_are_balanced_to_within_one(task: str, classes: int) -> None:
    for split in SPLITS:
        counts = Counter(each.label for each in DRAWN[task](split))
        assert set(counts) == set(range(classes))
        assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize(("task", "parts"), [("tumour-map", 1), ("map", 2)])
def test_a_map_shows_every_part(task: str, parts: int) -> None:
    for each in DRAWN[task]("training"):
        assert isinstance(each.label, np.ndarray) and each.label.shape == (SIZE, SIZE)
        assert set(np.unique(each.label)) == set(range(parts + 1))


def test_images_are_grey_squares_and_the_seed_decides_them() -> None:
    for draw in DRAWN.values():
        first, again, other = (list(draw("test", seed)) for seed in (0, 0, 1))
        assert all(each.pixels.shape == (SIZE, SIZE) for each in first)
        assert all(each.pixels.dtype == np.uint8 for each in first)
        assert [each.pixels.tobytes() for each in first] == [
            each.pixels.tobytes() for each in again
        ]
        assert people(first) != people(other)


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYCLINIC_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match="lgg_mri/ht has 0 volumes"):
        list(draw_tumours(("ht",), 0, "test", 1, SIZE))
    with pytest.raises(ConfigError, match="hippocampus has 0 volumes"):
        list(draw_hippocampus_planes(0, "test", 1, SIZE))


def test_seven_tasks_on_real_images_take_part_and_others_are_held_out() -> None:
    tasks = [task for task in find_tasks(True) if task.real]
    assert sum(not task.held_out for task in tasks) == 7
    assert {"cells-d", "tumour-elsewhere", "hippocampus-part"} <= {
        task.name for task in tasks if task.held_out
    }
