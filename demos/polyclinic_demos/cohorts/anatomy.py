"""Brains for the demo hospitals: tissue maps, and variation between people.

There are two sources. `icbm152()` is the average brain that nilearn ships, so it needs no download.
`real_person()` reads one of the real people under `POLYCLINIC_DATA`. `subject()` makes an
individual from either by a random smooth deformation. World coordinates are millimetres in RAS: x
to the right, y to the front, z up.
"""

from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional

from polyclinic.imaging import deformation
from polyclinic_strategies.proxy.frame.frames import dilate
from polyclinic_strategies.proxy.frame.icbm152 import (
    PARTIAL_VOLUME_MM,
    TissueMaps,
    cropped,
    icbm152,
    read_volume,
    shift,
    support,
)

COARSE_MM = 4.0  # voxel size of the grid of deformations
SMOOTHNESS_MM = 8.0  # sigma of the Gaussian that smooths the velocity
DISPLACEMENT_MM = (3.0, 5.0)  # root mean square of a subject's displacement, drawn in this range
ROTATION_DEGREES = 4.0
TRANSLATION_MM = 4.0
CHANGE_MM = 0.7  # root mean square of the change of a person's brain between two visits
LESION_MM = 5.0  # radius of a lesion
SCALE = 0.04
_STEPS = 4  # squarings: the first step is then well below a voxel of the coarse grid
_REACH_MM = 20.0  # a deformed and turned brain reaches at most this far beyond the original one

# FreeSurfer's numbers of CSF, grey and white matter; without the head, and without sulcal fluid,
# which is drawn unevenly
TISSUES = (
    (4, 5, 14, 15, 43, 44, 72),
    (3, 8, 10, 11, 12, 13, 17, 18, 26, 42, 47, 49, 50, 51, 52, 53, 54, 58),
    (2, 7, 16, 28, 41, 46, 60, 77, 85, 251, 252, 253, 254, 255),
)


@dataclass(frozen=True, eq=False)
class Subject:
    """One person: tissue maps seen through a pose and a smooth deformation, which both pull back.

    Attributes:
        maps: The original brain.
        pose: (4, 4), the scanner's world to the world of `maps`.
        displacement_mm: (3, h, w, d), added after `pose`, on a coarse grid.
        grid: (4, 4), voxel indices of `displacement_mm` to the world of `maps`.
    """

    maps: TissueMaps
    pose: NDArray[np.float64]
    displacement_mm: Tensor
    grid: NDArray[np.float64]


@lru_cache(maxsize=2)
def real_person(path: Path) -> TissueMaps:
    """Read a FreeSurfer label map of a real person.

    Everything but brain and ventricles is background.

    Raises:
        FileMissing: There is no such file.
        ImageUnreadable: The file is not an image.
    """
    structures, affine = read_volume(path)
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    tissues = [np.isin(structures, codes).astype(np.float32) for codes in TISSUES]
    low, high = support(np.stack(tissues).max(0))
    crop = tuple(slice(*edges) for edges in zip(low, high, strict=True))
    sigma = PARTIAL_VOLUME_MM / spacing_mm
    blurred = np.stack([gaussian_filter(tissue[crop], sigma) for tissue in tissues])
    return cropped(blurred, affine @ shift(low))


def subject(seed: int, maps: TissueMaps | None = None) -> Subject:
    """Make a person: a random diffeomorphism and a random small affine map of a brain.

    The velocity is white noise smoothed with `SMOOTHNESS_MM`, its root mean square (and, to a few
    percent, that of the displacement) drawn in `DISPLACEMENT_MM`. The same seed gives the same
    person.

    Args:
        seed: Any non-negative integer below 2^63.
        maps: The original brain; by default ICBM152.
    """
    maps = maps or icbm152()
    generator = torch.Generator().manual_seed(seed)
    grid, shape = _coarse_grid(maps, margin_mm=_REACH_MM)
    noise = torch.randn((3, *shape), generator=generator, dtype=torch.float64).numpy()
    low, high = DISPLACEMENT_MM
    rms_mm = float(low + (high - low) * torch.rand((), generator=generator))
    return Subject(maps, _pose(_centre(maps), generator), smooth_displacement(noise, rms_mm), grid)


