"""Hospitals with different tasks.

What is on disk, who is in it, and that nobody is in two places.
"""

import json
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from polyclinic.errors import ConfigError
from polyclinic.imaging.dataset_checks import check_dataset
from polyclinic.imaging.datasets import SiteDataset, read_dataset
from polyclinic_demos.cohorts.task_images import BRAIN_TASKS, draw_brains, draw_public_brains
from polyclinic_demos.cohorts.tasks import TaskCohort, write_tasks

IMAGES, PUBLIC, SIZE = (6, 3, 3), 12, 32
SMALL = {
    "names": ["plane", "lesion-map"],
    "images": (3, 1, 1),
    "public": 3,
    "size": 16,
    "real": False,
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> TaskCohort:
    return write_tasks(
        tmp_path_factory.mktemp("tasks"), images=IMAGES, public=PUBLIC, size=SIZE, real=False
    )


def folders(cohort: TaskCohort) -> tuple[Path, ...]:
    return cohort.hospitals + cohort.held_out


def subjects(dataset: SiteDataset) -> list[set[str]]:
    return [
        {case.subject for case in cases}
        for cases in (dataset.training, dataset.validation, dataset.test)
    ]


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.png"))
    }


def pixels(path: Path) -> bytes:
    with Image.open(path) as picture:
        return np.asarray(picture).tobytes()


def test_every_task_is_a_data_set_that_passes_every_check(cohort: TaskCohort) -> None:
    assert [folder.name for folder in folders(cohort)] == list(BRAIN_TASKS)
    for folder in folders(cohort):
        dataset = read_dataset(folder)
        # in so few small images a class may be met nowhere
        notes = check_dataset(dataset, deep=True)
        assert [note for note in notes if not note.startswith("No case has")] == []
        assert (dataset.name, dataset.labels, dataset.modality) == (
            folder.name,
            BRAIN_TASKS[folder.name].labels,
            ("MR",),
        )
        assert (len(dataset.training), len(dataset.validation), len(dataset.test)) == IMAGES
        assert dataset.task == (
            "segmentation" if folder.name in {"tissue", "lesion-map"} else "classification"
        )
        for case in dataset.cases:
            with Image.open(case.image[0]) as picture:
                assert (picture.mode, picture.size) == ("L", (SIZE, SIZE))


def test_tasks_that_are_held_out_lie_apart(cohort: TaskCohort) -> None:
    assert [folder.name for folder in cohort.held_out] == ["position"]
    assert {folder.parent.name for folder in cohort.hospitals} == {"hospitals"}
    assert {folder.parent.name for folder in cohort.held_out} == {"held-out"}


def test_nobody_is_in_two_splits_or_two_hospitals_or_public(cohort: TaskCohort) -> None:
    groups = [group for folder in folders(cohort) for group in subjects(read_dataset(folder))]
    public = list(draw_public_brains(0, PUBLIC, SIZE))
    # these are the ones on disk
    assert {each.pixels.tobytes() for each in public} == {
        pixels(path) for path in cohort.public.iterdir()
    }
    groups.append({each.subject for each in public})
    assert all(groups) and all(one.isdisjoint(other) for one, other in combinations(groups, 2))


def test_public_images_are_numbered_pictures_and_nothing_else(cohort: TaskCohort) -> None:
    assert sorted(path.name for path in cohort.public.iterdir()) == [
        f"{number:04d}.png" for number in range(1, PUBLIC + 1)
    ]
    assert len(set(files(cohort.public).values())) == PUBLIC
    drawn = [each.pixels.tobytes() for each in draw_public_brains(0, PUBLIC, SIZE)]
    assert [pixels(path) for path in sorted(cohort.public.iterdir())] != drawn  # shuffled


def test_classes_are_balanced_to_within_one(cohort: TaskCohort) -> None:
    for folder in folders(cohort):
        dataset = read_dataset(folder)
        for cases in (
            (dataset.training, dataset.validation, dataset.test)
            if dataset.task == "classification"
            else ()
        ):
            counts = Counter(case.label for case in cases)
            assert (
                max(counts.values()) - min(counts[label] for label in range(len(dataset.labels)))
                <= 1
            )


