"""The part of `polyclinic-client check` that looks at the data folder."""

import json
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from polyclinic.config.mirroring import labels_of_sides
from polyclinic.errors import DataError
from polyclinic.imaging.dataset_checks import check_dataset
from polyclinic.imaging.datasets import Case, SiteDataset
from polyclinic.system.text import clean_lines
from polyclinic_client.dicom.importing.record import read_record


def describe_dataset(dataset: SiteDataset) -> str:
    """Describe what dataset.json lists, as Rich's markup."""
    counts = (
        f"{len(dataset.training)} training, {len(dataset.validation)} validation, "
        f"{len(dataset.test)} test cases"
    )
    channels = ", ".join(dataset.modality)
    labels = ", ".join(
        f"{name} ({numbers})" if numbers else name
        for name, numbers in zip(dataset.labels, _numbers(dataset), strict=True)
    )
    return escape(f"{dataset.name}, {dataset.task}, {counts}; channels {channels}; labels {labels}")


def _numbers(dataset: SiteDataset) -> list[str]:
    """Return what stands for each label in label maps, where it is not 0, 1, 2, ..."""
    values = dataset.label_values
    if dataset.regions:
        return [" ".join(str(values[place]) for place in region) for region in dataset.regions]
    return list(map(str, values)) or [""] * len(dataset.labels)


def describe_origin(folder: Path) -> str:
    """Describe where a data folder that was imported from DICOM came from, and what was left out.

    Raises:
        DatasetInvalid: Its record is damaged.
    """
    record = read_record(folder)
    return "\n       ".join(record.sentences()) if record is not None else "not from DICOM"


def check_images(dataset: SiteDataset | None, deep: bool, console: Console) -> str:
    """Look at every case, print what is unusual and every fault, and raise the first fault.

    Raises:
        DataError: The first faulty file, by its type.
    """
    if dataset is None:
        return "not looked at"
    faults: dict[Case, DataError] = {}
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("reading", total=len(dataset.cases))
        notes = check_dataset(
            dataset,
            deep=deep,
            on_progress=lambda done, _total, name: progress.update(
                task, completed=done, description=escape(name)
            ),
            on_fault=faults.__setitem__,
        )
    if sides := labels_of_sides(dataset.labels):
        notes.append(
            f"Labels name a side ({', '.join(sides[:2])}): training does not flip images left to "
            "right, unless the coordinator sets data.mirroring=on."
        )
    for note in notes:
        _print(console, "[yellow]note[/yellow]   ", note)
    if faults:
        first, *others = faults.values()
        for error in others:
            _print(console, "[red]wrong[/red]  images: ", str(error))
        names = json.dumps([_listed(case, dataset.folder) for case in faults])
        _print(
            console,
            "[yellow]note[/yellow]   ",
            f"{len(faults)} of {len(dataset.cases)} cases are faulty. To join without them, write "
            f'into dataset.json: "excluded": {names}',
        )
        raise first
    return f"all {len(dataset.cases)} cases " + (
        "read, every voxel" if deep else "have sound headers (without --quick every voxel is read)"
    )


def _listed(case: Case, folder: Path) -> str:
    """Return a case's first file as dataset.json may name it."""
    path = case.image[0]
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _print(console: Console, head: str, text: str) -> None:
    console.print(head, end="")
    console.print(clean_lines(text), markup=False)
