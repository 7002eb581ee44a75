"""`dataset.json` as text: read once, checked, and turned into a typed value. No other file is met.

Two layouts are read.

The Medical Segmentation Decathlon's, with the cases in lists:

    {"name": "...", "description": "...", "modality": {"0": "T1"},
     "labels": {"0": "background", "1": "tumour"},
     "training":   [{"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}],
     "validation": [{"image": ["images/b_T1.nii.gz", "images/b_T2.nii.gz"],
                     "label": "labels/b.nii.gz"}],
     "test":       [{"image": "images/c.nii.gz", "label": "labels/c.nii.gz"}, "images/d.nii.gz"]}

nnU-Net v2's, whose cases are the files of its folders, or stand under `dataset`:

    {"channel_names": {"0": "T1"}, "labels": {"background": 0, "tumour": 1},
     "numTraining": 32, "file_ending": ".nii.gz"}

Labels may be named by number or by name in both. Their numbers may have gaps (0, 1, 2, 4). Regions
that overlap are lists of numbers, as in nnU-Net:

    "labels": {"background": 0, "whole tumour": [1, 2, 4], "core": [1, 4], "enhancing": 4}

Where a case has no label map, its label is read by `polyclinic.imaging.listing.values`.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from polyclinic.config.tasks import KINDS, TaskName
from polyclinic.errors import DatasetInvalid
from polyclinic.imaging.listing.labels import LABELS, Labels, LabelsInvalid, read_labels
from polyclinic.imaging.listing.values import MAX_NAME, Values, read_values, shown

Split = Literal["training", "validation", "test"]
SPLITS: tuple[Split, ...] = ("training", "validation", "test")
MAX_JSON_BYTES = 64 * 2**20
MAX_CHANNELS = 1024
GUIDE = "Write it as the documentation on data sets describes."
VALUES = (
    'Write the names of the findings that there are, or {"name": 1, "other": 0}; of a regression '
    'the number, with "task": "regression".'
)


@dataclass(frozen=True)
class Entry:
    """One case as it is listed.

    Attributes:
        images: Files, relative to the folder: one, or one for each channel.
        label: File of the label map, number of the class, findings or numbers, or None.
        subject: The patient; empty if unknown.
    """

    images: tuple[str, ...]
    label: str | int | Values | None = None
    subject: str = ""


@dataclass(frozen=True)
class Listing:
    """What a dataset.json says.

    Attributes:
        name: Name of the data set; may be empty.
        modality: What each channel is.
        labels: Name of class 0, 1, ...; of each region, finding, or number.
        label_values: Number of each class in label maps; empty if they are 0, 1, 2, ...; with
            regions all numbers that may occur.
        cases: Cases of each split; None where the files of nnU-Net's folders are the cases.
        excluded: Images that are left out, as they are listed.
        file_ending: Of the files in nnU-Net's folders.
        task: As 'task' says; None if it does not say it.
        regions: Places in `label_values` that make each region; empty if there are none.
    """

    name: str
    modality: tuple[str, ...]
    labels: tuple[str, ...]
    label_values: tuple[int, ...]
    cases: Mapping[Split, tuple[Entry, ...]] | None
    excluded: frozenset[str] = field(default_factory=frozenset)
    file_ending: str = ".nii.gz"
    task: TaskName | None = None
    regions: tuple[tuple[int, ...], ...] = ()


def read_listing(path: Path) -> Listing:
    """Read and check a dataset.json.

    Raises:
        DatasetInvalid: It is missing, is not JSON, lacks something or holds something else.
    """
    return _Reader(path, _read_json(path)).read()


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise DatasetInvalid(path, f"is larger than {MAX_JSON_BYTES >> 20} MiB", GUIDE)
        # of bytes, `json` finds the encoding itself, with a byte-order mark or without
        tree = json.loads(path.read_bytes(), object_pairs_hook=_without_repeats)
    except FileNotFoundError as error:
        raise DatasetInvalid(
            path, "there is no such file", "Point to the folder that holds dataset.json."
        ) from error
    except OSError as error:
        raise DatasetInvalid(
            path, f"cannot be read ({error.strerror})", "Check the path and its permissions."
        ) from error
    except json.JSONDecodeError as error:
        raise DatasetInvalid(
            path, f"is not JSON: line {error.lineno}, {error.msg}", "Correct it."
        ) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise DatasetInvalid(path, "is not JSON in UTF-8", GUIDE) from error
    except ValueError as error:
        raise DatasetInvalid(
            path, f"is not JSON: {str(error)[:MAX_NAME]}", "Correct it."
        ) from error
    if not isinstance(tree, dict):
        raise DatasetInvalid(path, "is JSON, but not an object with keys", GUIDE)
    return tree


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:MAX_NAME]!r} stands twice in one object")
    return table


class _Reader:
    """Reads one tree; every method checks one part of it."""

    def __init__(self, path: Path, tree: Mapping[str, Any]) -> None:
        self.path, self.tree = path, tree

    def read(self) -> Listing:
        self.task = self._task()
        labels = self._labels()
        self.labels, self.values = labels.names, labels.values
        name = self.tree.get("name", "")
        modality = self._modality()
        cases: Mapping[Split, tuple[Entry, ...]] | None
        if "dataset" in self.tree:
            cases = {"training": tuple(self._nnunet_cases())}
        elif "file_ending" in self.tree and "training" not in self.tree:
            cases = None
        else:
            cases = {split: tuple(self._cases(split)) for split in SPLITS}
        plain = tuple(range(len(labels.values)))
        return Listing(
            self._text("'name'", name) if name else "",
            modality,
            labels.names,
            labels.values if labels.regions or labels.values != plain else (),
            cases,
            self._excluded(),
            self._text("'file_ending'", self.tree.get("file_ending", ".nii.gz")),
            self.task,
            labels.regions,
        )

    def _wrong(self, problem: str, remedy: str) -> DatasetInvalid:
        return DatasetInvalid(self.path, problem, remedy)

    def _text(self, where: str, value: object) -> str:
        """Return a text that can be shown: printable, and not long."""
        if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME:
            raise self._wrong(
                f"{where} is not a name of 1 to {MAX_NAME} characters", "Write a short text."
            )
        if not value.isprintable():
            raise self._wrong(f"{where} is not printable", "Write a text of plain characters.")
        return value

    def _table(self, key: str, remedy: str) -> Mapping[str, Any]:
        table = self.tree.get(key)
        if not isinstance(table, dict) or not table:
            raise self._wrong(f"'{key}' is missing or is not a table of names", remedy)
        return table

    def _modality(self) -> tuple[str, ...]:
        key = "channel_names" if "channel_names" in self.tree else "modality"
        remedy = f'Write "{key}": {{"0": "name", "1": "name"}}, numbered from 0 without gaps.'
        table = self._table(key, remedy)
        wanted = [str(number) for number in range(len(table))]
        if set(table) != set(wanted):
            raise self._wrong(f"'{key}' has the keys {shown(table)}", remedy)
        if len(table) > MAX_CHANNELS:
            raise self._wrong(f"'{key}' names {len(table)} channels", f"At most {MAX_CHANNELS}.")
        return tuple(self._text(f"'{key}' {number}", table[number]) for number in wanted)

    def _task(self) -> TaskName | None:
        """Return what 'task' says: a list of findings or a class is told apart without it."""
        found = self.tree.get("task")
        names = [name for name in KINDS if name != "own"]
        if found is not None and found not in names:
            raise self._wrong(
                f"'task' is {repr(found)[:MAX_NAME]}", f"Write one of {', '.join(names)}."
            )
        return found

    def _labels(self) -> Labels:
        """Return what 'labels' declares."""
        try:
            return read_labels(self._table("labels", LABELS), self.task)
        except LabelsInvalid as error:
            raise self._wrong(error.problem, error.remedy) from error

    def _cases(self, split: Split) -> Iterator[Entry]:
        entries = self.tree.get(split, [])
        if not isinstance(entries, list):
            raise self._wrong(
                f"'{split}' is not a list", 'Write a list of {"image": ..., "label": ...}.'
            )
        for number, entry in enumerate(entries):
            where = f"'{split}'[{number}]"
            table = {"image": entry} if isinstance(entry, str) and split == "test" else entry
            if not isinstance(table, dict) or "image" not in table:
                raise self._wrong(
                    f"{where} has no 'image'", 'Write {"image": "file", "label": "file"}.'
                )
            yield self._entry(where, table["image"], table, split != "test")

    def _entry(self, where: str, image: object, table: Mapping[str, Any], labelled: bool) -> Entry:
        files = image if isinstance(image, list) else [image]
        label = table.get("label")
        if not files or (label is None and labelled):
            missing = "label" if files else "image"
            raise self._wrong(f"{where} has no {missing}", "Add it, or remove the entry.")
        label = self._label(where, label)
        subject = table.get("subject", "")
        if not isinstance(subject, str | int) or len(str(subject)) > MAX_NAME:
            raise self._wrong(
                f"{where} has a 'subject' that is not a name",
                "Write a text, the same for all cases of a patient.",
            )
        return Entry(tuple(self._file(where, name) for name in files), label, str(subject))

    def _label(self, where: str, label: object) -> str | int | Values | None:
        """Return a file's name, the place of a class, or the values of findings or numbers."""
        if label is None:
            return None
        if self.task == "regression" or isinstance(label, list | dict):
            found = read_values(label, self.labels, self.task)
            if isinstance(found, str):
                raise self._wrong(f"{where} {found}", VALUES)
            return found
        if isinstance(label, int) and not isinstance(label, bool):
            if label not in self.values:
                raise self._wrong(
                    f"{where} has label {str(label)[:MAX_NAME]}",
                    f"'labels' declares {shown(self.values) or 'none as a number'}.",
                )
            return self.values.index(label)
        return self._file(where, label)

    def _nnunet_cases(self) -> Iterator[Entry]:
        """Read nnU-Net's explicit list: {"case": {"images": [...], "label": ...}}."""
        for name, table in self._table("dataset", GUIDE).items():
            where = f"'dataset' {name[:MAX_NAME]!r}"
            if not isinstance(table, dict) or "images" not in table:
                raise self._wrong(f"{where} has no 'images'", GUIDE)
            yield self._entry(where, table["images"], table, True)

    def _excluded(self) -> frozenset[str]:
        names = self.tree.get("excluded", [])
        if not isinstance(names, list):
            raise self._wrong("'excluded' is not a list", "Write a list of images' paths.")
        return frozenset(self._file("'excluded'", name) for name in names)

    def _file(self, where: str, name: object) -> str:
        if not isinstance(name, str) or not name or "\0" in name:
            raise self._wrong(
                f"{where} names a file as {repr(name)[:MAX_NAME]}",
                "Write its path, relative to dataset.json.",
            )
        return name
