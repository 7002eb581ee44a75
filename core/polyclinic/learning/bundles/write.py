"""A trained model as a MONAI bundle: configuration and weights, and no code."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from polyclinic.config.schemas import DataConfig
from polyclinic.errors import ConfigError
from polyclinic.learning.bundles.definition import define_network
from polyclinic.learning.bundles.inference import describe_inference
from polyclinic.learning.model_file import load_model

REGIONS = (
    "Regions may overlap: the result has a channel for each of them, in the order above. "
    "polyclinic draws them into one label map, later ones over earlier ones."
)
SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)
INTENDED_USE = (
    "Research only. The model is no medical device, and no diagnosis may rest on it. It was "
    "trained on the images of the hospitals of one federation: validate it on images of your own "
    "before any use."
)
READ_ME = """# {title}

{task}, trained with polyclinic {version}. Classes: {labels}.

```sh
python -m monai.bundle run --bundle_root . --config_file configs/inference.json \\
    --dataset_dir IMAGES --output_dir RESULTS
```

IMAGES is a folder of NIfTI files. Nothing is fetched from a network.

{differences}

{intended_use}
"""
SAME = (
    "On an image whose voxels have the size of the network's grid, the result is the label map of "
    "`polyclinic-client predict`, voxel by voxel. Other images are resampled, by MONAI here and by "
    "polyclinic there, and borders of structures may differ by a voxel."
)
MIRRORED = (
    "polyclinic takes the mean over mirrored images (data.mirrored_inference); this bundle does "
    "not, so its results differ a little."
)


def write_bundle(source: Path, to: Path) -> None:
    """Write a model as a bundle that `python -m monai.bundle run` executes; whole or not at all.

    Args:
        source: A model's file.
        to: Folder to make.

    Raises:
        ConfigError: The folder exists, or a network or transform is not one of MONAI's.
        ModelInvalid: The source is damaged, or polyclinic did not write it.
    """
    if to.exists():
        raise ConfigError(f"{to} exists: choose another name for the bundle, or remove it.")
    network, job = load_model(source)
    network_def, state = define_network(job, network)
    inference = describe_inference(job.data, network_def)
    metadata = describe_model(to.stem, job.data, network_def)
    to.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{to.name}.", dir=to.parent))
    try:
        for name in ("configs", "models", "docs"):
            (unfinished / name).mkdir()
        for name, content in (("inference", inference), ("metadata", metadata)):
            text = json.dumps(content, indent=4, ensure_ascii=False)
            (unfinished / "configs" / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")
        torch.save({name: each.cpu() for name, each in state.items()}, unfinished / WEIGHTS)
        (unfinished / "docs" / "README.md").write_text(_read_me(to.stem, job.data), "utf-8")
        unfinished.chmod(0o755)
        unfinished.rename(to)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


WEIGHTS = Path("models") / "model.pt"


def describe_model(title: str, data: DataConfig, network_def: dict[str, Any]) -> dict[str, Any]:
    """Describe a model in MONAI's schema of metadata.

    Args:
        title: Name of the bundle.
        data: What the network was trained on.
        network_def: `_target_` and arguments.
    """
    names = data.modality or tuple(f"image {n}" for n in range(data.channels))
    segments = data.kind.per_voxel
    return {
        "schema": SCHEMA,
        "version": "1.0.0",
        "changelog": {"1.0.0": f"exported by polyclinic on {date.today().isoformat()}"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {"nibabel": version("nibabel")},
        "name": title,
        "task": f"{data.kind.title} by {network_def['_target_']}",
        "description": f"{data.kind.title}: {', '.join(data.labels)}; trained in a federation of "
        f"hospitals with polyclinic {version('polyclinic')}.",
        "authors": "the federation that trained it",
        "copyright": "the federation that trained it",
        "intended_use": INTENDED_USE,
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude",
                    "modality": ", ".join(data.modality) or "any",
                    "num_channels": data.channels,
                    "spatial_shape": list(data.patch),
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": segments,
                    "channel_def": {str(n): name for n, name in enumerate(names)},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image" if segments else "probabilities",
                    "format": "segmentation" if segments else "classification",
                    "num_channels": len(data.labels),
                    "spatial_shape": list(data.patch) if segments else [],
                    "dtype": "float32",
                    "value_range": [0, 1],
                    "is_patch_data": segments,
                    "channel_def": {str(n): label for n, label in enumerate(data.labels)},
                }
            },
        },
    }


def _differences(data: DataConfig) -> Iterator[str]:
    """Say in what the bundle's results differ from polyclinic's."""
    yield SAME
    if data.mirrored_inference:
        yield MIRRORED
    if data.task == "regions":
        yield REGIONS


def _read_me(title: str, data: DataConfig) -> str:
    return READ_ME.format(
        title=title,
        task=data.kind.title.capitalize(),
        version=version("polyclinic"),
        labels=", ".join(f"{n} {label}" for n, label in enumerate(data.labels)),
        differences=" ".join(_differences(data)),
        intended_use=INTENDED_USE,
    )
