"""Hospitals' folders with small images, quick to write."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image as Picture

LABELS = ("background", "organ", "lesion")


@dataclass(frozen=True)
class Case:
    """One image: its array lies within a border of zeros, one voxel wide along the first axis."""

    shape: tuple[int, int, int] = (12, 14, 9)
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 2.0)
    value: float = 100.0
    subject: str = ""
    order: tuple[int, int, int] = (0, 1, 2)  # axis of the file for each axis of RAS


def write_site(folder: Path, cases: Sequence[Case], modality: Sequence[str] = ("MR",)) -> Path:
    """Write a hospital's folder; the first case validates, too."""
    folder.mkdir(parents=True)
    listed = [_write(folder, number, case, len(modality)) for number, case in enumerate(cases)]
    described = {
        "name": folder.name,
        "modality": {str(number): name for number, name in enumerate(modality)},
        "labels": {str(number): name for number, name in enumerate(LABELS)},
        "training": listed,
        "validation": listed[:1],
    }
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def _write(folder: Path, number: int, case: Case, channels: int) -> dict[str, object]:
    image = np.full((*case.shape, channels), case.value, np.float32)
    image[0] = image[-1] = 0
    label = np.zeros(case.shape, np.uint8)
    label[2:4] = 1
    label[4:5] = 2
    affine = np.diag([*case.spacing_mm, 1.0])
    affine[:, :3] = affine[:, list(case.order)]
    turned = image.transpose(*case.order, 3), label.transpose(case.order)
    names = {kind: f"{kind}{number}.nii.gz" for kind in ("image", "label")}
    for kind, voxels in zip(names, turned, strict=True):
        squeezed = voxels[..., 0] if kind == "image" and channels == 1 else voxels
        nibabel.save(nibabel.Nifti1Image(squeezed, affine), folder / names[kind])
    return {**names, **({"subject": case.subject} if case.subject else {})}


def write_pictures(folder: Path, count: int, size: tuple[int, int] = (40, 30)) -> Path:
    """Write a folder of photographs with label maps."""
    folder.mkdir(parents=True)
    listed = []
    for number in range(count):
        names = {kind: f"{kind}{number}.png" for kind in ("image", "label")}
        grey = np.full(size[::-1], 50 + number, np.uint8)
        label = np.zeros(size[::-1], np.uint8)
        label[5:9, 5:9] = 1
        Picture.fromarray(grey).save(folder / names["image"])
        Picture.fromarray(label).save(folder / names["label"])
        listed.append(names)
    described = {
        "name": folder.name,
        "modality": {"0": "photograph"},
        "labels": {str(number): name for number, name in enumerate(LABELS)},
        "training": listed[1:],
        "validation": listed[:1],
    }
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder
