"""A model on image files: which belong together, which are done, which are faulty."""

import csv
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from rich.console import Console
from torch import Tensor, nn, stack

from polyclinic.config.schemas import JobConfig
from polyclinic.errors import ConfigError, DataError
from polyclinic_client.site import predict as module
from polyclinic_client.site.predict import predict_files
from tests.core.imaging.test_datasets import DATA, TRAINING, save

SHAPE = (8, 8, 8)


class Weighted(nn.Module):
    """Class 1 where the channels, weighted by 1, 10, 100, ..., are above a threshold."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch_scalar(threshold))

    def forward(self, image: Tensor) -> Tensor:
        total = sum(10**channel * image[:, channel] for channel in range(image.shape[1]))
        above = total - self.threshold
        return stack([-above, above], 1)


def torch_scalar(value: float) -> Tensor:
    return Tensor([value])


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Make a model's file that stands for a network."""

    def make(threshold: float = 0.5, channels: int = 1, task: str = "segmentation") -> Path:
        path = tmp_path / f"{task}-{threshold}.safetensors"
        path.write_text(str(threshold))
        data = replace(DATA, channels=channels, intensity=(), task=task)
        if channels > 1:
            data = replace(data, modality=tuple(f"m{n}" for n in range(channels)))
        network: nn.Module = Weighted(threshold)
        if task == "classification":
            network = nn.Sequential(network, nn.AdaptiveAvgPool3d(1), nn.Flatten())
        job = JobConfig({}, data, TRAINING)
        monkeypatch.setattr(module, "load_model", lambda _: (network.eval(), job))
        return path

    return make


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(4):
        save(folder / f"p{number}.nii.gz", np.full(SHAPE, number, np.uint8))
    (folder / "notes.txt").write_text("no image")
    (folder / "._p0.nii.gz").write_text("no image")
    return folder


def quiet() -> Console:
    return Console(file=StringIO(), width=200)


def label(path: Path) -> int:
    (value,) = np.unique(np.asanyarray(nib.load(path).dataobj))
    return int(value)


def results(out: Path) -> dict[str, int]:
    return {path.name.split(".")[0]: label(path) for path in out.glob("[!.]*.nii.gz")}


def test_a_folder_stands_for_its_images(model: Callable[..., Path], images: Path) -> None:
    out = images.parent / "out"
    predict_files(model(1.5), [images], out, quiet())
    assert results(out) == {"p0": 0, "p1": 0, "p2": 1, "p3": 1}
    (images.parent / "empty").mkdir()
    with pytest.raises(ConfigError, match="DICOM"):
        predict_files(model(1.5), [images.parent / "empty"], out, quiet())


def test_one_bad_image_costs_one_result(model: Callable[..., Path], images: Path) -> None:
    out, console = images.parent / "out", quiet()
    (images / "p0.nii.gz").write_bytes(b"no image")
    (images / "p2.nii.gz").write_bytes((images / "p2.nii.gz").read_bytes()[:-12])
    with pytest.raises(DataError, match="p0"):
        predict_files(model(0.5), [images], out, console)
    assert set(results(out)) == {"p1", "p3"}
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(text in said for text in ("p0.nii.gz", "p2.nii.gz", "2 of 4", "2 label maps"))


def test_a_bad_image_is_no_row_of_the_table(model: Callable[..., Path], images: Path) -> None:
    out = images.parent / "out"
    (images / "p0.nii.gz").write_bytes(b"no image")
    with pytest.raises(DataError, match="p0"):
        predict_files(model(1.5, task="classification"), [images], out, quiet())
    with (out / "predictions.csv").open() as file:
        rows = {Path(row["image"]).name[:2]: row["class"] for row in csv.DictReader(file)}
    assert rows == {"p1": "background", "p2": "tumour", "p3": "tumour"}


def test_results_of_the_same_model_and_image_are_left_alone(
    model: Callable[..., Path], images: Path
) -> None:
    out = images.parent / "out"
    predict_files(model(1.5), [images / "p0.nii.gz"], out, quiet())
    before = (out / "p0.nii.gz").stat().st_mtime_ns
    predict_files(model(1.5), [images], out, quiet())
    assert (out / "p0.nii.gz").stat().st_mtime_ns == before and len(results(out)) == 4


def test_results_of_another_model_or_image_are_not_taken_for_this_ones(
    model: Callable[..., Path], images: Path
) -> None:
    out = images.parent / "out"
    predict_files(model(1.5), [images], out, quiet())
    before = results(out)
    with pytest.raises(ConfigError, match="another model"):
        predict_files(model(0.5), [images], out, quiet())
    save(images / "p0.nii.gz", np.full(SHAPE, 9, np.uint8))
    with pytest.raises(ConfigError, match=r"p0\.nii\.gz"):
        predict_files(model(1.5), [images], out, quiet())
    assert results(out) == before


def test_results_of_an_earlier_version_are_left_alone(
    model: Callable[..., Path], images: Path
) -> None:
    out = images.parent / "out"
    predict_files(model(1.5), [images], out, quiet())
    (out / module.MADE).unlink()  # earlier versions kept no list
    predict_files(model(0.5), [images], out, quiet())
    assert results(out)["p1"] == 0


def test_files_of_one_channel_each_are_joined_in_order(
    model: Callable[..., Path], images: Path
) -> None:
    out, console = images.parent / "out", quiet()
    pair = [images / "p1.nii.gz", images / "p0.nii.gz"]
    swapped = [images / "p0.nii.gz", images / "p1.nii.gz"]
    predict_files(model(5, channels=2), [*pair, *swapped], out, console)
    assert results(out) == {"p1": 0, "p0": 1}  # 1 + 0, and 0 + 10
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "p1: m0 p1.nii.gz, m1 p0.nii.gz" in said
    with pytest.raises(ConfigError, match="m0, m1"):
        predict_files(model(5, channels=2), [*pair, images / "p2.nii.gz"], out, quiet())


def test_a_file_of_all_channels_is_one_image(model: Callable[..., Path], images: Path) -> None:
    save(images / "both.nii.gz", np.stack([np.zeros(SHAPE), np.ones(SHAPE)], -1).astype(np.uint8))
    predict_files(model(5, channels=2), [images / "both.nii.gz"], images.parent / "out", quiet())
    assert results(images.parent / "out") == {"both": 1}
