"""A hospital's data folder: reads and checks `dataset.json`.

The format is that of the Medical Segmentation Decathlon:

    {"name": "...", "description": "...", "modality": {"0": "T1"},
     "labels": {"0": "background", "1": "tumour"},
     "training":   [{"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}],
     "validation": [{"image": ["images/b_T1.nii.gz", "images/b_T2.nii.gz"],
                     "label": "labels/b.nii.gz"}],
     "test":       [{"image": "images/c.nii.gz", "label": "labels/c.nii.gz"}, "images/d.nii.gz"]}

- A list of images holds one file for each channel.
- In a classification, `label` is the number of the class.
- A patient with several cases is named in each of them: `"subject": "a"`.
- `test` may be missing or have no labels. A test then uses the validation cases
  (`evaluation_cases`).
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from polyclinic.config.schemas import DataConfig
from polyclinic.errors import DatasetInvalid, FileMissing, ShapeMismatch
from polyclinic.imaging.headers import check_header

Split = Literal["training", "validation", "test"]
SPLITS: tuple[Split, ...] = ("training", "validation", "test")
MAX_JSON_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Case:
    """One image of a patient, in one file or one for each channel, and what is known about it."""

    name: str
    image: tuple[Path, ...]
    label: Path | int | None
    split: Split
    subject: str = ""  # the patient, if dataset.json names one


@dataclass(frozen=True)
class SiteDataset:
    """The content of a `dataset.json`.

    Example:
        ```python
        # a hospital with fewer cases
        dataset = polyclinic.read_dataset("data/st-mary")
        smaller = dataclasses.replace(dataset, training=dataset.training[:5])
        ```

    Attributes:
        folder: Where dataset.json lies.
        name: Name of the data set.
        modality: What each channel is.
        labels: Name of class 0, 1, ...
        training: Cases of the split.
        validation: Cases of the split.
        test: Cases of the split; labels may be missing.
    """

    folder: Path
    name: str
    modality: tuple[str, ...]
    labels: tuple[str, ...]
    training: tuple[Case, ...]
    validation: tuple[Case, ...]
    test: tuple[Case, ...]

    @property
    def cases(self) -> tuple[Case, ...]:
        """All cases: training, validation, test."""
        return self.training + self.validation + self.test

    @property
    def task(self) -> Literal["segmentation", "classification"]:
        """Task that the labels are for; a folder without any label counts as a segmentation."""
        return (
            "classification"
            if any(isinstance(case.label, int) for case in self.cases)
            else "segmentation"
        )


def read_dataset(folder: str | Path, *, labelled: bool = True) -> SiteDataset:
    """Read and check `dataset.json`, and check that the files it names exist.

    Example:
        ```python
        dataset = polyclinic.read_dataset("data/st-mary")
        print(len(dataset.training), dataset.labels)
        ```

    Args:
        folder: Folder with dataset.json.
        labelled: Whether labelled training and validation cases are required. A hospital that only
            describes itself needs none: it may list its images under 'test', without labels.

    Returns:
        The cases of each split; no image is read.

    Raises:
        DatasetInvalid: `dataset.json` is missing, is not JSON, or lacks something.
        FileMissing: A file that it names does not exist.
    """
    folder = Path(folder)
    path = folder / "dataset.json"
    tree = _read_json(path)
    labels = _read_names(path, tree, "labels")
    if len(labels) < 2 or len(set(labels)) != len(labels):
        raise DatasetInvalid(
            path, f"'labels' are {list(labels)}", "Name at least two classes, each differently."
        )
    splits = {split: tuple(_read_cases(path, tree, split, len(labels))) for split in SPLITS}
    for split in ("training", "validation") if labelled else ():
        if not splits[split]:
            raise DatasetInvalid(
                path,
                f"'{split}' is empty or missing",
                "List at least one case there; images without labels can only `join --describe`.",
            )
    if not any(splits.values()):
        raise DatasetInvalid(path, "no case is listed", "List the images under 'test'.")
    dataset = SiteDataset(
        folder,
        str(tree.get("name") or folder.name),
        _read_names(path, tree, "modality"),
        labels,
        **splits,
    )
    if len({isinstance(case.label, int) for case in dataset.cases if case.label is not None}) > 1:
        raise DatasetInvalid(
            path,
            "some labels are files and some are numbers",
            "Use one kind: files to segment, numbers to classify.",
        )
    names = [case.name for case in dataset.cases]
    if len(set(names)) < len(names):
        splits = {
            split: tuple(_qualify(case, folder) for case in cases)
            for split, cases in splits.items()
        }
        return SiteDataset(folder, dataset.name, dataset.modality, labels, **splits)
    return dataset


def _read_json(path: Path) -> Mapping[str, Any]:
    remedy = "Write it as the documentation on data sets describes."
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise DatasetInvalid(path, f"is larger than {MAX_JSON_BYTES >> 20} MiB", remedy)
        tree = json.loads(path.read_text(encoding="utf-8"))
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
        raise DatasetInvalid(path, "is not JSON in UTF-8", remedy) from error
    if not isinstance(tree, dict):
        raise DatasetInvalid(path, "is JSON, but not an object with keys", remedy)
    return tree


def _read_names(path: Path, tree: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Return the names of {"0": name, "1": name, ...}, in order."""
    remedy = f'Write "{key}": {{"0": "name", "1": "name"}}, numbered from 0 without gaps.'
    names = tree.get(key)
    if not isinstance(names, dict) or not names:
        raise DatasetInvalid(path, f"'{key}' is missing or is not a table of names", remedy)
    wanted = [str(number) for number in range(len(names))]
    if set(names) != set(wanted):
        raise DatasetInvalid(path, f"'{key}' has the keys {', '.join(map(str, names))}", remedy)
    if not all(isinstance(name, str) and name for name in names.values()):
        raise DatasetInvalid(path, f"'{key}' holds something that is not a name", remedy)
    return tuple(names[number] for number in wanted)


