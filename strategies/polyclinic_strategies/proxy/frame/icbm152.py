"""Average brain of the ICBM152 2009a template: tissue probabilities without a download.

nilearn ships the files. World coordinates are millimetres in RAS: x to the right, y to the front, z
up.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from polyclinic.errors import FileMissing, ImageUnreadable

PARTIAL_VOLUME_MM = 0.6  # blurs the hard edges of a label map into probabilities


@dataclass(frozen=True, eq=False)
class TissueMaps:
    """Probabilities of CSF, grey and white matter; the rest up to 1 is background.

    Attributes:
        probabilities: (3, H, W, D), float32 in [0, 1], sum at most 1.
        affine: (4, 4), voxel indices to world millimetres.
    """

    probabilities: Tensor
    affine: NDArray[np.float64]


@lru_cache(maxsize=1)
def icbm152() -> TissueMaps:
    """Read the ICBM152 2009a symmetric brain shipped with nilearn.

    CSF is the part of the brain that is neither grey nor white matter.

    Raises:
        FileMissing: nilearn is not installed, or no longer ships the files.

    Unbiased nonlinear average age-appropriate brain templates, Fonov et al. 2009,
    https://doi.org/10.1016/S1053-8119(09)70884-5.
    """
    package = find_spec("nilearn")  # located, not imported: importing nilearn takes seconds
    locations = package.submodule_search_locations if package else None
    folder = Path(next(iter(locations or ["nilearn"]))) / "datasets" / "data"
    (head, affine), (grey, _), (white, _) = (
        read_volume(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz")
        for name in ("t1", "gm", "wm")
    )
    mask = ((head > 0) | (grey + white > 25)).astype(np.float32)
    brain = gaussian_filter(mask, PARTIAL_VOLUME_MM)
    grey, white = brain * grey / 255, brain * white / 255
    return cropped(np.stack([np.clip(brain - grey - white, 0, 1), grey, white]), affine)


def read_volume(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Read an image and its affine.

    Raises:
        FileMissing: There is no such file.
        ImageUnreadable: The file cannot be read.
    """
    if not path.is_file():
        raise FileMissing(path, "the demo cohort's anatomies")
    try:
        image: Any = nibabel.load(path)
        voxels = np.asarray(image.dataobj, dtype=np.float32)
        return voxels, np.asarray(image.affine, dtype=np.float64)
    except (ImageFileError, OSError, EOFError, ValueError) as error:
        raise ImageUnreadable(path, str(error)) from error


def cropped(probabilities: NDArray[np.float32], affine: NDArray[np.float64]) -> TissueMaps:
    """Crop to the brain and one empty voxel around it, so that reading outside gives 0."""
    low, high = support(probabilities.max(0) > 1e-3)
    inside = probabilities[:, low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    padded = np.pad(inside, [(0, 0), (1, 1), (1, 1), (1, 1)])
    # reading is faster with a voxel's tissues side by side
    interleaved = np.ascontiguousarray(np.moveaxis(padded, 0, -1))
    return TissueMaps(torch.from_numpy(interleaved).movedim(-1, 0), affine @ shift(low - 1))


def support(volume: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first and one past the last index, per axis, where `volume` is not 0."""
    used = [np.flatnonzero((volume != 0).any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    first = np.array([indices[0] for indices in used])
    return first, np.array([indices[-1] + 1 for indices in used])


def shift(voxels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the (4, 4) matrix that moves indices by these voxels."""
    matrix = np.eye(4)
    matrix[:3, 3] = voxels
    return matrix
