"""A bundle's transforms: the few that mean the same here, with the arguments that they may have.

Each is named with or without `monai.transforms.`, and as MONAI's aliases end: d, D, Dict.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from polyclinic.errors import BundleInvalid
from polyclinic.system.text import clean

HOME = "monai.transforms"
COMMON = ("keys", "allow_missing_keys")
# name without the ending -> the arguments that are understood; both sides make these alone
INTENSITY: dict[str, tuple[str, ...]] = {
    "ClipIntensityPercentiles": ("lower", "upper", "channel_wise"),
    "NormalizeIntensity": ("subtrahend", "divisor", "nonzero", "channel_wise"),
    "ScaleIntensity": ("minv", "maxv", "factor", "channel_wise"),
    "ScaleIntensityRange": ("a_min", "a_max", "b_min", "b_max", "clip"),
    "ScaleIntensityRangePercentiles": (
        *("lower", "upper", "b_min", "b_max"),
        *("clip", "relative", "channel_wise"),
    ),
    "ThresholdIntensity": ("threshold", "above", "cval"),
}
GEOMETRY: dict[str, tuple[str, ...]] = {
    "Orientation": ("axcodes", "labels"),
    "ResizeWithPadOrCrop": ("spatial_size", "mode", "method"),
    "Resize": ("spatial_size", "mode", "align_corners", "anti_aliasing"),
    "Spacing": (
        *("pixdim", "mode", "padding_mode", "diagonal", "align_corners"),
        *("scale_extent", "recompute_affine"),
    ),
}
MIDDLE = "ResizeWithPadOrCrop"  # the middle of an image, as a classification takes it
# done here in any case, or without a meaning here
DONE: dict[str, tuple[str, ...]] = {
    "EnsureChannelFirst": ("channel_dim", "strict_check"),
    "EnsureType": ("data_type", "device", "dtype", "track_meta"),
    "LoadImage": ("image_only", "ensure_channel_first", "dtype", "reader"),
    "SelectItems": (),
    "ToTensor": ("dtype", "device"),
}
AFTER: dict[str, tuple[str, ...]] = {
    "Activations": ("softmax", "sigmoid"),
    "AsDiscrete": ("argmax", "to_onehot", "threshold"),
    "EnsureType": ("data_type", "device", "dtype", "track_meta"),
    "Invert": (
        *("transform", "orig_keys", "orig_meta_keys", "meta_keys", "meta_key_postfix"),
        *("nearest_interp", "to_tensor", "device", "post_func"),
    ),
    "SaveImage": (
        *("output_dir", "output_postfix", "output_ext", "output_dtype", "resample", "mode"),
        *("meta_keys", "meta_key_postfix", "separate_folder", "squeeze_end_dims", "print_log"),
        *("data_root_dir", "padding_mode", "dtype", "scale"),
    ),
    "SaveClassification": (),
    "ToTensor": ("dtype", "device"),
}
# their arguments name parts that are not read
UNREAD = ("Invertd", "SaveImaged", "SaveClassificationd")
_ENDING = re.compile(r"(?:d|D|Dict)$")


@dataclass(frozen=True)
class Step:
    """One transform.

    Attributes:
        name: MONAI's name, without the ending of those that take a dictionary.
        arguments: Without keys.
        place: Where it lies, for errors.
    """

    name: str
    arguments: Mapping[str, Any]
    place: str


def read_steps(
    chain: Any, place: str, known: Mapping[str, tuple[str, ...]], only: str = ""
) -> list[Step]:
    """Read a `Compose`, or a list of transforms.

    Args:
        chain: References replaced.
        place: Where it lies, for errors.
        known: Name of each transform that is understood, with its arguments.
        only: If given, steps for other keys alone are left out.

    Raises:
        BundleInvalid: A transform, or an argument, that is not understood.
    """
    if (
        isinstance(chain, Mapping)
        and str(chain.get("_target_", "")).rpartition(".")[2] == "Compose"
    ):
        chain, place = chain.get("transforms"), f"{place}#transforms"
    if not isinstance(chain, list):
        raise BundleInvalid(place, "is no list of transforms", "Write a Compose of transforms")
    return list(_steps(chain, place, known, only))


def _steps(
    chain: list[Any], place: str, known: Mapping[str, tuple[str, ...]], only: str
) -> Iterator[Step]:
    for number, entry in enumerate(chain):
        here = f"{place}#{number}"
        if not isinstance(entry, Mapping) or not isinstance(entry.get("_target_"), str):
            raise BundleInvalid(here, "is no transform", "It needs a table with _target_")
        if entry.get("_disabled_") is True:
            continue
        name = _name(entry["_target_"], known)
        if name is None:
            raise BundleInvalid(
                here,
                f"'{clean(entry['_target_'])[:80]}' is none of the transforms that mean the same "
                f"here: {', '.join(f'{each}d' for each in known)}",
                "Remove it from the bundle, or replace it by one of these",
            )
        arguments = {key: value for key, value in entry.items() if key not in (*COMMON, "_target_")}
        if unknown := [key for key in arguments if key not in known[name]]:
            raise BundleInvalid(
                f"{here}#{clean(unknown[0])[:80]}",
                f"{name}d is not taken with this argument",
                f"Remove it; understood are {', '.join(known[name]) or 'none'}",
            )
        if not only or only in _keys(entry.get("keys", only)):
            yield Step(name, arguments, here)


def _name(target: str, known: Mapping[str, tuple[str, ...]]) -> str | None:
    home, _, last = target.rpartition(".")
    if home and home != HOME and not home.startswith(f"{HOME}."):
        return None
    plain = _ENDING.sub("", last)
    return plain if last != plain and plain in known else None


def _keys(keys: Any) -> tuple[Any, ...]:
    return tuple(keys) if isinstance(keys, list) else (keys,)
