"""Hospitals with different tasks, from which one encoder learns, and public images.

The public images belong to the coordinator and have no labels. `write_tasks(folder)` writes:

    folder/hospitals/<task>/dataset.json    training, validation and test, with the subject of each
                                            image
    folder/hospitals/<task>/images/001.png  and labels/001.png if the task is a segmentation
    folder/held-out/<task>/...              tasks on which no hospital trains
    folder/public/0001.png                  images only, shuffled
    folder/tasks.json                       settings of every folder, to reuse what is complete

No person, and no real image, is in two splits, in two hospitals, or in a hospital and the public
images.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from polyclinic.errors import ConfigError
from polyclinic.system.durable import write_atomically
from polyclinic_demos.cohorts.hospitals import SPLITS, Progress, stable_seed
from polyclinic_demos.cohorts.slices import Grey
from polyclinic_demos.cohorts.task_images import Drawn
from polyclinic_demos.cohorts.task_list import Task, draw_public, find_tasks
from polyclinic_demos.cohorts.writing import write_json

Images = tuple[int, int, int]  # training, validation, test

_FORMAT = 2  # raise this when the same settings give other images
_RECORD = "tasks.json"
_LEAST_SIZE = 16


@dataclass(frozen=True)
class TaskCohort:
    """Folders of a cohort.

    Attributes:
        hospitals: One folder for each task that takes part.
        held_out: One folder for each task on which no hospital trains.
        public: The coordinator's images.
        real: Names of the tasks whose images are real.
    """

    hospitals: tuple[Path, ...]
    held_out: tuple[Path, ...]
    public: Path
    real: tuple[str, ...] = ()


def write_tasks(
    folder: Path,
    *,
    seed: int = 0,
    size: int = 64,
    images: Images = (160, 48, 200),
    public: int = 1600,
    real: bool | None = None,
    names: Sequence[str] | None = None,
    on_progress: Progress | None = None,
) -> TaskCohort:
    """Write one folder per task and the public images.

    Folders that are complete with the same settings are reused.

    Args:
        folder: Parent of all folders; made if it does not exist.
        seed: Another seed gives other people, another choice of real images and other noise.
        size: Height and width of every image.
        images: Number of training, validation and test images of each task; of real images there
            may be fewer.
        public: Number of public images.
        real: Whether tasks on real images, from the folder `POLYCLINIC_DATA`, take part; by default
            if that is set.
        names: Names of the tasks to write; by default all.
        on_progress: Called with the number of images done, their total, and the last one's name.

    Raises:
        ConfigError: A setting is impossible, real data is missing, or a folder holds files of
            another origin.
        DiskFull: There is too little room.
    """
    real = bool(os.environ.get("POLYCLINIC_DATA")) if real is None else real
    _check(seed, size, images, public)
    tasks = _choose(names, find_tasks(real))
    folder = Path(folder).resolve()
    common = {"format": _FORMAT, "seed": seed, "size": size, "images": list(images)}
    wanted: dict[str, dict[str, Any]] = {task.place: common for task in tasks}
    wanted["public"] = {**common, "public": public, "real": real}
    record = _read_record(folder)
    todo = [
        place for place in wanted if not _complete(folder / place, record.get(place), wanted[place])
    ]
    _claim(folder, todo, record, wanted)
    total = len(tasks) * sum(images) + public
    left = sum(public if place == "public" else sum(images) for place in todo)
    report = _Report(on_progress, total, total - left)
    for task in tasks:
        if task.place in todo:
            count = _write_task(folder / task.place, task, seed, size, images, report)
            _conclude(folder, record, task.place, count)
    if "public" in todo:
        drawn = draw_public(seed, size, images[0], public, real)
        _write_public(folder / "public", drawn, public, seed, report)
        _conclude(folder, record, "public", public)
    hospitals = tuple(folder / task.place for task in tasks if not task.held_out)
    held_out = tuple(folder / task.place for task in tasks if task.held_out)
    taken = tuple(task.name for task in tasks if task.real)
    return TaskCohort(hospitals, held_out, folder / "public", taken)


def _choose(names: Sequence[str] | None, tasks: Sequence[Task]) -> list[Task]:
    if unknown := set(names or ()) - {task.name for task in tasks}:
        known = ", ".join(task.name for task in tasks)
        raise ConfigError(
            f"There is no task {', '.join(sorted(unknown))}; with these settings there are {known}."
        )
    return [task for task in tasks if names is None or task.name in names]


def _check(seed: int, size: int, images: Images, public: int) -> None:
    if seed < 0 or public < 0:
        raise ConfigError(
            f"Seed and number of public images must be at least 0, they are {seed} and {public}."
        )
    if len(images) != len(SPLITS) or min(images) < 0 or min(images[:2]) < 1:
        raise ConfigError(
            "Tasks need three numbers of images (training and validation at least 1, "
            f"test at least 0), {tuple(images)} were given."
        )
    if size < _LEAST_SIZE:
        raise ConfigError(
            f"Images must have at least {_LEAST_SIZE} pixels along each side, {size} were given."
        )


class _Report:
    """Counter of the images that are done."""

    def __init__(self, on_progress: Progress | None, total: int, done: int) -> None:
        self._on_progress, self._total, self._done = on_progress, total, done
        if done and on_progress is not None:
            on_progress(done, total, "already there")

    def __call__(self, count: int, text: str) -> None:
        self._done += count
        if self._on_progress is not None:
            self._on_progress(self._done, self._total, text)


def _write_task(
    folder: Path, task: Task, seed: int, size: int, images: Images, report: _Report
) -> int:
    """Write a task's images, then its dataset.json; return the number of images."""
    splits: dict[str, list[dict[str, str | int]]] = {split: [] for split in SPLITS}
    number = 0
    for split, count in zip(SPLITS, images, strict=True):
        for drawn in task.draw(seed, split, count, size):
            number += 1
            name = f"{number:03d}.png"
            write_atomically(folder / "images" / name, _png(drawn.pixels))
            label: str | int = drawn.label if isinstance(drawn.label, int) else f"labels/{name}"
            if not isinstance(drawn.label, int):
                write_atomically(folder / "labels" / name, _png(drawn.label))
            entry = {"image": f"images/{name}", "label": label, "subject": drawn.subject}
            splits[split].append(entry)
            report(1, f"{task.name}/{name}")
        report(count - len(splits[split]), f"{task.name}: {split}")
    write_json(folder / "dataset.json", {**_describe(task), **splits})
    return number


