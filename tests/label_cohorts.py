"""Hospitals that are quick to write, one writer for each kind of label but one class an image."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

SIDE, SPACING_MM = 16, 3.0
COUNTS = {"training": 12, "validation": 6, "test": 6}
FINDINGS = ("ball", "slab", "stripes")
REGIONS = {"whole tumour": [1, 2, 4], "core": [1, 4], "enhancing": 4}
Volume = NDArray[np.float32]
Case = tuple[Volume, Any]  # an image, and a label or a label map


def draw_findings(rng: np.random.Generator, number: int) -> Case:
    """A noisy cube; each finding changes it in another way, and cases have all combinations."""
    image = rng.normal(1.0, 0.1, (SIDE,) * 3)
    there = [name for place, name in enumerate(FINDINGS) if number >> place & 1]
    if "ball" in there:
        image += 3.0 * (_distance(rng, 1.0) < 4)
    if "slab" in there:
        image[:, :, :3] += 3.0
    if "stripes" in there:
        image[:, ::4] += 2.0
    return image.astype(np.float32), there


def draw_number(rng: np.random.Generator, _number: int) -> Case:
    """A ball whose radius says the age: 20 to 80 years."""
    age = float(rng.uniform(20, 80))
    image = rng.normal(0.5, 0.05, (SIDE,) * 3) + 2.0 * (_distance(rng, 0.5) < 1 + age / 14)
    return image.astype(np.float32), round(age, 1)


def draw_regions(rng: np.random.Generator, _number: int) -> Case:
    """Three nested balls: 2 in the shell, 1 within it, 4 in the middle."""
    distance = _distance(rng, 2.0)
    label = np.select([distance < 2.2, distance < 3.8, distance < 5.6], [4, 1, 2], 0)
    image = rng.normal(0.0, 0.1, label.shape) + np.select(
        [label == 4, label == 1, label == 2], [3.0, 2.0, 1.0], 0.2
    )
    return image.astype(np.float32), label.astype(np.uint8)


def write_hospital(
    folder: Path,
    draw: Callable[[np.random.Generator, int], Case],
    labels: Mapping[str, Any],
    *,
    seed: int = 0,
    counts: Mapping[str, int] = COUNTS,
    **more: Any,
) -> Path:
    """Write a folder with dataset.json; `more` stands in it as well."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    splits: dict[str, list[dict[str, Any]]] = {}
    for split, count in counts.items():
        for number in range(count):
            image, label = draw(rng, number)
            name = f"{split}-{number}"
            _save(folder / f"{name}.nii.gz", image)
            if isinstance(label, np.ndarray):
                _save(folder / f"{name}-label.nii.gz", label)
                label = f"{name}-label.nii.gz"
            splits.setdefault(split, []).append({"image": f"{name}.nii.gz", "label": label})
    described = {"name": folder.name, "modality": {"0": "T1"}, "labels": labels, **splits, **more}
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def numbered(names: Sequence[str]) -> dict[str, str]:
    return {str(number): name for number, name in enumerate(names)}


def write_findings(folder: Path, **options: Any) -> Path:
    return write_hospital(folder, draw_findings, numbered(FINDINGS), **options)


def write_numbers(folder: Path, **options: Any) -> Path:
    return write_hospital(folder, draw_number, {"0": "age"}, task="regression", **options)


def write_regions(folder: Path, **options: Any) -> Path:
    return write_hospital(folder, draw_regions, {"background": 0, **REGIONS}, **options)


def _distance(rng: np.random.Generator, reach: float) -> NDArray[np.float64]:
    """Distance of each voxel from a centre near the middle."""
    centre = SIDE / 2 + rng.uniform(-reach, reach, 3)
    places = np.moveaxis(np.indices((SIDE,) * 3), 0, -1)
    return np.asarray(np.linalg.norm(places - centre, axis=-1))


def _save(path: Path, voxels: NDArray[Any]) -> None:
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([SPACING_MM] * 3 + [1.0])), path)
