"""A trained model on images and on a hospital's cases, in one call each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from polyclinic.config.schemas import JobConfig
from polyclinic.errors import ConfigError
from polyclinic.imaging.datasets import Split, check_agreement, read_dataset
from polyclinic.imaging.volumes import write_label_map
from polyclinic.learning.metrics import Evaluation
from polyclinic.learning.model_file import load_model
from polyclinic.learning.training import evaluate_natively, predict_class, predict_label_map

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
        the balanced accuracy; `scores` by class; `num_examples`.

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