def _write_public(
    folder: Path, images: Iterator[Drawn], count: int, seed: int, report: _Report
) -> None:
    order = np.random.default_rng(stable_seed(seed, "public", "order")).permutation(count)
    folder.mkdir(parents=True, exist_ok=True)
    for place, drawn in zip(order, images, strict=True):
        name = f"{place + 1:04d}.png"
        write_atomically(folder / name, _png(drawn.pixels))
        report(1, f"public/{name}")


def _png(pixels: Grey) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def _describe(task: Task) -> dict[str, Any]:
    return {
        "name": task.name,
        "description": task.description,
        "modality": {str(number): name for number, name in enumerate(task.channels)},
        "labels": {str(number): name for number, name in enumerate(task.labels)},
        "tensorImageSize": "2D",
    }


def _complete(folder: Path, recorded: object, wanted: Mapping[str, Any]) -> bool:
    """Tell whether the record says so, and the files are there."""
    if not isinstance(recorded, dict) or not recorded.get("complete"):
        return False
    if recorded != {**wanted, "complete": recorded["complete"]}:
        return False
    images = "*.png" if folder.name == "public" else "images/*.png"
    described = folder.name == "public" or (folder / "dataset.json").is_file()
    return described and len(list(folder.glob(images))) == int(recorded["complete"])


def _claim(
    folder: Path, todo: Sequence[str], record: dict[str, Any], wanted: Mapping[str, dict[str, Any]]
) -> None:
    """Remove leftovers of an earlier call, and record which folders may be written again.

    A folder that was not written here is never touched.
    """
    for place in todo:
        if place not in record and (folder / place).exists():
            raise ConfigError(
                f"{folder / place} was not written by this program: "
                "choose another folder, or remove it."
            )
    for place in todo:
        record[place] = {**wanted[place], "complete": 0}
    if todo:
        write_json(folder / _RECORD, {"folders": record})
    for place in todo:
        (folder / place / "dataset.json").unlink(missing_ok=True)
        for leftover in (folder / place).glob("*.png"):
            leftover.unlink()
        for name in ("images", "labels"):
            shutil.rmtree(folder / place / name, ignore_errors=True)


def _conclude(folder: Path, record: dict[str, Any], place: str, count: int) -> None:
    record[place] = {**record[place], "complete": count}
    write_json(folder / _RECORD, {"folders": record})


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / _RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return dict(record["folders"])
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} was not written by this program: choose another folder, or remove it."
        ) from error
