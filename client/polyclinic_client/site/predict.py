"""`polyclinic-client predict`: a model on image files."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track
from torch import nn

from polyclinic.config.schemas import JobConfig
from polyclinic.errors import ConfigError, DataError
from polyclinic.imaging.image_files import SUFFIXES, check_header
from polyclinic.imaging.volumes import write_label_map
from polyclinic.learning.model_file import load_model
from polyclinic.learning.prediction import predict_label_map, predict_values
from polyclinic.learning.tasks.registry import task_of
from polyclinic.system.durable import file_digest, replacing, write_durably
from polyclinic.system.text import parse_json
from polyclinic_client.result_names import name_results

MADE = ".made.json"  # in the results' folder: which model made which label map of which image
TABLE = "predictions.csv"
HEADINGS = {"classification": "class", "multilabel": "findings"}  # of what is found
OnLabelMap = Callable[[Path, Path, Sequence[str]], None]


@dataclass(frozen=True)
class Subject:
    """What is predicted at once: one file, or one for each channel."""

    files: tuple[Path, ...]
    stem: str  # name of the result


def predict_files(
    model: Path,
    images: Sequence[Path],
    out: Path,
    console: Console,
    names: Mapping[Path, str] | None = None,
    on_label_map: OnLabelMap | None = None,
) -> None:
    """Write one result for each image; go on after an image that is faulty.

    A label map that the same model made of the same image is left alone.

    Args:
        model: File of the model.
        images: Files; a folder stands for the images in it. A model of several channels takes as
            many files of one channel for each result, in the order of its channels.
        out: Folder of the results.
        console: Told what was done.
        names: What an image is called in a table, where it is not its path.
        on_label_map: Called for each label map that is there, with the image's first file, the
            label map's, and the names of its classes.

    Raises:
        ConfigError: Two images would write the same result, the model is an encoder alone, or
            `out` holds label maps that another model made, or other images.
        DataError: The typed fault of the first faulty image, after all others are done.
    """
    network, job = load_model(model)
    if job.data.task == "own":
        raise ConfigError(
            f"{model}: a network without a head. Use what a hospital keeps in its state folder: "
            "runs/RUN/STRATEGY."
        )
    subjects = _group(_files_of(images), job, console)
    out.mkdir(parents=True, exist_ok=True)
    faults: list[DataError] = []
    if job.data.kind.per_voxel:
        if on_label_map is not None and job.data.task == "regions":
            raise ConfigError(
                "DICOM SEG cannot be written for a model of regions that overlap: predict NIfTI "
                "files."
            )
        made = _Made(out, file_digest(model))
        _segment(network, job, subjects, made, console, faults, on_label_map)
    else:
        _tabulate(network, job, subjects, out, console, faults, names or {})
    if faults:
        console.print(f"{len(faults)} of {len(subjects)} images could not be read", style="red")
        raise faults[0]


def _files_of(images: Sequence[Path]) -> list[Path]:
    """Return the files, and in a folder's place the images in it."""
    found: list[Path] = []
    for image in images:
        if not image.is_dir():
            found.append(image)
            continue
        inside = sorted(
            path
            for path in image.iterdir()
            if path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")
        )
        if not inside:
            raise ConfigError(
                f"{image}: there is no image in this folder, neither NIfTI nor a DICOM series."
            )
        found += inside
    return found


def _group(files: Sequence[Path], job: JobConfig, console: Console) -> list[Subject]:
    """Join the files that are channels of one image, and say which file is taken for which."""
    channels = job.data.channels
    if channels == 1 or not _one_channel_each(files):
        names = name_results(files)
        return [Subject((path,), stem) for path, stem in zip(files, names, strict=True)]
    if len(files) % channels:
        raise ConfigError(
            f"The model takes {channels} channels, each in a file of its own here, and "
            f"{len(files)} files are no multiple of that: name the files of one image after "
            f"another, each time in the order {_channel_names(job)}."
        )
    groups = [tuple(files[at : at + channels]) for at in range(0, len(files), channels)]
    names = name_results([group[0] for group in groups])
    for group, stem in zip(groups, names, strict=True):
        taken = ", ".join(
            f"{name} {path.name}"
            for name, path in zip(_channel_names(job).split(", "), group, strict=True)
        )
        console.print(f"{stem}: {taken}", markup=False)
    return [Subject(group, stem) for group, stem in zip(groups, names, strict=True)]