def _read_cases(path: Path, tree: Mapping[str, Any], split: Split, classes: int) -> Iterator[Case]:
    entries = tree.get(split, [])
    if not isinstance(entries, list):
        raise DatasetInvalid(
            path, f"'{split}' is not a list", 'Write a list of {"image": ..., "label": ...}.'
        )
    for number, entry in enumerate(entries):
        where = f"'{split}'[{number}]"
        table = {"image": entry} if isinstance(entry, str) and split == "test" else entry
        if not isinstance(table, dict) or "image" not in table:
            raise DatasetInvalid(
                path, f"{where} has no 'image'", 'Write {"image": "file", "label": "file"}.'
            )
        files = table["image"] if isinstance(table["image"], list) else [table["image"]]
        image = tuple(_find(path, name, split, where) for name in files)
        label = table.get("label")
        if not image or (label is None and split != "test"):
            raise DatasetInvalid(
                path,
                f"{where} has no {'label' if image else 'image'}",
                "Add it, or remove the entry.",
            )
        if isinstance(label, int) and not isinstance(label, bool):
            if not 0 <= label < classes:
                raise DatasetInvalid(
                    path, f"{where} has label {label}", f"'labels' declares 0 to {classes - 1}."
                )
        elif label is not None:
            label = _find(path, label, split, where)
        subject = table.get("subject", "")
        if not isinstance(subject, str | int):
            raise DatasetInvalid(
                path,
                f"{where} has a 'subject' that is not a name",
                "Write a text, the same for all cases of a patient.",
            )
        yield Case(_stem(image[0]), image, label, split, str(subject))


