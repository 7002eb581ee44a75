"""Reference brain: the common frame of hospital and service."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from polyclinic.imaging.deformation import identity, sample
from polyclinic.imaging.headers import Grid, spacing_of
from polyclinic_strategies.proxy.frame.frames import transform, within
from polyclinic_strategies.proxy.frame.icbm152 import TissueMaps, icbm152

CONTRAST = (0.22, 0.62, 1.0)  # CSF, grey matter, white matter: as a T1 scan shows them
BOX_MM = (160.0, 192.0, 160.0)
BRAIN = 0.1  # voxels of the reference that are brighter are brain


@dataclass(frozen=True, eq=False)
class Reference:
    """Atlas to which every image is brought.

    Attributes:
        image: (H, W, D), float32 in [0, 1], air 0.
        affine: (4, 4), voxel index to world mm (RAS).
    """

    image: Tensor
    affine: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (H, W, D)."""
        height, width, depth = self.image.shape
        return height, width, depth

    @property
    def brain(self) -> Tensor:
        """Mask of the brain, (H, W, D), bool."""
        return self.image > BRAIN

    @property
    def digest(self) -> str:
        """SHA-256 of the voxels (as 16-bit numbers) and of their position (to a micrometre).

        Both sides must have the same frame.
        """
        voxels = (self.image * 65535).round().to(torch.int32).numpy().astype("<u2")
        place = (self.affine * 1000).round().astype("<i8")
        content = repr(self.shape).encode() + place.tobytes() + voxels.tobytes()
        return hashlib.sha256(content).hexdigest()

    def grid(self, finer: int = 1) -> Grid:
        """Return the box cut into `finer` times as many voxels along each axis.

        Raises:
            ValueError: `finer` is below 1.
        """
        if finer < 1:
            raise ValueError(f"finer is {finer}, it must be at least 1")
        step = np.diag([1 / finer] * 3 + [1.0])
        step[:3, 3] = (1 / finer - 1) / 2
        height, width, depth = self.shape
        return Grid((finer * height, finer * width, finer * depth), self.affine @ step)


def reference_from(
    maps: TissueMaps,
    contrast: tuple[float, float, float] = CONTRAST,
    spacing_mm: float = 1.0,
    box_mm: tuple[float, float, float] = BOX_MM,
) -> Reference:
    """Make an atlas from tissue maps.

    The brain is in the middle of a box whose axes run to the right, the front and up.

    Args:
        maps: Probabilities of CSF, grey and white matter.
        contrast: Their intensities, the brightest 1.
        spacing_mm: Voxel size.
        box_mm: Edges of the box, rounded to whole voxels.
    """
    shape = [max(1, round(edge / spacing_mm)) for edge in box_mm]
    finer = max(1, round(spacing_mm / min(spacing_of(maps.affine))))
    signal = torch.einsum("c,chwd->hwd", torch.tensor(contrast), maps.probabilities).contiguous()
    inside = (maps.probabilities.sum(0) > 0.5).nonzero()
    centre = ((inside.amin(0) + inside.amax(0)).double() / 2).numpy()
    middle = maps.affine[:3, :3] @ centre + maps.affine[:3, 3]
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = middle - spacing_mm * (np.array(shape) - 1) / 2
    step = np.diag([1 / finer] * 3 + [1.0])
    step[:3, 3] = (1 / finer - 1) / 2
    to_maps = np.linalg.inv(maps.affine) @ affine @ step
    points = transform(to_maps, identity([finer * size for size in shape]))
    fine = sample(signal[None, None], points) * within(points, signal.shape)
    return Reference(functional.avg_pool3d(fine, finer)[0, 0].clamp_(0, 1), affine)


@lru_cache(maxsize=2)
def icbm152_reference(
    spacing_mm: float = 1.0, box_mm: tuple[float, float, float] = BOX_MM
) -> Reference:
    """Return the ICBM152 average brain as a T1 atlas, or what a smaller box around its middle has.

    Raises:
        FileMissing: nilearn's files are missing.
    """
    return reference_from(icbm152(), spacing_mm=spacing_mm, box_mm=box_mm)