def _one_channel_each(files: Sequence[Path]) -> bool:
    """Tell whether the files that can be read are NIfTI volumes of one channel."""
    found = []
    for path in files:
        try:
            header = check_header(path)
        except DataError:  # said when it is its turn
            continue
        found.append(header.nifti is not None and header.channels == 1)
    return bool(found) and all(found)


def _channel_names(job: JobConfig) -> str:
    names = job.data.modality or [f"channel {n}" for n in range(job.data.channels)]
    return ", ".join(names)


class _Made:
    """The list of label maps in a folder, with what each was made of."""

    def __init__(self, folder: Path, model: str) -> None:
        self.folder, self._model = folder, model
        self._path = folder / MADE
        try:
            found = parse_json(self._path.read_bytes())
        except (OSError, ValueError):
            found = {}
        self._known: dict[str, object] = found if isinstance(found, dict) else {}

    def target(self, subject: Subject) -> Path:
        """Return the file of a result."""
        return self.folder / f"{subject.stem}.nii.gz"

    def is_made(self, subject: Subject) -> bool:
        """Tell whether the result is there.

        Raises:
            ConfigError: It is there, and was made by another model or of another image.
        """
        if not self.target(subject).exists():
            return False
        known = self._known.get(subject.stem)
        if known is not None and known != self._origin(subject):
            raise ConfigError(
                f"{self.target(subject)} was made by another model, or of another image of that "
                "name. Choose another --out, or remove it."
            )
        return True

    def note(self, subject: Subject) -> None:
        """Note what a result was made of."""
        self._known[subject.stem] = self._origin(subject)
        write_durably(self._path, json.dumps(self._known, indent=1))

    def _origin(self, subject: Subject) -> Mapping[str, object]:
        return {"model": self._model, "images": [file_digest(path) for path in subject.files]}


@contextmanager
def _fault_told(faults: list[DataError], console: Console) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        console.print(str(error), style="red", markup=False)
        faults.append(error)


def _segment(
    network: nn.Module,
    job: JobConfig,
    subjects: Sequence[Subject],
    made: _Made,
    console: Console,
    faults: list[DataError],
    on_label_map: OnLabelMap | None,
) -> None:
    waiting = []
    for subject in subjects:
        with _fault_told(faults, console):
            for path in subject.files:
                check_header(path)
            if made.is_made(subject):
                console.print(f"{made.target(subject)} exists, left alone", markup=False)
                _tell(on_label_map, subject, made, job)
            else:
                waiting.append(subject)
    for subject in track(waiting, description="segmenting", console=console):
        with _fault_told(faults, console):
            labels, header = predict_label_map(network, subject.files, job.data)
            write_label_map(made.target(subject), labels, header)
            made.note(subject)
            _tell(on_label_map, subject, made, job)
    done = len(subjects) - len(faults)
    console.print(f"{done} label maps in {made.folder}: {_legend(job)}", markup=False)


def _tell(on_label_map: OnLabelMap | None, subject: Subject, made: _Made, job: JobConfig) -> None:
    if on_label_map is not None:
        on_label_map(subject.files[0], made.target(subject), job.data.labels)


def _tabulate(
    network: nn.Module,
    job: JobConfig,
    subjects: Sequence[Subject],
    out: Path,
    console: Console,
    faults: list[DataError],
    names: Mapping[Path, str],
) -> None:
    """Write a table: what is found in each image, and its probabilities, or its numbers."""
    data, task = job.data, task_of(job.data)
    heading = HEADINGS.get(data.task)
    with replacing(out / TABLE) as unfinished, unfinished.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", *([heading] if heading else []), *data.labels])
        for subject in track(subjects, description="predicting", console=console):
            with _fault_told(faults, console):
                answer = predict_values(network, subject.files, data)
                name = task.name(answer, data)
                figures = [f"{value:.4f}" for value in answer.tolist()]
                shown = names.get(subject.files[0], subject.files[0])
                table.writerow([shown, *([] if name is None else [name]), *figures])
    done = len(subjects) - len(faults)
    console.print(f"{done} images in {out / TABLE}: {data.kind.title}", markup=False)


def _legend(job: JobConfig) -> str:
    data = job.data
    names = data.kind.drawn(data.labels)
    values = (0, *data.region_values) if data.region_values else range(len(names))
    return ", ".join(f"{value} {name}" for value, name in zip(values, names, strict=True))
