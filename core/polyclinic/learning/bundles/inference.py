"""A job as a bundle's configs/inference.json: MONAI's transforms in the order of polyclinic's.

`python -m monai.bundle run` needs nothing but MONAI and fire: no ignite, and no network.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from polyclinic.config.bundles.transforms import INTENSITY
from polyclinic.config.schemas import DataConfig, Part
from polyclinic.errors import ConfigError
from polyclinic.learning.bundles.intensity import NAME, read_steps

STEPS = "polyclinic.learning.bundles.intensity.IntensitySteps"
MONAI = "monai.transforms."
IMAGE, PRED = "image", "pred"
FIGURES = 4  # of a channel in `data.foreground`: low, high, mean, deviation
WINDOWS_AT_ONCE = {2: 16, 3: 2}  # as `polyclinic.learning.training.infer` takes them
RUN = (
    "$torch.no_grad()(lambda: [@postprocessing({**case, 'pred_meta_dict': case['image'].meta, "
    "'pred': @inferer(case['image'][None].to(@device), @network)[0]}) and None "
    "for case in @dataset])()"
)


def describe_inference(data: DataConfig, network_def: Mapping[str, Any]) -> dict[str, Any]:
    """Describe prediction as polyclinic does it.

    Args:
        data: What the network was trained on.
        network_def: `_target_` and arguments.

    Returns:
        The content of configs/inference.json.

    Raises:
        ConfigError: Something that MONAI's transforms do not do.
    """
    if data.task == "regression":
        raise ConfigError(
            "Numbers are brought to their unit by data.ranges, which no transform of MONAI's does: "
            "use `polyclinic-client predict` with this model."
        )
    if not data.kind.per_voxel and data.spatial_dims == 2:
        raise ConfigError(
            "A 2-D classification takes the mean over the slices of a volume, which no inferer of "
            "MONAI's does: use `polyclinic-client predict` with this model."
        )
    return {
        "imports": ["$import glob"],
        "bundle_root": ".",
        "dataset_dir": ".",
        "output_dir": "$@bundle_root + '/eval'",
        "images": "$sorted(glob.glob(@dataset_dir + '/*.nii*'))",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": dict(network_def),
        "network": "$@network_def.to(@device).eval()",
        "weights": "$torch.load(@bundle_root + '/models/model.pt', map_location=@device, "
        "weights_only=True)",
        "preprocessing": _composed(_preprocessing(data)),
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': each} for each in @images]",
            "transform": "@preprocessing",
        },
        "inferer": _inferer(data),
        "postprocessing": _composed(_postprocessing(data)),
        "initialize": ["$@network.load_state_dict(@weights)"],
        "run": [RUN],
    }


def _composed(steps: Iterator[dict[str, Any]]) -> dict[str, Any]:
    return {"_target_": "Compose", "transforms": list(steps)}


def _preprocessing(data: DataConfig) -> Iterator[dict[str, Any]]:
    yield {"_target_": "LoadImaged", "keys": IMAGE}
    yield {"_target_": "EnsureChannelFirstd", "keys": IMAGE}
    if data.nan_as_zero:
        yield {"_target_": "SignalFillEmptyd", "keys": IMAGE, "replacement": 0.0}
    yield {"_target_": "Orientationd", "keys": IMAGE, "axcodes": data.orientation}
    if data.spacing_mm is not None:
        yield {
            "_target_": "Spacingd",
            "keys": IMAGE,
            "pixdim": list(data.spacing_mm),
            "mode": "bilinear",
            "padding_mode": "border",
            "scale_extent": True,
            "align_corners": True,
        }
    elif data.spatial_dims == 3:
        yield {
            "_target_": "Resized",
            "keys": IMAGE,
            "spatial_size": list(data.patch),
            "mode": "trilinear",
        }
    else:
        raise ConfigError(
            "data.spacing_mm=null of a 2-D task resizes each slice, which a bundle of volumes does "
            "not: use `polyclinic-client predict` with this model."
        )
    yield from _normalization(data)
    for part in data.intensity:
        yield from _intensity(part)
    if not data.kind.per_voxel:
        yield {
            "_target_": "ResizeWithPadOrCropd",
            "keys": IMAGE,
            "spatial_size": list(data.patch),
        }
    yield {"_target_": "EnsureTyped", "keys": IMAGE, "dtype": "float32"}


def _normalization(data: DataConfig) -> Iterator[dict[str, Any]]:
    """Write `data.normalization` as MONAI's transforms, with the same bits."""
    kinds = set(data.normalization)
    if kinds == {"z_score"}:
        yield _normalized(nonzero=True, channel_wise=True)
    elif kinds == {"ct"} and data.channels == 1:
        low, high, mean, deviation = data.foreground[:FIGURES]
        for limit, above in ((low, True), (high, False)):
            yield {
                "_target_": "ThresholdIntensityd",
                "keys": IMAGE,
                "threshold": limit,
                "above": above,
                "cval": limit,
            }
        yield _normalized(subtrahend=mean, divisor=deviation)
    elif kinds:
        raise ConfigError(
            f"data.normalization={list(data.normalization)} of {data.channels} channels is none "
            "that MONAI's transforms do: use `polyclinic-client predict` with this model."
        )


def _normalized(**arguments: object) -> dict[str, Any]:
    return {"_target_": "NormalizeIntensityd", "keys": IMAGE, **arguments}


def _intensity(part: Part) -> Iterator[dict[str, Any]]:
    target = str(part["_target_"])
    if target == STEPS:
        for step in read_steps(part["steps"]):
            arguments = {key: value for key, value in step.items() if key != NAME}
            yield {"_target_": f"{step[NAME]}d", "keys": IMAGE, **arguments}
        return
    name = target.removeprefix(MONAI)
    if name.removesuffix("d") not in INTENSITY:
        raise ConfigError(
            f"data.intensity: {target} is none of the transforms that a bundle may name, "
            f"{', '.join(f'{each}d' for each in INTENSITY)}."
        )
    yield {**part, "_target_": name}


def _inferer(data: DataConfig) -> dict[str, Any]:
    if not data.kind.per_voxel:
        return {"_target_": "SimpleInferer"}
    slices = {"_target_": "SliceInferer", "spatial_dim": 2}
    return {
        **(slices if data.spatial_dims == 2 else {"_target_": "SlidingWindowInferer"}),
        "roi_size": list(data.patch),
        "sw_batch_size": WINDOWS_AT_ONCE[data.spatial_dims],
        "overlap": data.overlap,
        "mode": "gaussian",
    }


def _postprocessing(data: DataConfig) -> Iterator[dict[str, Any]]:
    exclusive = data.task in ("segmentation", "classification")
    yield {"_target_": "Activationsd", "keys": PRED, "softmax" if exclusive else "sigmoid": True}
    if not data.kind.per_voxel:
        yield {
            "_target_": "SaveClassificationd",
            "keys": PRED,
            "output_dir": "@output_dir",
            "filename": "predictions.csv",
        }
        return
    yield {
        "_target_": "Invertd",
        "keys": PRED,
        "transform": "@preprocessing",
        "orig_keys": IMAGE,
        "nearest_interp": False,
    }
    discrete: dict[str, Any] = {"argmax": True} if exclusive else {"threshold": 0.5}
    yield {"_target_": "AsDiscreted", "keys": PRED, **discrete}
    yield {
        "_target_": "SaveImaged",
        "keys": PRED,
        "output_dir": "@output_dir",
        "output_postfix": "labels",
        "output_ext": ".nii.gz",
        "output_dtype": "uint8",
        "resample": False,
        "separate_folder": False,
    }
