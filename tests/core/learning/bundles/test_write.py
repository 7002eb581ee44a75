"""Exported bundles: MONAI alone, offline, computes what `predict` computes."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel
import numpy as np
import pytest
import torch
from monai import transforms

from polyclinic.config.bundles.read import read_bundle
from polyclinic.config.compose import instantiate, load_config
from polyclinic.config.jobs import job_settings
from polyclinic.errors import ConfigError
from polyclinic.learning.bundles.inference import describe_inference
from polyclinic.learning.bundles.write import write_bundle
from polyclinic.learning.prediction import predict
from polyclinic.learning.state_dict import save_state
from tests.monai_bundles import spleen
from tests.monai_bundles import write_bundle as write_foreign

PATCH = ("data.patch=[16,16,16]", "data.overlap=0.25")
PLANNED = ("data=planned", "training=nnunet", "model.features=4", *PATCH)
SEGMENTATION = ("data=segmentation", "data.patch=[16,16,16]")
MODELS: dict[str, tuple[str, ...]] = {
    "unet": (
        *("model=unet", *SEGMENTATION, "model.channels=[4,8]", "model.strides=[2]"),
        *("data.labels=[background,left,right]", "data.orientation=ASR"),
    ),
    "segresnet": ("model=segresnet", *SEGMENTATION, "model.init_filters=8"),
    "dynunet": ("model=dynunet", *PLANNED, "data.normalization=[]"),
    "residual": ("model=dynunet_residual", *PLANNED, "data.normalization=[]"),
    "slices": (
        *("model=unet_2d", "data=segmentation_2d", "data.patch=[16,16]"),
        *("model.channels=[4,8]", "model.strides=[2]"),
    ),
    "densenet": (
        *("model=densenet", "data=classification", "training=classification"),
        *("data.patch=[16,16,32]", "data.spacing_mm=[1.0,1.0,1.0]"),
    ),
}
OFFLINE = """
import runpy, socket
def refuse(*_, **__):
    raise AssertionError("a bundle asks the network")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
"""


def write_model(path: Path, *overrides: str) -> Path:
    config = load_config(overrides)
    names, settings = job_settings(config)
    torch.manual_seed(3)
    state = instantiate(config.model).state_dict()
    save_state(state, path, {"polyclinic": json.dumps({"names": names, "settings": settings})})
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one volume of 1 mm, whose first axis points to the left."""
    folder = tmp_path_factory.mktemp("images")
    voxels = np.random.default_rng(0).normal(30, 50, (24, 21, 20)).astype(np.float32)
    voxels[:3] = 0
    image = nibabel.Nifti1Image(voxels, np.diag([-1.0, 1.0, 1.0, 1.0]))
    nibabel.save(image, folder / "case.nii.gz")
    return folder


