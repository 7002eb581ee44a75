"""Three tiny hospitals with different tasks, whose class names nobody else must ever see."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE = 32
SECRETS = {
    "discs": ["zebra-benign", "quokka-malignant"],
    "stripes": ["heron-sparse", "newt-dense", "ibex-crossed"],
    "blobs": ["background", "okapi-lesion"],
}
CASES = (("training", 12), ("validation", 4), ("test", 4))
Picture = NDArray[np.uint8]


def _noise(rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.normal(60, 12, (SIZE, SIZE))


def _disc(rng: np.random.Generator) -> NDArray[np.bool_]:
    (x, y), radius = rng.uniform(8, 24, 2), rng.uniform(4, 7)
    grid = np.mgrid[:SIZE, :SIZE]
    return np.asarray((grid[0] - x) ** 2 + (grid[1] - y) ** 2 < radius**2)


def disc(rng: np.random.Generator, label: int) -> Picture:
    return (_noise(rng) + _disc(rng) * (110 if label else 40)).clip(0, 255).astype(np.uint8)


def stripe(rng: np.random.Generator, label: int) -> Picture:
    grid = np.mgrid[:SIZE, :SIZE]
    lines = np.sin(grid[0] / (1.0 + label)) + (np.sin(grid[1]) if label == 2 else 0)
    grey = _noise(rng) + 50 * lines
    return np.stack([grey, grey * 0.8, grey * 0.6], -1).clip(0, 255).astype(np.uint8)


def write_tasks(folder: Path) -> list[Path]:
    """Two classifications, of grey and of coloured pictures, and a segmentation."""
    return [
        _write_classes(folder / "discs", {"0": "photograph"}, disc, 1),
        _write_classes(folder / "stripes", {"0": "red", "1": "green", "2": "blue"}, stripe, 2),
        _write_blobs(folder / "blobs"),
    ]


def write_public(folder: Path, count: int = 24) -> Path:
    """Unlabelled pictures of the coordinator's."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(9)
    for number in range(count):
        Image.fromarray((disc if number % 2 else stripe)(rng, number % 3)).save(
            folder / f"{number}.png"
        )
    return folder


def _write_classes(
    folder: Path,
    modality: dict[str, str],
    draw: Callable[[np.random.Generator, int], Picture],
    seed: int,
) -> Path:
    rng, names = np.random.default_rng(seed), SECRETS[folder.name]
    folder.mkdir(parents=True)
    listed: dict[str, list[dict[str, object]]] = {}
    for split, count in CASES:
        for number in range(count):
            label = number % len(names)
            name = f"{split}-{number}.png"
            Image.fromarray(draw(rng, label)).save(folder / name)
            listed.setdefault(split, []).append({"image": name, "label": label})
    return _describe(folder, modality, listed)


def _write_blobs(folder: Path) -> Path:
    rng = np.random.default_rng(3)
    folder.mkdir(parents=True)
    listed: dict[str, list[dict[str, object]]] = {}
    for split, count in CASES:
        for number in range(count):
            inside, name = _disc(rng), f"{split}-{number}.png"
            Image.fromarray((_noise(rng) + inside * 110).clip(0, 255).astype(np.uint8)).save(
                folder / name
            )
            Image.fromarray(inside.astype(np.uint8)).save(folder / f"label-{name}")
            listed.setdefault(split, []).append({"image": name, "label": f"label-{name}"})
    return _describe(folder, {"0": "microscope"}, listed)


def _describe(
    folder: Path, modality: dict[str, str], listed: dict[str, list[dict[str, object]]]
) -> Path:
    labels = {str(number): name for number, name in enumerate(SECRETS[folder.name])}
    described = {
        "name": folder.name,
        "description": "made by a test",
        "modality": modality,
        "labels": labels,
        **listed,
    }
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder
