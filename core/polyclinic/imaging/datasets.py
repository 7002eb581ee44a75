"""A hospital's data folder: its cases, as `dataset.json` lists them, and the files they name.

What may stand in a dataset.json is in `polyclinic.imaging.dataset_json`. Here its entries become
cases:

- Every file must lie in the folder, or in one that the hospital allows (`allow_images_in`).
- A patient with several cases is named in each of them: `"subject": "a"`.
- Without `validation`, a fifth of the training's patients is set apart, always the same ones.
- `test` may be missing or have no labels. A test then uses the validation cases
  (`evaluation_cases`).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from polyclinic.config.tasks import KINDS, TaskName
from polyclinic.errors import DatasetInvalid
from polyclinic.imaging.dataset_files import allowed_roots, find_file, list_folders, plain_path
from polyclinic.imaging.dataset_json import SPLITS, Entry, Listing, Split, read_listing
from polyclinic.imaging.listing.values import Values

__all__ = ["SPLITS", "Case", "SiteDataset", "Split", "evaluation_cases", "read_dataset"]

HELD_OUT = 5  # one of so many patients validates, where no list says which


@dataclass(frozen=True)
class Case:
    """One image of a patient, in one file or one for each channel, and what is known about it."""

    name: str
    image: tuple[Path, ...]
    label: Path | int | Values | None  # a label map, a class, findings or numbers
    split: Split
    subject: str = ""  # the patient, if dataset.json names one
    label_values: tuple[int, ...] = ()  # number of each class in the label map, if not 0, 1, 2, ...
    regions: tuple[tuple[int, ...], ...] = ()  # places in `label_values` that make each region


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
        labels: Name of class 0, 1, ...; of each region, finding, or number.
        training: Cases of the split.
        validation: Cases of the split.
        test: Cases of the split; labels may be missing.
        label_values: Number of each class in label maps; empty if they are 0, 1, 2, ...
        notes: What was decided while reading, one sentence each.
        stated_task: As 'task' says; None if it follows from the labels.
        regions: Places in `label_values` that make each region; empty if there are none.
    """

    folder: Path
    name: str
    modality: tuple[str, ...]
    labels: tuple[str, ...]
    training: tuple[Case, ...]
    validation: tuple[Case, ...]
    test: tuple[Case, ...]
    label_values: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    stated_task: TaskName | None = None
    regions: tuple[tuple[int, ...], ...] = ()

    @property
    def cases(self) -> tuple[Case, ...]:
        """All cases: training, validation, test."""
        return self.training + self.validation + self.test

    @cached_property
    def task(self) -> TaskName:
        """Task that the labels are for; a folder without any label counts as a segmentation."""
        if self.stated_task is not None:
            return self.stated_task
        if self.regions:
            return "regions"
        labels = [case.label for case in self.cases]
        if any(isinstance(label, int) for label in labels):
            return "classification"
        return "multilabel" if any(isinstance(label, tuple) for label in labels) else "segmentation"


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
        DatasetInvalid: `dataset.json` is missing, is not JSON, lacks something, or names a file
            outside of the folder.
        FileMissing: A file that it names does not exist.
    """
    folder = Path(folder)
    path = folder / "dataset.json"
    listing = read_listing(path)
    splits, notes = _find_cases(path, listing)
    if not any(splits.values()):
        raise DatasetInvalid(path, "no case is listed", "List the images under 'test'.")
    if labelled:
        if not splits["training"]:
            raise DatasetInvalid(
                path,
                "'training' is empty or missing",
                "List at least one case there; images without labels can only `join --describe`.",
            )
        if not splits["validation"]:
            splits, said = _hold_out(path, splits)
            notes.append(said)
    _check_kinds(path, splits, listing)
    return SiteDataset(
        folder,
        listing.name or folder.resolve().name,
        listing.modality,
        listing.labels,
        **_named_apart(splits, folder),
        label_values=listing.label_values,
        notes=tuple(notes),
        stated_task=listing.task,
        regions=listing.regions,
    )


def _check_kinds(path: Path, splits: Mapping[Split, tuple[Case, ...]], listing: Listing) -> None:
    """Refuse labels of several kinds, or of another kind than 'task' says."""
    labels = [case.label for cases in splits.values() for case in cases if case.label is not None]
    kinds = {_kind_of(label) for label in labels}
    if len(kinds) > 1:
        raise DatasetInvalid(
            path,
            f"some labels are {' and some are '.join(sorted(kinds))}",
            "Use one kind: files to segment, numbers to classify, lists of findings.",
        )
    task = listing.task or ("regions" if listing.regions else None)
    if task is not None and kinds - {_KINDS[task]}:
        raise DatasetInvalid(
            path,
            f"the task is {task}, and its labels are {', '.join(kinds)}",
            f"Give each case {KINDS[task].labelled_by}, or correct 'task'.",
        )


_KINDS = {
    "segmentation": "files",
    "regions": "files",
    "classification": "numbers",
    "multilabel": "findings or measured values",
    "regression": "findings or measured values",
}


def _kind_of(label: Path | int | Values) -> str:
    if isinstance(label, Path):
        return "files"
    return "numbers" if isinstance(label, int) else "findings or measured values"


def _find_cases(path: Path, listing: Listing) -> tuple[dict[Split, tuple[Case, ...]], list[str]]:
    """Return the cases whose files exist, without those that are to be left out."""
    roots = allowed_roots(path.parent)
    listed = listing.cases if listing.cases is not None else list_folders(path, listing)
    excluded = {plain_path(name) for name in listing.excluded}
    splits: dict[Split, tuple[Case, ...]] = {}
    left_out = 0
    for split in SPLITS:
        entries = listed.get(split, ())
        kept = [entry for entry in entries if excluded.isdisjoint(map(plain_path, entry.images))]
        left_out += len(entries) - len(kept)
        splits[split] = tuple(
            _make_case(path, entry, split, number, roots, listing)
            for number, entry in enumerate(kept)
        )
    said = [f"{left_out} case(s) are left out, as 'excluded' in dataset.json says."]
    return splits, said if excluded else []


def _make_case(
    path: Path,
    entry: Entry,
    split: Split,
    number: int,
    roots: tuple[Path, ...],
    listing: Listing,
) -> Case:
    where = f"'{split}'[{number}]"
    image = tuple(find_file(path, name, split, where, roots) for name in entry.images)
    label = (
        find_file(path, entry.label, split, where, roots)
        if isinstance(entry.label, str)
        else entry.label
    )
    mapped = (listing.label_values, listing.regions) if isinstance(label, Path) else ((), ())
    return Case(_stem(image[0]), image, label, split, entry.subject, *mapped)


def _hold_out(
    path: Path, splits: Mapping[Split, tuple[Case, ...]]
) -> tuple[dict[Split, tuple[Case, ...]], str]:
    """Set apart a fifth of the patients; which ones depends on their names alone."""
    whose = [(case.subject or _identity(case, path.parent), case) for case in splits["training"]]
    subjects = sorted(
        {subject for subject, _ in whose},
        key=lambda name: hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest(),
    )
    if len(subjects) < 2:
        raise DatasetInvalid(
            path,
            "'validation' is empty or missing, and 'training' has one patient alone",
            "List at least one case of another patient.",
        )
    chosen = set(subjects[: max(1, round(len(subjects) / HELD_OUT))])
    validation = tuple(
        replace(case, split="validation") for subject, case in whose if subject in chosen
    )
    training = tuple(case for subject, case in whose if subject not in chosen)
    said = (
        f"dataset.json lists no 'validation': {len(validation)} of {len(whose)} training cases "
        f"validate ({len(chosen)} of {len(subjects)} patients, chosen by their names)."
    )
    return {**splits, "training": training, "validation": validation}, said


def _identity(case: Case, folder: Path) -> str:
    path = case.image[0]
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _named_apart(
    splits: Mapping[Split, tuple[Case, ...]], folder: Path
) -> dict[Split, tuple[Case, ...]]:
    """Name cases after their whole path where file names repeat."""
    names = [case.name for cases in splits.values() for case in cases]
    if len(set(names)) == len(names):
        return dict(splits)
    return {
        split: tuple(_qualify(case, folder) for case in cases) for split, cases in splits.items()
    }


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rsplit(".", 1)[0]


def _qualify(case: Case, folder: Path) -> Case:
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