def arguments(bundle: Path, images: Path, out: Path) -> dict[str, str]:
    return {
        "bundle_root": str(bundle),
        "config_file": str(bundle / "configs" / "inference.json"),
        "dataset_dir": str(images),
        "output_dir": str(out),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_monai_predicts_the_same_bits(name: str, images: Path, tmp_path: Path) -> None:
    model, bundle = write_model(tmp_path / "m.safetensors", *MODELS[name]), tmp_path / "m.bundle"
    write_bundle(model, bundle)
    monai.bundle.run(**arguments(bundle, images, tmp_path / "out"))
    ours = predict(model, images / "case.nii.gz")
    if name == "densenet":
        (row,) = csv.reader((tmp_path / "out" / "predictions.csv").open())
        assert [np.float32(value) for value in row[1:]] == list(ours)
        return
    theirs = nibabel.load(tmp_path / "out" / "case_labels.nii.gz")
    assert theirs.get_data_dtype() == np.uint8
    assert np.array_equal(theirs.affine, nibabel.load(images / "case.nii.gz").affine)
    assert np.array_equal(np.asarray(theirs.dataobj), ours)
    assert len(np.unique(ours)) > 1


def test_the_command_needs_no_network(images: Path, tmp_path: Path) -> None:
    model, bundle = write_model(tmp_path / "m.safetensors", *MODELS["unet"]), tmp_path / "bundle"
    write_bundle(model, bundle)
    given = [f"--{key}={each}" for key, each in arguments(bundle, images, tmp_path / "o").items()]
    subprocess.run([sys.executable, "-c", OFFLINE, "run", *given], check=True, timeout=300)
    theirs = nibabel.load(tmp_path / "o" / "case_labels.nii.gz")
    assert np.array_equal(np.asarray(theirs.dataobj), predict(model, images / "case.nii.gz"))


@pytest.mark.parametrize("name", ["unet", "dynunet", "slices", "densenet"])
def test_an_exported_bundle_comes_in_again(name: str, tmp_path: Path) -> None:
    model, bundle = write_model(tmp_path / "m.safetensors", *MODELS[name]), tmp_path / "m.bundle"
    write_bundle(model, bundle)
    config, again = load_config(MODELS[name]), load_config([f"bundle={bundle}"])
    for key in ("task", "labels", "patch", "spacing_mm", "orientation", "overlap"):
        assert getattr(again.data, key) == getattr(config.data, key)
    assert read_bundle(bundle).weights is not None
    torch.manual_seed(0)
    wanted, found = instantiate(config.model), instantiate(again.model)
    weights = torch.load(bundle / "models" / "model.pt", weights_only=True)
    found.load_state_dict(weights)
    own = {key: each for key, each in weights.items() if not key.startswith("skip_layers.")}
    wanted.load_state_dict(own, strict=name != "dynunet")  # heads of deep supervision stay here
    image = torch.randn(1, 1, *config.data.patch, generator=torch.Generator().manual_seed(1))
    assert torch.equal(found.eval()(image), wanted.eval()(image))


def test_metadata_says_what_the_classes_are(tmp_path: Path) -> None:
    write_bundle(write_model(tmp_path / "m.safetensors", *MODELS["unet"]), tmp_path / "m.bundle")
    found = json.loads((tmp_path / "m.bundle" / "configs" / "metadata.json").read_text())
    needed = {
        *("schema", "version", "changelog", "monai_version", "pytorch_version", "numpy_version"),
        *("task", "description", "authors", "copyright", "network_data_format"),
    }
    assert needed <= set(found) and "no medical device" in found["intended_use"]
    pred = found["network_data_format"]["outputs"]["pred"]
    assert pred["channel_def"] == {"0": "background", "1": "left", "2": "right"}


@pytest.mark.parametrize("kind", ["z_score", "ct"])
def test_normalization_is_written_as_transforms_of_the_same_bits(kind: str) -> None:
    figures = [-20.3, 90.7, 31.1, 17.9]
    more = [f"data.foreground={figures}"] if kind == "ct" else []
    config = load_config(["data=planned", "model=dynunet", f"data.normalization=[{kind}]", *more])
    steps = describe_inference(config.data, {"_target_": "DynUNet"})["preprocessing"]["transforms"]
    image = torch.randn(1, 9, 8, 7, generator=torch.Generator().manual_seed(0)) * 60
    image[:, :2] = 0
    found: Any = {"image": image.clone()}
    for step in steps:
        if step["_target_"] in ("ThresholdIntensityd", "NormalizeIntensityd"):
            given = {key: value for key, value in step.items() if key != "_target_"}
            found = getattr(transforms, step["_target_"])(**given)(found)
    low, high, mean, deviation = figures
    wanted = (image.clamp(low, high) - mean) / deviation
    if kind == "z_score":
        inside = image[image != 0]
        wanted = torch.where(image != 0, (image - inside.mean()) / inside.std(unbiased=False), 0.0)
        torch.testing.assert_close(found["image"].as_tensor(), wanted)
    else:
        assert torch.equal(found["image"].as_tensor(), wanted)


REFUSED = {
    "EfficientNetLite0 is polyclinic's own": (
        *("model=efficientnet_lite0", "data=white_blood_cells", "training=fine_tuning"),
        "model.pretrained=false",
    ),
    "own": ("model=universal", "data=universal", "training=universal"),
    "takes the mean over the slices": (
        *("model=densenet_2d", "data=classification_2d", "training=classification"),
    ),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_monai_does_not_have_is_refused_and_nothing_is_left(said: str, tmp_path: Path) -> None:
    write_model(tmp_path / "m.safetensors", *REFUSED[said])
    with pytest.raises(ConfigError, match=said):
        write_bundle(tmp_path / "m.safetensors", tmp_path / "m.bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_bundle_is_never_overwritten(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.safetensors", *MODELS["unet"])
    write_foreign(tmp_path / "m.bundle", spleen())
    with pytest.raises(ConfigError, match="exists"):
        write_bundle(model, tmp_path / "m.bundle")
