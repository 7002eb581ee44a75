"""MONAI bundles made of MONAI's own parts, as its model zoo writes them; and data for them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.networks import nets

SHAPE = (20, 18, 16)
UNET: dict[str, Any] = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [4, 8],
    "strides": [2],
    "num_res_units": 1,
    "norm": "batch",
}
DENSENET: dict[str, Any] = {
    "_target_": "monai.networks.nets.DenseNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "init_features": 4,
    "growth_rate": 4,
    "block_config": [1, 1],
    "norm": ["instance", {"affine": True}],
}


def metadata(*labels: str) -> dict[str, Any]:
    """Metadata in MONAI's schema, as far as it is read."""
    return {
        "version": "0.1.0",
        "monai_version": "1.6.1",
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "modality": "CT",
                    "num_channels": 1,
                    "spatial_shape": ["16*n", "16*n", "16*n"],
                    "channel_def": {"0": "image"},
                }
            },
            "outputs": {"pred": {"channel_def": {str(n): label for n, label in enumerate(labels)}}},
        },
    }


def spleen() -> tuple[dict[str, Any], dict[str, Any]]:
    """Metadata and inference of a segmentation, with all that a bundle of the zoo has."""
    inference: dict[str, Any] = {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "image_key": "image",
        "output_dir": "$@bundle_root + '/eval'",
        "datalist": "$list(sorted(glob.glob(@dataset_dir + '/imagesTs/*.nii.gz')))",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": UNET,
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "@image_key"},
                {"_target_": "EnsureChannelFirstd", "keys": "@image_key"},
                {"_target_": "Orientationd", "keys": "@image_key", "axcodes": "LPS"},
                {
                    "_target_": "Spacingd",
                    "keys": "@image_key",
                    "pixdim": [2.0, 2.0, 3.0],
                    "mode": "bilinear",
                },
                {
                    "_target_": "ScaleIntensityRanged",
                    "keys": "@image_key",
                    "a_min": -57,
                    "a_max": 164,
                    "b_min": 0,
                    "b_max": 1,
                    "clip": True,
                },
                {"_target_": "EnsureTyped", "keys": "@image_key", "device": "@device"},
            ],
        },
        "dataset": {"_target_": "Dataset", "data": "$[{'image': i} for i in @datalist]"},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": [16, 16, 8],
            "sw_batch_size": 4,
            "overlap": 0.5,
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "@image_key",
                    "nearest_interp": False,
                },
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
                {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir"},
            ],
        },
        "evaluator": {"_target_": "SupervisedEvaluator", "device": "@device"},
        "run": ["$@evaluator.run()"],
    }
    return metadata("background", "spleen"), inference


def lung() -> tuple[dict[str, Any], dict[str, Any]]:
    """Metadata and inference of a classification."""
    inference: dict[str, Any] = {
        "network_def": DENSENET,
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {"_target_": "Resized", "keys": "image", "spatial_size": [16, 16, 16]},
                {"_target_": "ScaleIntensityd", "keys": "image"},
            ],
        },
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": [{"_target_": "Activationsd", "keys": "pred", "softmax": True}],
    }
    return metadata("clear", "nodule"), inference


def write_bundle(
    folder: Path, parts: tuple[Mapping[str, Any], Mapping[str, Any]], *, weights: bool = True
) -> Path:
    """Write a bundle with weights of seed 7."""
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "metadata.json").write_text(json.dumps(parts[0]))
    (folder / "configs" / "inference.json").write_text(json.dumps(parts[1]))
    if weights:
        (folder / "models").mkdir()
        torch.save(made(parts[1]["network_def"]).state_dict(), folder / "models" / "model.pt")
    return folder


def made(definition: Mapping[str, Any]) -> torch.nn.Module:
    """The network that MONAI makes of a definition."""
    torch.manual_seed(7)
    name = definition["_target_"].rpartition(".")[2]
    network: torch.nn.Module = getattr(nets, name)(
        **{key: value for key, value in definition.items() if key != "_target_"}
    )
    return network


def write_hospital(folder: Path, labels: tuple[str, str], *, segmentation: bool) -> Path:
    """Write four volumes of a bright box, on a grid of 2 x 2 x 3 mm whose axes are LPS."""
    generator = np.random.default_rng(len(folder.name))
    folder.mkdir(parents=True)
    listed: dict[str, list[dict[str, Any]]] = {}
    affine = np.diag([-2.0, -2.0, 3.0, 1.0])
    for number, split in enumerate(("training", "training", "validation", "test")):
        truth = np.zeros(SHAPE, np.uint8)
        if segmentation or number % 2:
            truth[4:12, 5 + number : 12, 3:11] = 1
        image = (truth * 100 + generator.normal(0, 20, SHAPE)).astype(np.float32)
        entry: dict[str, Any] = {"image": f"image-{number}.nii.gz", "label": number % 2}
        nibabel.save(nibabel.Nifti1Image(image, affine), folder / entry["image"])
        if segmentation:
            entry["label"] = f"label-{number}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(truth, affine), folder / entry["label"])
        listed.setdefault(split, []).append(entry)
    described = {
        "name": folder.name,
        "modality": {"0": "CT"},
        "labels": dict(zip("01", labels, strict=True)),
        **listed,
    }
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder
