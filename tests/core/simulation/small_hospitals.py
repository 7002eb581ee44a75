"""Hospitals whose images are quick to write: ellipsoids, in another contrast at each."""

import json
from pathlib import Path

import nibabel
import numpy as np

SHAPE = (20, 20, 6)
LABELS = ("background", "CSF", "grey matter", "white matter")
CONTRASTS = {"north": (0.2, 0.6, 1.0), "south": (1.0, 0.6, 0.3), "west": (0.3, 1.0, 0.5)}
SPLITS = {"training": 2, "validation": 1, "test": 1}
SMALL = (
    "model=unet_2d",
    "data=brain_tissue_slices",
    "model.channels=[4,8]",
    "model.strides=[2]",
    "data.spacing_mm=[3.0,3.0,3.0]",
    "data.patch=[16,16]",
    "data.samples_per_case=2",
    "training.batch_size=2",
    "training.learning_rate=0.01",
    "privacy.release.min_subjects=1",
)


def write_hospitals(folder: Path, *names: str) -> list[Path]:
    """Write a folder for each name of `CONTRASTS`; all of them if none is given."""
    return [_write(folder / name, seed) for seed, name in enumerate(names or CONTRASTS)]


def _write(folder: Path, seed: int) -> Path:
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    listed: dict[str, list[dict[str, str]]] = {}
    for split, count in SPLITS.items():
        for number in range(count):
            labels = _ellipsoids(generator)
            image = np.choose(labels, (0.0, *CONTRASTS[folder.name]))
            image = image + (labels > 0) * generator.normal(0, 0.05, SHAPE)
            entry = {kind: f"{split}-{number}-{kind}.nii.gz" for kind in ("image", "label")}
            for kind, voxels in (("image", image.astype(np.float32)), ("label", labels)):
                made = nibabel.Nifti1Image(voxels, np.diag([3.0, 3.0, 3.0, 1.0]))
                nibabel.save(made, folder / entry[kind])
            listed.setdefault(split, []).append(entry)
    described = {
        "name": folder.name,
        "modality": {"0": "T1"},
        "labels": {str(number): name for number, name in enumerate(LABELS)},
        **listed,
    }
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def _ellipsoids(generator: np.random.Generator) -> np.ndarray:  # type: ignore[type-arg]
    """Label map of three nested ellipsoids, uint8."""
    centre = np.array(SHAPE) / 2 + generator.uniform(-1, 1, 3)
    radii = np.array([8.0, 7.0, 3.0]) * generator.uniform(0.9, 1.1, 3)
    places = np.moveaxis(np.indices(SHAPE), 0, -1)
    distance = np.sqrt((((places - centre) / radii) ** 2).sum(-1))
    labels = np.zeros(SHAPE, np.uint8)
    for label, limit in ((1, 1.0), (2, 0.75), (3, 0.5)):
        labels[distance < limit] = label
    return labels
