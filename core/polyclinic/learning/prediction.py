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
from polyclinic.imaging.grids import resample
from polyclinic.imaging.headers import Grid, Header
from polyclinic.imaging.image_files import check_header
from polyclinic.imaging.volumes import read_label, write_label_map
from polyclinic.learning.measures.collecting import Collected
from polyclinic.learning.metrics import Evaluation, dice_per_class, recall_per_class, summarize
from polyclinic.learning.model_file import load_model
from polyclinic.learning.modes import training_mode
from polyclinic.learning.preparation import prepare_image
from polyclinic.learning.training import infer

SLAB = 24  # planes of the native grid that are interpolated at once


@dataclass(frozen=True)
class CaseScore:
    """Figures of one case.

    Attributes:
        name: Name of the case.
        split: Where it was listed.
        scores: Of a segmentation, Dice of each foreground class, NaN if it is in neither map; of a
            classification, probabilities.
        score: Mean Dice; or 1.0 if the class is right, 0.0 if not.
    """

    name: str
    split: Split
    scores: dict[str, float]
    score: float


def predict_label_map(
    network: nn.Module, image: Path | Sequence[Path], data: DataConfig
) -> tuple[NDArray[np.uint8], Header]:
    """Segment one image.

    Args:
        network: Left unchanged.
        image: One file, or one for each channel.
        data: What the network was trained on.

    Returns:
        Labels, uint8, the spatial shape of the file, and the file's header: ready for
        `volumes.write_label_map`.

    Raises:
        DataError: The typed fault of the file.
    """
    paths = (image,) if isinstance(image, Path) else tuple(image)
    header = check_header(paths[0])
    volume, grid, native = prepare_image(paths, data)
    with training_mode(network, train=False), torch.inference_mode():
        probabilities = infer(network, volume, data).softmax(0)
        labels = _label_natively(probabilities, grid, native)
    return labels.reshape(header.shape[:3]), header


def predict_class(network: nn.Module, image: Path | Sequence[Path], data: DataConfig) -> Tensor:
    """Compute the probability of each class, float32, shape (classes,), on the CPU.

    Raises:
        DataError: The typed fault of the file.
    """
    volume, _, _ = prepare_image((image,) if isinstance(image, Path) else tuple(image), data)
    with training_mode(network, train=False), torch.inference_mode():
        return infer(network, volume, data).softmax(0).float().cpu()


def evaluate_natively(
    network: nn.Module,
    dataset: SiteDataset,
    data: DataConfig,
    split: Split = "test",
    on_case: Callable[[Case, NDArray[np.uint8] | int], None] | None = None,
) -> tuple[Evaluation, list[CaseScore]]:
    """Score a network on the images' own grids, against the labels as drawn: as it is used.

    Args:
        network: Left unchanged.
        dataset: The hospital's.
        data: What the network was trained on.
        split: Where the test split has no labels, the validation cases are used; each `CaseScore`
            says its split.
        on_case: Called with each case and its label map, or its predicted class.

    Raises:
        DataError: The typed fault of a file.
    """
    scored: list[CaseScore] = []
    rows, predicted, truths = [], [], []
    cases = evaluation_cases(dataset, split)
    collected = Collected(cases, data)
    for case in cases:
        if isinstance(case.label, Path):
            labels, header = predict_label_map(network, case.image, data)
            truth = read_label(case.label, len(data.labels), values=case.label_values).as_tensor()
            rows.append(
                dice_per_class(
                    torch.from_numpy(labels).view(-1), truth.reshape(-1), len(data.labels)
                )
            )
            collected.add_labels(labels, truth.numpy(), header.spacing_mm)
            one = summarize(rows[-1:], data.labels[1:], None, 1)
            scored.append(CaseScore(case.name, case.split, one.scores, one.score))
        else:
            assert case.label is not None
            probabilities = predict_class(network, case.image, data)
            collected.add_class(probabilities, case.label)
            chosen = int(probabilities.argmax())
            predicted.append(chosen)
            truths.append(case.label)
            table = dict(zip(data.labels, probabilities.tolist(), strict=True))
            scored.append(CaseScore(case.name, case.split, table, float(chosen == case.label)))
        if on_case is not None:
            on_case(case, labels if isinstance(case.label, Path) else chosen)
    if data.task == "segmentation":
        found = summarize(rows, data.labels[1:], None, len(scored))
    else:
        recalls = recall_per_class(torch.tensor(predicted), torch.tensor(truths), len(data.labels))
        found = summarize([recalls], data.labels, None, len(scored))
    return replace(found, measures=collected.measures(rows)), scored


def _label_natively(probabilities: Tensor, grid: Grid, native: Grid) -> NDArray[np.uint8]:
    """Find the most probable class on another grid, slab by slab to save memory."""
    slabs = []
    for start in range(0, native.shape[0], SLAB):
        shift = np.eye(4)
        shift[0, 3] = start
        slab = Grid((min(SLAB, native.shape[0] - start), *native.shape[1:]), native.affine @ shift)
        slabs.append(_most_probable(resample(probabilities, grid, slab)).cpu())
    return np.asarray(torch.cat(slabs).numpy())


def _most_probable(probabilities: Tensor) -> Tensor:
    """Compute `argmax(0)` as uint8, several times as fast for a few classes."""
    best, labels = probabilities[0].clone(), torch.zeros_like(probabilities[0], dtype=torch.uint8)
    for number, values in enumerate(probabilities[1:], start=1):
        labels.masked_fill_(values > best, number)
        torch.maximum(best, values, out=best)
    return labels


Model = str | Path | tuple[nn.Module, JobConfig]  # a file, or what `load_model` made of one
Image = str | Path | Sequence[str | Path]  # one file, or one for each channel


def predict(model: Model, image: Image, *, out: str | Path | None = None) -> NDArray[Any]:
    """Segment or classify one image.

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
        classification the probability of each class, float32, (classes,).

    Raises:
        ModelInvalid: The model's file is damaged, or does not fit what is installed here.
        ConfigError: The model is an encoder without a head, or classifies and `out` is given.
        DataError: The image cannot be read, or is not what the model needs.
    """
    network, job = _load(model)
    paths = [Path(image)] if isinstance(image, str | Path) else [Path(each) for each in image]
    if job.data.task == "classification":
        if out is not None:
            raise ConfigError(f"out={out}: a classification has no label map to write.")
        return np.asarray(predict_class(network, paths, job.data).numpy())
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
        `score`, from 0 to 1: the mean Dice of the foreground classes on the images' own grids, or
        the balanced accuracy; `scores` by class; `num_examples`; and `measures` by class and name,
        each with its support and 95 % interval: `measures["tumour"]["surface_dice"].value`. See
        docs/reference/measures.md.

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
