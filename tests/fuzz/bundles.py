"""MONAI bundles: configuration, weights, and what of them travels to a hospital."""

import copy
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
import yaml

from polyclinic.config.bundles.flat import flatten, unflatten
from polyclinic.config.bundles.network import KINDS
from polyclinic.config.bundles.read import read_bundle
from polyclinic.config.bundles.transforms import INTENSITY
from polyclinic.config.compose import instantiate
from polyclinic.config.validation import check_setting
from polyclinic.errors import BundleInvalid, ConfigError, ModelInvalid
from polyclinic.learning.bundles.weights import load_weights
from polyclinic.system.text import parse_json
from tests.fuzz.mutation import as_json, changed, damaged
from tests.fuzz.reader import Reader
from tests.monai_bundles import DENSENET, UNET, spleen

METADATA, INFERENCE = spleen()
NETWORK = "polyclinic.learning.bundles.network.bundle_network"
STEPS = "polyclinic.learning.bundles.intensity.IntensitySteps"
SMALL = flatten({key: value for key, value in UNET.items() if key != "_target_"})
FLAT = flatten([{"transform": "ScaleIntensity", "minv": 0.0}, {"transform": "NormalizeIntensity"}])
WORDS = (
    *(f"_target_: {name}" for name in ("os.system", "monai.data.Dataset", "UNet")),
    *("$import os", "@network_def", "%other.json", "$@device", "@image_key", "@a#b::0"),
)


def _configuration(file: str) -> Callable[[bytes, Path], None]:
    """Return what reads a bundle of which one file of configs/ is the input."""

    def read(content: bytes, folder: Path) -> None:
        configs = folder / "bundle" / "configs"
        shutil.rmtree(configs, ignore_errors=True)
        configs.mkdir(parents=True)
        (configs / "metadata.json").write_text(json.dumps(METADATA))
        if not file.startswith("inference"):
            (configs / "inference.json").write_text(json.dumps(INFERENCE))
        (configs / file).write_bytes(content)
        found = read_bundle(folder / "bundle")
        assert found.network.name in KINDS and len(found.patch) in (0, 2, 3)
        assert {step["transform"] for step in found.intensity} <= set(INTENSITY)
        assert unflatten(flatten(found.network.arguments)) == found.network.arguments

    return read


def _draw_inference(random: Random) -> bytes:
    if random.random() < 0.3:
        tree: Any = copy.deepcopy(changed(INFERENCE, random))
        node = tree
        while isinstance(node, dict) and node and random.random() < 0.8:
            name = random.choice(list(node))
            if not isinstance(node[name], dict | list) or random.random() < 0.2:
                node[name] = random.choice(WORDS)
                break
            node = node[name]
        return json.dumps(tree).encode()
    return as_json(INFERENCE, random)


def _draw_yaml(random: Random) -> bytes:
    text = yaml.safe_dump(INFERENCE).encode()
    kind = random.randrange(6)
    if kind == 0:
        return b"a: " + random.choice((b"[", b"{a: ")) * random.choice((50, 5000))
    if kind == 1:
        lines = [b"a0: &a0 [0, 0]", *(b"a%d: &a%d [*a%d, *a%d]" % (n, n, n - 1, n - 1)
                                      for n in range(1, 60))]  # fmt: skip
        return b"\n".join(lines) + b"\n" + text
    if kind == 2:
        return text.replace(
            b"image", random.choice((b"&a [*a]", b"!!python/name:os.system", b"1e9"))
        )
    return damaged(text, random)


def _flat(target: str, **more: str) -> Callable[[bytes, Path], None]:
    """Return what makes a part of a flat list that travelled."""
    name = "arguments" if target == NETWORK else "steps"

    def read(content: bytes, _folder: Path) -> None:
        values = check_setting(f"model.{name}", parse_json(content))
        if not isinstance(values, list):
            raise ConfigError("no list")
        instantiate({"_target_": target, name: values, **more})

    return read


def _draw_flat(random: Random, sound: list[str]) -> bytes:
    values = list(sound)
    if random.random() < 0.5:
        place = random.randrange(len(values))
        path = values[place].partition(" ")[0]
        word = random.choice(("0", "-1", "1e9", "99999", "true", "(none)", "(list)", "x", "2.5"))
        values[place] = f"{path} {word}"
        return json.dumps(values).encode()
    return as_json(values, random)


def _saved(value: Any) -> bytes:
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


def _read_weights(content: bytes, folder: Path) -> None:
    (folder / "model.pt").write_bytes(content)
    state = load_weights(folder / "model.pt")
    assert sum(tensor.nbytes for tensor in state.values()) < len(content) + 2**27


def _draw_weights(random: Random) -> bytes:
    if random.random() < 0.4:
        return damaged(WEIGHTS, random)
    content = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(WEIGHTS)) as source, zipfile.ZipFile(content, "w") as target:
        for name in source.namelist():
            found = source.read(name)
            target.writestr(name, damaged(found, random) if random.random() < 0.3 else found)
    return content.getvalue()


WEIGHTS = _saved({"conv.weight": torch.ones(2, 3), "conv.bias": torch.zeros(2).half()})
_DENSE = flatten({key: value for key, value in DENSENET.items() if key != "_target_"})
READERS = (
    Reader(
        "bundle",
        json.dumps(INFERENCE).encode(),
        _draw_inference,
        _configuration("inference.json"),
        (BundleInvalid,),
    ),
    Reader(
        "bundle-yaml",
        yaml.safe_dump(INFERENCE).encode(),
        _draw_yaml,
        _configuration("inference.yaml"),
        (BundleInvalid,),
    ),
    Reader(
        "bundle-metadata",
        json.dumps(METADATA).encode(),
        lambda random: as_json(METADATA, random),
        _configuration("metadata.json"),
        (BundleInvalid,),
    ),
    Reader("bundle-weights", WEIGHTS, _draw_weights, _read_weights, (ModelInvalid,)),
    Reader(
        "bundle-network",
        json.dumps(SMALL).encode(),
        lambda random: _draw_flat(random, SMALL),
        _flat(NETWORK, network="UNet"),
        (ConfigError, ValueError, MemoryError),
        2**31,
    ),
    Reader(
        "bundle-densenet",
        json.dumps(_DENSE).encode(),
        lambda random: _draw_flat(random, _DENSE),
        _flat(NETWORK, network="DenseNet"),
        (ConfigError, ValueError, MemoryError),
        2**31,
    ),
    Reader(
        "bundle-intensity",
        json.dumps(FLAT).encode(),
        lambda random: _draw_flat(random, FLAT),
        _flat(STEPS),
        (ConfigError, ValueError),
    ),
)
