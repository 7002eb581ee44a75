"""Three real laboratories: photographs of white blood cells, with different stains and cameras.

`write_laboratories(folder)` copies from the folder `white_blood_cells` in `POLYCLINIC_DATA`, whose
`labels.csv` has the columns site, image and label, and writes what a laboratory would have:

    folder/laboratory-a/dataset.json       the classes as numbers; 60, 20 and 20 of 100 images of
                                           each class are for training, validation and test
    folder/laboratory-a/images/001.png
    folder/laboratories.json               names of the folders that may be written again
"""

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from polyclinic.errors import ConfigError
from polyclinic.system.durable import write_atomically
from polyclinic_demos.cohorts.hospitals import stable_seed
from polyclinic_demos.cohorts.real_data import find_data
from polyclinic_demos.cohorts.writing import write_json

SHARES = {"training": 0.6, "validation": 0.2, "test": 0.2}
PHOTOGRAPHS = "white_blood_cells"  # folder of the three laboratories
COLUMNS = ("site", "image", "label")

Progress = Callable[[int, int, str], None]  # number of images done, their total, the last one

_RECORD = "laboratories.json"


@dataclass(frozen=True)
class Photograph:
    """Photograph of one cell."""

    laboratory: str
    source: Path
    label: str


def write_laboratories(
    folder: Path, *, seed: int = 0, on_progress: Progress | None = None
) -> list[Path]:
    """Write one folder per laboratory.

    Args:
        folder: Parent of the laboratories' folders; made if it does not exist. Results of an
            earlier call are written again.
        seed: Another seed divides the images into other splits; the images stay the same.
        on_progress: Called after every image.

    Returns:
        The folders, in the order of their names.

    Raises:
        ConfigError: `POLYCLINIC_DATA` is unset or has no such images, or a laboratory's folder
            holds files of another origin.
        DiskFull: There is too little room.
    """
    photographs = find_photographs()
    folder = Path(folder).resolve()
    names = sorted({each.laboratory for each in photographs})
    labels = sorted({each.label for each in photographs})
    _claim(folder, names)
    done = 0
    for name in names:
        mine = [each for each in photographs if each.laboratory == name]
        splits = {
            split: [_entry(each, labels) for each in chosen]
            for split, chosen in _divide(mine, labels, seed).items()
        }
        for each in mine:
            write_atomically(folder / name / "images" / each.source.name, each.source.read_bytes())
            done += 1
            if on_progress is not None:
                on_progress(done, len(photographs), f"{name}/{each.source.name}")
        write_json(folder / name / "dataset.json", {**_describe(name, labels), **splits})
    return [folder / name for name in names]


def find_photographs(folder: str = PHOTOGRAPHS) -> list[Photograph]:
    """Find the images that `labels.csv` lists, each once.

    A copy could be in training and in test.

    Args:
        folder: Name of the folder of images in `POLYCLINIC_DATA`.

    Raises:
        ConfigError: `POLYCLINIC_DATA` is unset or has no such images.
    """
    unset = f"The laboratories need POLYCLINIC_DATA: set it to the folder that holds {folder}/."
    home = find_data(unset) / folder
    try:
        with (home / "labels.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(
            f"{home}: there is no readable labels.csv. "
            "Set POLYCLINIC_DATA to the folder that holds it."
        ) from error
    if not rows or not all(row.get(column) for row in rows for column in COLUMNS):
        raise ConfigError(
            f"{home}/labels.csv: every line needs {', '.join(COLUMNS)}. Get the file again."
        )
    found = [
        Photograph(row["site"].replace("site_", "laboratory-"), home / row["image"], row["label"])
        for row in rows
    ]
    if missing := [each.source for each in found if not each.source.is_file()]:
        raise ConfigError(
            f"{missing[0]}: labels.csv lists this image, but it does not exist. "
            "Get the folder again."
        )
    distinct: dict[bytes, Photograph] = {}
    for each in found:
        distinct.setdefault(sha256(each.source.read_bytes()).digest(), each)
    return list(distinct.values())


def _claim(folder: Path, names: Sequence[str]) -> None:
    """Remove leftovers of an earlier call, and record which folders may be written again.

    A folder that was not written here is never touched.
    """
    ours = _read_record(folder)
    for name in names:
        if name not in ours and (folder / name).exists():
            raise ConfigError(
                f"{folder / name} was not written by this program: "
                "choose another folder, or remove it."
            )
    write_json(folder / _RECORD, {"laboratories": sorted({*ours, *names})})
    for name in names:
        (folder / name / "dataset.json").unlink(missing_ok=True)
        shutil.rmtree(folder / name / "images", ignore_errors=True)


def _read_record(folder: Path) -> list[str]:
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        return [str(name) for name in record["laboratories"]]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return []


def _divide(
    photographs: Sequence[Photograph], labels: Sequence[str], seed: int
) -> dict[str, list[Photograph]]:
    """Divide each class by the shares.

    The order depends only on the seed and the image's name.
    """
    splits: dict[str, list[Photograph]] = {split: [] for split in SHARES}
    for label in labels:
        pool = [each for each in photographs if each.label == label]
        pool.sort(key=lambda each: stable_seed(seed, each.laboratory, each.source.name))
        validation, test = (round(SHARES[split] * len(pool)) for split in ("validation", "test"))
        training = len(pool) - validation - test
        splits["training"] += pool[:training]
        splits["validation"] += pool[training : training + validation]
        splits["test"] += pool[training + validation :]
    return {
        split: sorted(part, key=lambda each: each.source.name) for split, part in splits.items()
    }


def _entry(photograph: Photograph, labels: Sequence[str]) -> dict[str, str | int]:
    return {"image": f"images/{photograph.source.name}", "label": labels.index(photograph.label)}


def _describe(name: str, labels: Sequence[str]) -> dict[str, object]:
    return {
        "name": name,
        "description": "Photographs of white blood cells, one cell each.",
        "modality": {"0": "red", "1": "green", "2": "blue"},
        "labels": {str(number): label for number, label in enumerate(labels)},
        "tensorImageSize": "2D",
    }
