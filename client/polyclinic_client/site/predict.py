"""`polyclinic-client predict`: a model on image files."""

import csv
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track
from torch import nn

from polyclinic.config.schemas import JobConfig
from polyclinic.errors import ConfigError
from polyclinic.imaging.image_files import check_header
from polyclinic.imaging.volumes import write_label_map
from polyclinic.learning.model_file import load_model
from polyclinic.learning.prediction import predict_class, predict_label_map
from polyclinic_client.result_names import name_results


def predict_files(model: Path, images: Sequence[Path], out: Path, console: Console) -> None:
    """Write one result for each image; leave those alone that exist already.

    Raises:
        ConfigError: Two images would write the same result, or the model is an encoder alone.
        DataError: The typed fault of the first faulty image.
    """
    network, job = load_model(model)
    if job.data.task == "own":
        raise ConfigError(
            f"{model}: a network without a head. Use what a hospital keeps in its state folder: "
            "runs/RUN/STRATEGY."
        )
    stems = name_results(images)
    for image in images:
        check_header(image)
    out.mkdir(parents=True, exist_ok=True)
    if job.data.task == "classification":
        _classify(network, job, images, out, console)
        return
    for image, stem in track(
        list(zip(images, stems, strict=True)), description="segmenting", console=console
    ):
        target = out / f"{stem}.nii.gz"
        if target.exists():
            console.print(f"{target} exists, left alone", markup=False)
            continue
        labels, header = predict_label_map(network, image, job.data)
        write_label_map(target, labels, header)
    console.print(f"{len(images)} label maps in {out}: {_legend(job)}", markup=False)


def _classify(
    network: nn.Module, job: JobConfig, images: Sequence[Path], out: Path, console: Console
) -> None:
    partial = out / ".predictions.csv.partial"
    with partial.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "class", *job.data.labels])
        for image in track(images, description="classifying", console=console):
            probabilities = predict_class(network, image, job.data)
            name = job.data.labels[int(probabilities.argmax())]
            table.writerow([image, name, *(f"{value:.4f}" for value in probabilities.tolist())])
    partial.replace(out / "predictions.csv")
    console.print(f"{len(images)} images classified in {out / 'predictions.csv'}", markup=False)


def _legend(job: JobConfig) -> str:
    return ", ".join(f"{number} {label}" for number, label in enumerate(job.data.labels))