def smooth_displacement(noise: NDArray[np.float64], rms_mm: float) -> Tensor:
    """Turn white noise, (3, h, w, d), into a diffeomorphism of about this root mean square.

    It is in millimetres, on the coarse grid.
    """
    velocity = _smoothed(noise)
    scaled = velocity * (rms_mm / COARSE_MM / float(_rms(velocity)))
    return deformation.exponentiate(scaled, _STEPS)[0] * COARSE_MM


def revisit(person: Subject, visit: int, seed: int) -> Subject:
    """Return the same person on another day, in another pose and changed a little.

    Args:
        person: From `subject`.
        visit: Number of the visit; 0 is the first, and changes nothing.
        seed: The person's seed. The visit is drawn from it and not from the voxels, whose last bits
            depend on the number of threads.
    """
    if visit == 0:
        return person
    chosen = int.from_bytes(sha256(f"{seed} {visit}".encode()).digest()[:7], "big")
    generator = torch.Generator().manual_seed(chosen)
    shape = person.displacement_mm.shape
    change = _smoothed(torch.randn(shape, generator=generator, dtype=torch.float64).numpy())
    # not smooth_displacement, which rounds differently
    change = deformation.exponentiate(change * (CHANGE_MM / COARSE_MM / _rms(change)), _STEPS)
    moved = deformation.compose(person.displacement_mm[None] / COARSE_MM, change)[0] * COARSE_MM
    return Subject(person.maps, _pose(_centre(person.maps), generator), moved, person.grid)


def with_lesions(maps: TissueMaps, seed: int, number: int) -> TissueMaps:
    """Put fluid-filled lesions into the white matter of a brain, at places of the person's own.

    Args:
        maps: The brain.
        seed: Determines the places.
        number: Number of lesions.
    """
    generator = np.random.default_rng(seed)
    spacing_mm = np.linalg.norm(maps.affine[:3, :3], axis=0)
    white = np.argwhere(maps.probabilities[2].numpy() > 0.9)
    holes = np.zeros(maps.probabilities.shape[1:], np.float32)
    reach = np.ceil(LESION_MM / spacing_mm)
    for place in white[generator.choice(len(white), number, replace=False)]:
        corner = np.maximum(place - reach, 0).astype(int)
        ends = zip(corner, place + reach, strict=True)
        part = tuple(slice(low, int(end) + 1) for low, end in ends)
        index = corner + np.moveaxis(np.indices(holes[part].shape), 0, -1)
        inside = np.linalg.norm((index - place) * spacing_mm, axis=-1) <= LESION_MM
        holes[part] = np.maximum(holes[part], inside)
    hole = torch.from_numpy(holes)
    tissues = maps.probabilities * (1 - hole)
    tissues[0] += maps.probabilities.sum(0) * hole
    return TissueMaps(tissues, maps.affine)


def sample(person: Subject, affine: NDArray[np.float64], shape: tuple[int, int, int]) -> Tensor:
    """Read a person's tissue probabilities on any grid.

    Args:
        person: The person.
        affine: (4, 4), the grid's voxel indices to the scanner's world, millimetres.
        shape: Shape of the grid.

    Returns:
        (3, H, W, D): CSF, grey matter, white matter; 0 outside the brain.
    """
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    sizes = [
        max(2, int(np.ceil(n * mm / COARSE_MM)) + 1)
        for n, mm in zip(shape, spacing_mm, strict=True)
    ]
    axes = [torch.linspace(0, n - 1, size) for n, size in zip(shape, sizes, strict=True)]
    index = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
    world = _transform(person.pose @ affine, index)
    lookup = _transform(np.linalg.inv(person.grid), world)
    world = world + deformation.sample(person.displacement_mm[None], lookup)
    coarse = _transform(np.linalg.inv(person.maps.affine), world)
    # the map is smooth: computing it every few millimetres and interpolating is many times faster
    # than computing it for every voxel
    fine = functional.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)
    points = fine[0].flatten(1)
    near = functional.interpolate(_near_brain(person.maps, coarse), size=shape)
    chosen = near.flatten().nonzero()[:, 0]  # most of a field of view is air
    tissues = torch.zeros(3, points.shape[1])
    places = points[:, chosen].view(1, 3, 1, 1, -1)
    found = deformation.sample(person.maps.probabilities[None], places)
    return tissues.index_copy_(1, chosen, found.view(3, -1)).view(3, *shape)