@pytest.mark.parametrize(("task", "classes"), [("tissue", 4), ("lesion-map", 2)])
def test_label_maps_have_the_declared_classes_and_every_one_of_them(
    task: str, classes: int
) -> None:
    maps = [np.asarray(drawn.label) for drawn in draw_brains(task, 1, "training", 8, 48)]
    assert {value for each in maps for value in np.unique(each)} == set(range(classes))
    assert all(each.shape == (48, 48) and each.any() for each in maps)


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    for name, seed in (("first", 3), ("again", 3), ("other", 4)):
        write_tasks(tmp_path / name, seed=seed, **SMALL)
    first, again, other = (files(tmp_path / name) for name in ("first", "again", "other"))
    assert first == again and first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first if "labels/" not in name)
    assert (tmp_path / "first/tasks.json").read_bytes() == (
        tmp_path / "again/tasks.json"
    ).read_bytes()


def test_one_more_image_changes_no_other() -> None:
    few, more = (list(draw_brains("contrast", 0, "training", count, 16)) for count in (7, 8))
    for one, other in zip(few, more, strict=False):
        assert (one.subject, one.label) == (other.subject, other.label)
        np.testing.assert_array_equal(one.pixels, other.pixels)
    assert len({drawn.subject for drawn in few}) == 2  # a person has several images


def test_what_is_complete_is_reused_and_what_is_not_is_written_anew(tmp_path: Path) -> None:
    news: list[tuple[int, int, str]] = []
    cohort = write_tasks(tmp_path, **SMALL)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    write_tasks(tmp_path, on_progress=lambda *each: news.append(each), **SMALL)
    assert news == [(13, 13, "already there")]
    assert times == {
        path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()
    }
    before = files(tmp_path)
    (cohort.hospitals[0] / "images/002.png").unlink()
    write_tasks(tmp_path, on_progress=lambda *each: news.append(each), **SMALL)
    assert files(tmp_path) == before
    # the other task and the public images are kept
    assert news[1] == (8, 13, "already there") and news[-1][:2] == (13, 13)


def test_other_settings_leave_nothing_of_the_earlier_ones(tmp_path: Path) -> None:
    write_tasks(tmp_path, **SMALL)
    cohort = write_tasks(tmp_path, **{**SMALL, "images": (1, 1, 0), "public": 1})
    assert [len(list((folder / "images").iterdir())) for folder in cohort.hospitals] == [2, 2]
    assert (
        len(list((cohort.hospitals[1] / "labels").iterdir())) == 2
        and len(list(cohort.public.iterdir())) == 1
    )
    assert read_dataset(cohort.hospitals[0]).test == ()


@pytest.mark.parametrize("place", ["hospitals/plane/notes.txt", "public/mine.png", "tasks.json"])
def test_a_folder_of_somebody_else_is_refused_and_kept(tmp_path: Path, place: str) -> None:
    mine = tmp_path / place
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("[]")
    with pytest.raises(ConfigError, match="not written by this program"):
        write_tasks(tmp_path, **SMALL)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [
        mine
    ] and mine.read_text() == "[]"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": -1}, "at least 0"),
        ({"public": -1}, "at least 0"),
        ({"images": (1, 0, 1)}, "validation at least 1"),
        ({"size": 8}, "at least 16"),
        (
            {"names": ["plane", "nonsense"]},
            "no task nonsense; with these settings there are plane, contrast",
        ),
        ({"names": ["chest"]}, "no task chest"),
        ({"real": True}, "POLYCLINIC_DATA"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], message: str
) -> None:
    monkeypatch.delenv("POLYCLINIC_DATA", raising=False)
    with pytest.raises(ConfigError, match=message):
        write_tasks(tmp_path / "new", **{**SMALL, **settings})
    assert not (tmp_path / "new").exists()


def test_without_real_data_the_default_is_the_brains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POLYCLINIC_DATA", raising=False)
    write_tasks(tmp_path, **{**SMALL, "real": None})
    assert json.loads((tmp_path / "tasks.json").read_text())["folders"]["public"]["real"] is False
