"""Files of a trained system: one for the hospitals, one for the segmentation service."""

import json
from collections.abc import Mapping
from pathlib import Path

from polyclinic.config.schemas import Setting
from polyclinic.learning.state_dict import save_state
from polyclinic.system.text import parse_json
from polyclinic_strategies.proxy.protection import Protection
from polyclinic_strategies.proxy.settings import ABOUT
from polyclinic_strategies.proxy.system import ProxySystem

OWN = "model.segmenter."  # prefix of the segmenter's settings among the system's
GENERATOR, SEGMENTER = "generator.safetensors", "segmenter.safetensors"


def write_parts(
    system: ProxySystem, labels: tuple[str, ...], settings: Mapping[str, Setting], folder: Path
) -> Protection:
    """Write the generator's and the segmenter's files.

    Args:
        system: A trained system.
        labels: Names of the classes.
        settings: Settings that differ from `conf/`; those of the segmenter's data are kept in its
            file.
        folder: Folder to write to.

    Raises:
        DiskFull: No room.
    """
    protection = system.protection(labels)
    protection.save(folder / GENERATOR)
    names = {"model": "unet", "data": "proxy_brain", "training": "default"}
    kept = {
        name.replace(OWN, "model."): value
        for name, value in settings.items()
        if name.startswith(("data.", OWN))
    }
    described = {
        "names": names,
        "settings": kept,
        ABOUT: {"shape": list(protection.shape), "digest": protection.digest},
    }
    save_state(
        system.segmenter.state_dict(), folder / SEGMENTER, {"polyclinic": json.dumps(described)}
    )
    return protection


def read_proxy(metadata: Mapping[str, str]) -> tuple[tuple[int, int, int], str]:
    """Return the shape of proxies and the generator's digest that a segmenter's file names.

    Args:
        metadata: Metadata of the segmenter's safetensors file.

    Raises:
        KeyError, TypeError, ValueError: The file names none.
    """
    described = parse_json(metadata["polyclinic"])[ABOUT]
    height, width, depth = described["shape"]
    return (height, width, depth), described["digest"]
