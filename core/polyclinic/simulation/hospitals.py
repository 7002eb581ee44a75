"""Hospitals as a simulation is given them: folders, or data sets in memory."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from polyclinic.errors import ConfigError
from polyclinic.imaging.dataset_files import allow_images_in
from polyclinic.imaging.datasets import SPLITS, Case, SiteDataset
from polyclinic.security.kit import SITE_NAME
from polyclinic.system.durable import write_durably

Given = str | Path | Mapping[str, str | Path | SiteDataset] | Sequence[str | Path | SiteDataset]
LISTING = "dataset.json"


def name_hospitals(given: Given) -> dict[str, Path | SiteDataset]:
    """Name the hospitals, in the order in which they are given.

    Args:
        given: Folders with dataset.json, or data sets; by name, or named by the folder or the data
            set. One folder without a dataset.json of its own stands for all folders in it that
            have one.

    Raises:
        ConfigError: There is none, two have the same name, or a name cannot be a folder's.
    """
    pairs = list(_pairs(given))
    names = [name for name, _ in pairs]
    if not names:
        raise ConfigError(f"There are no hospitals: give folders that hold a {LISTING}.")
    for name in names:
        if not SITE_NAME.fullmatch(name):
            raise ConfigError(
                f"'{name}' cannot be the name of a hospital: letters, digits, '.', '_' and '-'."
            )
        if names.count(name) > 1:
            raise ConfigError(f"Two hospitals are called '{name}': give them as {{name: folder}}.")
    return {name: found if isinstance(found, SiteDataset) else Path(found) for name, found in pairs}


def _pairs(given: Given) -> Iterable[tuple[str, str | Path | SiteDataset]]:
    if isinstance(given, Mapping):
        return given.items()
    if isinstance(given, str | Path):
        folder = Path(given)
        inside = sorted(path.parent for path in folder.glob(f"*/{LISTING}"))
        return [(path.name, path) for path in ([folder] if is_hospital(folder) else inside)]
    return [
        (each.name if isinstance(each, SiteDataset) else Path(each).resolve().name, each)
        for each in given
    ]


def is_hospital(folder: Path) -> bool:
    """Tell whether a folder lists images."""
    return (folder / LISTING).is_file()


def write_dataset(dataset: SiteDataset, folder: Path) -> Path:
    """Write the dataset.json of a data set in memory; the images stay where they are.

    Args:
        dataset: What to list.
        folder: Where dataset.json goes.

    Returns:
        The folder.
    """
    listing: dict[str, Any] = {
        "name": dataset.name,
        "modality": _numbered(dataset.modality),
        "labels": _regions(dataset)
        if dataset.regions
        else _numbered(dataset.labels, dataset.label_values),
    }
    if dataset.stated_task is not None:
        listing["task"] = dataset.stated_task
    listing |= {
        split: [_entry(case, dataset) for case in getattr(dataset, split)] for split in SPLITS
    }
    allow_images_in(*{path.parent for case in dataset.cases for path in _files_of(case)})
    write_durably(folder / LISTING, json.dumps(listing, indent=1).encode())
    return folder


def _files_of(case: Case) -> list[Path]:
    return [*case.image, *([case.label] if isinstance(case.label, Path) else [])]


def _numbered(names: Sequence[str], numbers: Sequence[int] = ()) -> dict[str, str]:
    return {
        str(number): name for number, name in zip(numbers or range(len(names)), names, strict=True)
    }


def _regions(dataset: SiteDataset) -> dict[str, int | list[int]]:
    numbers = [[dataset.label_values[place] for place in region] for region in dataset.regions]
    return {"background": 0, **dict(zip(dataset.labels, numbers, strict=True))}


def _entry(case: Case, dataset: SiteDataset) -> dict[str, Any]:
    files = [str(path.resolve()) for path in case.image]
    label: Any = case.label
    if isinstance(case.label, Path):
        label = str(case.label.resolve())
    elif isinstance(case.label, tuple):
        known = [None if math.isnan(value) else value for value in case.label]
        label = dict(zip(dataset.labels, known, strict=True))
    elif dataset.label_values and case.label is not None:
        label = dataset.label_values[case.label]
    entry: dict[str, Any] = {"image": files, "label": label, "subject": case.subject}
    return {key: value for key, value in entry.items() if value not in (None, "")}