def _find(path: Path, name: object, split: str, where: str) -> Path:
    """Return the file that an entry names, relative to the folder."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise DatasetInvalid(
            path, f"{where} names a file as {name!r}", "Write its path, relative to dataset.json."
        )
    found = path.parent / name
    try:
        exists = found.is_file()
    except OSError as error:
        raise DatasetInvalid(
            path,
            f"{where} names a file that cannot be reached ({error.strerror})",
            "Correct the path.",
        ) from error
    if not exists:
        raise FileMissing(found, split)
    return found


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rsplit(".", 1)[0]


def _qualify(case: Case, folder: Path) -> Case:
    """Name a case after its whole path, where file names repeat."""
    path = case.image[0]
    inside = path.relative_to(folder) if path.is_relative_to(folder) else path
    name = "_".join(
        (*(piece for piece in inside.parent.parts if piece not in ("..", "/")), _stem(path))
    )
    return replace(case, name=name)


def evaluation_cases(dataset: SiteDataset, split: Split = "test") -> tuple[Case, ...]:
    """Return the labelled cases of a split; without any, the validation cases.

    The cases themselves say which split they are from.
    """
    cases: tuple[Case, ...] = getattr(dataset, split)
    labelled = tuple(case for case in cases if case.label is not None)
    return labelled or dataset.validation


def check_dataset(
    dataset: SiteDataset,
    data: DataConfig | None = None,
    *,
    deep: bool = False,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> list[str]:
    """Check every case: raise the first fault, return what is only unusual.

    Args:
        dataset: From `read_dataset`.
        data: What the federation expects; without it, only what `dataset.json` promises is checked.
        deep: Read the voxels too, not only the headers.
        on_progress: Called with (number of cases done, number of cases, name of the case).

    Returns:
        Warnings, one sentence each.

    Raises:
        DatasetInvalid: Labels, task or channels differ from those in `data`.
        DataError: The first faulty file, by its type.
    """
    if data is not None:
        check_agreement(dataset, data)
    warnings = _check_overlap(dataset)
    if dataset.validation and not any(case.label is not None for case in dataset.test):
        warnings.append("There are no test cases with labels: tests use the validation cases.")
    for number, case in enumerate(dataset.cases, start=1):
        warnings += _check_case(dataset, case, data, deep)
        if on_progress is not None:
            on_progress(number, len(dataset.cases), case.name)
    return warnings


def check_agreement(dataset: SiteDataset, data: DataConfig) -> None:
    """Check that labels, task and channels are those of the federation.

    Raises:
        DatasetInvalid: One of them differs.
    """
    path = dataset.folder / "dataset.json"
    if dataset.labels != data.labels:
        problem = f"its labels are {list(dataset.labels)}, the federation's are {list(data.labels)}"
        raise DatasetInvalid(path, problem, "Give both the same names in the same order.")
    if dataset.task != data.task:
        problem = f"its labels make a {dataset.task}, the federation's task is {data.task}"
        raise DatasetInvalid(path, problem, "Use files as labels to segment, numbers to classify.")
    if len(dataset.modality) != data.channels:
        problem = (
            f"'modality' names {len(dataset.modality)} channel(s), "
            f"the federation's images have {data.channels}"
        )
        raise DatasetInvalid(path, problem, "Name one modality for each channel.")


def _check_overlap(dataset: SiteDataset) -> list[str]:
    seen: dict[tuple[Path, ...], Case] = {}
    warnings = []
    for case in dataset.cases:
        first = seen.setdefault(tuple(path.resolve() for path in case.image), case)
        if first is not case:
            warnings.append(
                f"{case.name}: listed under '{first.split}' and again under '{case.split}'."
            )
    return warnings


def _check_case(dataset: SiteDataset, case: Case, data: DataConfig | None, deep: bool) -> list[str]:
    headers = [check_header(path) for path in case.image]
    channels = data.channels if data else len(dataset.modality)
    dims = data.spatial_dims if data else 2
    found = sum(header.channels for header in headers)
    pictures = any(header.nifti is None for header in headers)  # they become grey or RGB
    if found != channels and not pictures:
        who = "the federation expects" if data else "'modality' names"
        problem = f"{case.image[0].name} has {found} channel(s), but {who} {channels}"
        raise DatasetInvalid(
            dataset.folder / "dataset.json",
            problem,
            "Correct 'modality', or list one file for each channel.",
        )
    check_grids(case)
    if not deep:
        return []
    return _check_voxels(dataset, case, channels, dims)


def _check_voxels(dataset: SiteDataset, case: Case, channels: int, dims: int) -> list[str]:
    # volumes needs torch, which the other checks do without
    from polyclinic.imaging.volumes import read_image, read_label

    warnings = []
    image = read_image(case.image, channels, dims)
    if float(image.min()) == float(image.max()):
        warnings.append(f"{case.name}: all voxels of the image are equal.")
    if isinstance(case.label, Path) and not bool(read_label(case.label, len(dataset.labels)).any()):
        warnings.append(f"{case.name}: the label map is empty.")
    return warnings


def check_grids(case: Case) -> None:
    """Check that an image and its label map lie on the same grid.

    Raises:
        ShapeMismatch: They do not.
    """
    if not isinstance(case.label, Path):
        return
    image, label = check_header(case.image[0]), check_header(case.label)
    # the affine of a picture cannot be compared with that of a NIfTI
    mixed = (label.nifti is None) != (image.nifti is None)
    if not (label.grid.shape == image.grid.shape if mixed else label.grid.matches(image.grid)):
        raise ShapeMismatch(case.image[0], str(image.grid), case.label, str(label.grid))
