"""Predictions on the images' own grids, and their scores against the labels as drawn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from polyclinic.config.schemas import DataConfig, JobConfig
from polyclinic.errors import ConfigError
from polyclinic.imaging.dataset_checks import check_agreement
from polyclinic.imaging.datasets import (
    Case,
    SiteDataset,
    Split,
    evaluation_cases,
    read_dataset,
)
from polyclinic.imaging.headers import Header
from polyclinic.imaging.image_files import check_header
from polyclinic.imaging.subjects import number_subjects
from polyclinic.imaging.volumes import write_label_map
from polyclinic.learning.metrics import Evaluation
from polyclinic.learning.model_file import load_model
from polyclinic.learning.modes import training_mode
from polyclinic.learning.preparation import prepare_image
from polyclinic.learning.tasks.registry import task_of
from polyclinic.learning.tasks.voxels import draw_regions
from polyclinic.learning.training import infer

OnCase = Callable[[Case, Tensor, Tensor], None]  # of a case, its answer, and the truth


@dataclass(frozen=True)
class CaseScore:
    """Figures of one case.

    Attributes:
        name: Name of the case.
        split: Where it was listed.
        scores: Of a segmentation, Dice of each foreground class, NaN if it is in neither map; else
            what is predicted, probabilities or numbers.
        score: Mean Dice; 1.0 if the class is right, 0.0 if not; 1 minus the mean squared error of
            findings' probabilities; 1 - |error| / range of numbers.
    """

    name: str
    split: Split
    scores: dict[str, float]
    score: float


def predict_natively(
    network: nn.Module, image: Path | Sequence[Path], data: DataConfig
) -> tuple[Tensor, Header]:
    """Predict one image on its own grid, mirrored if `data.mirrored_inference` says so.

    Args:
        network: Left unchanged.
        image: One file, or one for each channel.
        data: What the network was trained on.

    Returns:
        The answer as `Task.answer` returns it, on the CPU, and the file's header.

    Raises:
        DataError: The typed fault of the file.
    """
    paths = (image,) if isinstance(image, Path) else tuple(image)
    header = check_header(paths[0])
    volume, grid, native = prepare_image(paths, data)
    with training_mode(network, train=False), torch.inference_mode():
        logits = infer(network, volume, data, mirrored=data.mirrored_inference)
        return task_of(data).answer(logits, data, grid, native), header


def predict_label_map(
    network: nn.Module, image: Path | Sequence[Path], data: DataConfig
) -> tuple[NDArray[np.uint8], Header]:
    """Segment one image.

    Args:
        network: Left unchanged.
        image: One file, or one for each channel.
        data: What the network was trained on; of regions, what is written for each.

    Returns:
        Labels, uint8, the spatial shape of the file, and the file's header: ready for
        `volumes.write_label_map`.

    Raises:
        DataError: The typed fault of the file.
    """
    answer, header = predict_natively(network, image, data)
    if data.region_values:
        labels = draw_regions(answer, data.region_values)
    else:
        drawn = task_of(data).draw(answer)
        assert drawn is not None
        labels = drawn
    return labels.numpy().reshape(header.shape[:3]), header


def predict_values(network: nn.Module, image: Path | Sequence[Path], data: DataConfig) -> Tensor:
    """Compute what is said of a whole image: probabilities, or numbers in their unit.

    Returns:
        Shape (labels,), on the CPU.

    Raises:
        DataError: The typed fault of the file.
    """
    return predict_natively(network, image, data)[0]


def evaluate_natively(
    network: nn.Module,
    dataset: SiteDataset,
    data: DataConfig,
    split: Split = "test",
    on_case: OnCase | None = None,
) -> tuple[Evaluation, list[CaseScore]]:
    """Score a network on the images' own grids, against the labels as drawn: as it is used.

    Args:
        network: Left unchanged.
        dataset: The hospital's.
        data: What the network was trained on.
        split: Where the test split has no labels, the validation cases are used; each `CaseScore`
            says its split.
        on_case: Called with each case, its answer, and the truth.

    Raises:
        DataError: The typed fault of a file.
    """
    cases, task = evaluation_cases(dataset, split), task_of(data)
    tally, scored = task.tally(data), []
    for case in cases:
        answer, header = predict_natively(network, case.image, data)
        truth = task.read_truth(case, data)
        one = tally.add(answer, truth)
        tally.measure(answer, truth, header.spacing_mm)
        scored.append(CaseScore(case.name, case.split, dict(one.scores), one.score))
        if on_case is not None:
            on_case(case, answer, truth)
    measures = tally.measures(number_subjects(cases))
    return replace(tally.evaluation(None), measures=measures), scored


Model = str | Path | tuple[nn.Module, JobConfig]  # a file, or what `load_model` made of one
Image = str | Path | Sequence[str | Path]  # one file, or one for each channel


def predict(model: Model, image: Image, *, out: str | Path | None = None) -> NDArray[Any]:
    """Segment or classify one image, or read a number from it.

    Example:
        ```python
        labels = polyclinic.predict("model.safetensors", "scan.nii.gz", out="labels.nii.gz")
        ```

    Args:
        model: File of a model, or what `load_model` returned, which saves reading it again.
        image: NIfTI or picture file; several, one for each channel.
        out: NIfTI file to write the label map to; only of a segmentation.

    Returns:
        Of a segmentation the label map, uint8, (X, Y, Z) as in the file, Z = 1 for a picture; of a
        classification the probability of each class or finding, float32, (labels,); of a regression
        the numbers in their unit, float64, (labels,).

    Raises:
        ModelInvalid: The model's file is damaged, or does not fit what is installed here.
        ConfigError: The model is an encoder without a head, or makes no label map and `out` is
            given.
        DataError: The image cannot be read, or is not what the model needs.
    """
    network, job = _load(model)
    paths = [Path(image)] if isinstance(image, str | Path) else [Path(each) for each in image]
    if not job.data.kind.per_voxel:
        if out is not None:
            raise ConfigError(f"out={out}: a {job.data.kind.title} has no label map to write.")
        return np.asarray(predict_values(network, paths, job.data).numpy())
    labels, header = predict_label_map(network, paths, job.data)
    if out is not None:
        write_label_map(Path(out), labels, header)
    return labels


def evaluate(model: Model, folder: str | Path, split: Split = "test") -> Evaluation:
    """Score a model on a hospital's labelled cases, as a hospital scores its final model.

    Example:
        ```python
        polyclinic.evaluate("model.safetensors", "data/st-mary").score
        ```

    Args:
        model: File of a model, or what `load_model` returned.
        folder: Folder with dataset.json.
        split: "training", "validation" or "test"; a test split without labels is replaced by the
            validation cases.

    Returns:
        `score`, from 0 to 1: the mean Dice of the foreground classes on the images' own grids, the
        balanced accuracy, the mean AUROC, or 1 - MAE / range; `scores` by label; `num_examples`;
        and `measures` by label and name, each with its support and 95 % interval:
        `measures["tumour"]["surface_dice"].value`. See docs/reference/measures.md.

    Raises:
        ModelInvalid: The model's file is damaged, or does not fit what is installed here.
        ConfigError: The model is an encoder without a head.
        DataError: dataset.json, an image or a label is not as it should be, or the classes are not
            the model's.
    """
    network, job = _load(model)
    dataset = read_dataset(Path(folder))
    check_agreement(dataset, job.data)
    return evaluate_natively(network, dataset, job.data, split)[0]


def _load(model: Model) -> tuple[nn.Module, JobConfig]:
    network, job = load_model(Path(model)) if isinstance(model, str | Path) else model
    if job.data.task == "own":
        raise ConfigError(
            "The model is an encoder without a head: use what a hospital keeps of it, or adapt it."
        )
    return network, job
