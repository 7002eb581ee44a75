"""A bundle as settings of a run: `model=bundle bundle=FOLDER`.

A hospital needs no bundle. What it builds travels as settings: the network and the intensity steps
as flat lists, the grid as plain numbers.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polyclinic.config.bundles.flat import flatten
from polyclinic.config.bundles.read import Bundle, read_bundle
from polyclinic.config.overrides import read_override
from polyclinic.config.tasks import KINDS
from polyclinic.errors import BundleInvalid, ConfigError

MODEL, SETTING = "bundle", "bundle"  # name in conf/model; name of the setting
Changes = Mapping[str, Any]  # dotted key to value


def with_bundle(overrides: Sequence[str]) -> tuple[list[str], Changes]:
    """Replace `bundle=FOLDER` by what the bundle says; settings that are given have precedence.

    Args:
        overrides: As for `load_config`.

    Returns:
        The overrides, with a choice of the groups that were not chosen; and values of settings
        that were not given.

    Raises:
        BundleInvalid: The bundle cannot be taken.
        ConfigError: Another model was chosen, or something is missing that the bundle does not say.
    """
    read = [read_override(text)[1] for text in overrides if text.partition("=")[2]]
    given = {each.key_or_group: str(each.value()) for each in read}
    folder, model = given.get(SETTING, "null"), given.get("model")
    if folder in ("null", "None", ""):
        return list(overrides), {}
    if model not in (None, MODEL):
        raise ConfigError(f"bundle={folder}: choose model={MODEL}, not model={model}.")
    path = Path(folder)
    found = read_bundle(path)
    chosen = {
        "model": MODEL,
        "data": f"bundle_{found.kind}{'_resized' if found.spacing_mm is None else ''}",
        "training": KINDS[found.kind].trainings[0],
    }
    groups = [f"{group}={name}" for group, name in chosen.items() if group not in given]
    own = given.get("data", chosen["data"]) != chosen["data"]  # another grid was chosen
    changes = {
        key: value
        for key, value in _settings(found).items()
        if key not in given and not (own and key.startswith("data."))
    }
    for key, name in (("data.patch", "patch"), ("data.spacing_mm", "spacing_mm")):
        if key in changes and changes[key] == []:
            raise BundleInvalid(
                path,
                f"does not say {_MISSING[name]}",
                f"Give it, for example '{key}=[{_EXAMPLE[name]}]'",
            )
    return [*groups, *overrides], changes


_MISSING = {
    "patch": "the size of an image or window (roi_size of the inferer, or spatial_shape)",
    "spacing_mm": "the size of voxels (Spacingd or Resized in preprocessing)",
}
_EXAMPLE = {"patch": "96,96,96", "spacing_mm": "1.0,1.0,1.0"}


def _settings(bundle: Bundle) -> dict[str, Any]:
    """Map dotted keys to what the bundle says."""
    spacing = [float(size) for size in bundle.spacing_mm or ()]
    return {
        "model.network": bundle.network.name,
        "model.arguments": flatten(bundle.network.arguments),
        "data.channels": bundle.metadata.channels,
        "data.modality": list(bundle.metadata.modality),
        "data.labels": list(bundle.metadata.labels),
        "data.orientation": bundle.orientation,
        **({} if bundle.spacing_mm is None else {"data.spacing_mm": spacing}),
        "data.patch": list(bundle.patch),
        "data.overlap": bundle.overlap,
        "data.intensity_steps": flatten(bundle.intensity),
        "base": None if bundle.weights is None else str(bundle.weights),
    }
