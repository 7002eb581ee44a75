"""dcm2niix as the reference: the same files, its volumes, and how far ours are from them."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from polyclinic.imaging.headers import Grid
from polyclinic_client.dicom.reading.volumes import Volume

BESIDE = Path(sys.executable).parent / "dcm2niix"
PROGRAM = str(BESIDE) if BESIDE.exists() else shutil.which("dcm2niix")
needs_reference = pytest.mark.skipif(PROGRAM is None, reason="dcm2niix is not installed")


@dataclass(frozen=True)
class Apart:
    """How far two volumes are from each other: in mm, and in values; infinite if in shape."""

    mm: float
    values: float


def reference_volumes(files: Sequence[Path], folder: Path) -> list[Path]:
    """Convert files with dcm2niix; return its volumes, without overlays."""
    source, target = folder / "source", folder / "target"
    for each in (source, target):
        shutil.rmtree(each, ignore_errors=True)
        each.mkdir(parents=True)
    for number, file in enumerate(files):
        shutil.copyfile(file, source / f"{number:05}.dcm")
    command = [str(PROGRAM), "-z", "n", "-b", "n", "-f", "%s_%e", "-o", str(target), str(source)]
    subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return [each for each in sorted(target.glob("*.nii")) if "_ROI" not in each.name]


def compare(volume: Volume, reference: Path) -> Apart:
    """Compare a volume with a reference voxel by voxel, wherever each stores them."""
    image = nib.load(reference)
    return apart(volume, np.asanyarray(image.dataobj), image.affine)


def apart(volume: Volume, other: NDArray[Any], affine: NDArray[np.float64]) -> Apart:
    """Return how far a volume is from an array with an affine."""
    step = np.rint(np.linalg.inv(affine) @ volume.grid.affine)
    shape = np.array(volume.grid.shape)
    if tuple(np.abs(step[:3, :3]).astype(int) @ shape) != other.shape:
        return Apart(np.inf, np.inf)
    moved = Grid(volume.grid.shape, affine @ step)
    places = np.stack([each.ravel() for each in np.indices(volume.grid.shape)])
    index = (step[:3, :3] @ places + step[:3, 3:]).astype(int)
    if (index < 0).any() or (index >= np.array(other.shape)[:, None]).any():
        return Apart(np.inf, np.inf)
    found = other[tuple(index)].astype(np.float64) - volume.voxels.ravel()
    return Apart(volume.grid.distance_mm(moved), float(np.abs(found).max()))