def field_of_view(
    person: Subject, margin_mm: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lowest and the highest corner (mm, scanner's world) of a box around the brain."""
    affine, shape = _coarse_grid(person.maps, margin_mm=_REACH_MM)
    low, high = support(sample(person, affine, shape).sum(0).numpy() > 0.05)
    corners = affine[:3, 3] + COARSE_MM * np.stack([low, high - 1])
    return corners[0] - COARSE_MM - margin_mm, corners[1] + COARSE_MM + margin_mm


def _near_brain(maps: TissueMaps, points: Tensor) -> Tensor:
    """Return 1 where a coarse point lies within about one coarse step of the brain, else 0.

    Returns:
        (1, 1, h, w, d).
    """
    brain = deformation.sample(maps.probabilities[None], points).sum(1, keepdim=True) > 0
    return dilate(brain.float(), 1)


def _corners(maps: TissueMaps) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    last = np.array(maps.probabilities.shape[1:]) - 1
    ends = np.stack([maps.affine[:3, 3], maps.affine[:3, :3] @ last + maps.affine[:3, 3]])
    return ends.min(0), ends.max(0)


def _centre(maps: TissueMaps) -> NDArray[np.float64]:
    low, high = _corners(maps)
    return np.asarray((low + high) / 2)


def _coarse_grid(
    maps: TissueMaps, margin_mm: float
) -> tuple[NDArray[np.float64], tuple[int, int, int]]:
    low, high = _corners(maps)
    affine = np.diag([COARSE_MM, COARSE_MM, COARSE_MM, 1.0])
    affine[:3, 3] = low - margin_mm
    height, width, depth = (int(n) for n in np.ceil((high - low + 2 * margin_mm) / COARSE_MM) + 1)
    return affine, (height, width, depth)


def _pose(centre: NDArray[np.float64], generator: torch.Generator) -> NDArray[np.float64]:
    """Draw a small rotation, scaling and translation about `centre`."""
    draws = torch.randn((3, 3), generator=generator, dtype=torch.float64).clamp(-2, 2).numpy() / 2
    turn, move = np.deg2rad(ROTATION_DEGREES) * draws[0], TRANSLATION_MM * draws[1]
    size = 1 + SCALE * draws[2]
    matrix = np.eye(4)
    for axis, angle in enumerate(turn):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        plane = np.eye(4)
        plane[i, i] = plane[j, j] = np.cos(angle)
        plane[i, j], plane[j, i] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ plane
    matrix[:3, :3] = matrix[:3, :3] @ np.diag(size)
    matrix[:3, 3] = centre + move - matrix[:3, :3] @ centre
    return matrix


def _transform(matrix: NDArray[np.floating[Any]], points: Tensor) -> Tensor:
    """Apply a (4, 4) affine to points (1, 3, h, w, d)."""
    linear = torch.from_numpy(np.ascontiguousarray(matrix[:3])).to(points.dtype)
    return torch.einsum("ij,bjhwd->bihwd", linear[:, :3], points) + linear[:, 3].view(1, 3, 1, 1, 1)


def _smoothed(noise: NDArray[np.float64]) -> Tensor:
    smooth = np.stack([gaussian_filter(axis, SMOOTHNESS_MM / COARSE_MM) for axis in noise])
    return torch.from_numpy(smooth).float()[None]


def _rms(field: Tensor) -> Tensor:
    return field.square().sum(1).mean().sqrt()
