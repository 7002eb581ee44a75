"""Models of version 0.1.0: exported, and used for predictions."""

import csv
from pathlib import Path

import nibabel
import numpy as np
import pytest
from safetensors.numpy import load_file

from polyclinic.learning.model_file import load_model
from tests.compatibility.conftest import Run
from tests.compatibility.kept import V010

ROUNDING = 0.01  # of a probability, where the processor multiplies bfloat16
AGREEMENT = 0.999  # of voxels: another processor may round the last bit another way
ARMS = {"fedavg": "fedavg", "merging": "merging-mean", "universal": "universal"}


def volume(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


@pytest.mark.parametrize("name", ["fedavg", "refined"])
def test_a_segmentation_is_what_it_was(kept: Path, run: Run, name: str) -> None:
    model = kept / "models" / f"{name}.safetensors"
    if name == "fedavg":
        exported = run(
            "polyclinic-server", "export", "fedavg", "--to", model, "--runs", kept / "runs"
        )
        assert exported.returncode == 0, exported.stderr
    scan, out = kept / "images" / "scan.nii.gz", kept / "out"
    predicted = run("polyclinic-client", "predict", model, scan, "--out", out)
    assert predicted.returncode == 0, predicted.stderr
    before, now = V010 / "predicted" / name / scan.name, out / scan.name
    assert np.allclose(nibabel.load(before).affine, nibabel.load(now).affine)
    assert np.mean(volume(before) == volume(now)) >= AGREEMENT
    assert len(np.unique(volume(before))) > 1


def test_a_classification_by_a_universal_model_is_what_it_was(kept: Path, run: Run) -> None:
    images = sorted((kept / "images").glob("disc-*.png"))
    model, out = kept / "models" / "universal.safetensors", kept / "out"
    predicted = run("polyclinic-client", "predict", model, *images, "--out", out)
    assert predicted.returncode == 0, predicted.stderr
    tables = []
    for path in (V010 / "predicted" / "universal" / "predictions.csv", out / "predictions.csv"):
        with path.open() as file:
            tables.append(list(csv.DictReader(file)))
    before, now = tables
    assert before[0].keys() == now[0].keys() and len(now) == len(images)
    for one, other in zip(before, now, strict=True):
        assert Path(one["image"]).name == Path(other["image"]).name
        assert one["class"] == other["class"]
        for label in set(one) - {"image", "class"}:
            assert float(one[label]) == pytest.approx(float(other[label]), abs=ROUNDING)


@pytest.mark.parametrize("name", ARMS)
def test_an_exported_model_has_the_weights_of_the_run(kept: Path, run: Run, name: str) -> None:
    target = kept / "exported.safetensors"
    exported = run("polyclinic-server", "export", name, "--to", target, "--runs", kept / "runs")
    assert exported.returncode == 0, exported.stderr
    source = load_file(kept / "runs" / name / "arms" / ARMS[name] / "model.safetensors")
    weights = load_file(target)
    assert weights.keys() == source.keys()
    assert all(np.array_equal(weights[key], source[key]) for key in source)
    network, _ = load_model(target)
    assert {key: tuple(each.shape) for key, each in network.state_dict().items()} == {
        key: each.shape for key, each in source.items()
    }


def test_a_universal_encoder_is_exported_as_a_program(kept: Path, run: Run) -> None:
    target = kept / "encoder.pt2"
    exported = run(
        "polyclinic-server", "export", "universal", "--to", target, "--runs", kept / "runs"
    )
    assert exported.returncode == 0, exported.stderr
    assert target.stat().st_size > 0
