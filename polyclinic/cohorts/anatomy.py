"""Brains for the demo hospitals: where fluid, grey and white matter lie, and how people's brains differ.

Two sources. `icbm152()` is the average brain that nilearn ships, so it needs no download. `real_person()` reads one of
the real people under `POLYCLINIC_DATA`. `subject()` makes an individual of either by a random smooth deformation.
World coordinates are millimetres in RAS: x to the right, y to the front, z up.
"""

from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
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
from torch.nn import functional

from polyclinic import deformation
from polyclinic.errors import FileMissing, ImageUnreadable

COARSE_MM = 4.0  # the grid on which deformations live
SMOOTHNESS_MM = 8.0  # sigma of the Gaussian that smooths the velocity
DISPLACEMENT_MM = (3.0, 5.0)  # root mean square of a subject's displacement, drawn in this range
ROTATION_DEGREES = 4.0
TRANSLATION_MM = 4.0
CHANGE_MM = 0.7  # root mean square of what a person's brain changes between two visits
LESION_MM = 5.0  # a lesion's radius
SCALE = 0.04
_STEPS = 4  # squarings: the first step is then well below a voxel of the coarse grid
_REACH_MM = 20.0  # how far from the brain, at most, a deformed and turned brain is looked for
_PARTIAL_VOLUME_MM = 0.6  # blurs the hard edges of a label map into probabilities

TISSUES = (  # CSF, grey, white matter, as FreeSurfer numbers structures; head, and sulcal fluid that is drawn unevenly, are left out
    (4, 5, 14, 15, 43, 44, 72),
    (3, 8, 10, 11, 12, 13, 17, 18, 26, 42, 47, 49, 50, 51, 52, 53, 54, 58),
    (2, 7, 16, 28, 41, 46, 60, 77, 85, 251, 252, 253, 254, 255),
)


@dataclass(frozen=True, eq=False)
class TissueMaps:
    """Probabilities of CSF, grey and white matter; what is left to 1 is background.

    Attributes:
        probabilities: (3, H, W, D), float32 in [0, 1], sum at most 1.
        affine: (4, 4), voxel indices to world millimetres.
    """

    probabilities: Tensor
    affine: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Subject:
    """One person: tissue maps seen through a pose and a smooth deformation, both pulling back.

    Attributes:
        maps: The brain that this one is made from.
        pose: (4, 4), the scanner's world to the world of `maps`.
        displacement_mm: (3, h, w, d), added after `pose`, on a coarse grid.
        grid: (4, 4), voxel indices of `displacement_mm` to the world of `maps`.
    """

    maps: TissueMaps
    pose: NDArray[np.float64]
    displacement_mm: Tensor
    grid: NDArray[np.float64]


@lru_cache(maxsize=1)
def icbm152() -> TissueMaps:
    """Read the ICBM152 2009a symmetric brain shipped with nilearn; CSF is what is neither grey nor white.

    Raises:
        FileMissing: nilearn is not installed, or no longer ships the files.

    Unbiased nonlinear average age-appropriate brain templates, Fonov et al. 2009, https://doi.org/10.1016/S1053-8119(09)70884-5.
    """
    package = find_spec("nilearn")  # located, not imported: importing nilearn takes seconds
    locations = package.submodule_search_locations if package else None
    folder = Path(next(iter(locations or ["nilearn"]))) / "datasets" / "data"
    (head, affine), (grey, _), (white, _) = (
        read_volume(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz") for name in ("t1", "gm", "wm")
    )
    brain = gaussian_filter(((head > 0) | (grey + white > 25)).astype(np.float32), _PARTIAL_VOLUME_MM)
    grey, white = brain * grey / 255, brain * white / 255
    return _cropped(np.stack([np.clip(brain - grey - white, 0, 1), grey, white]), affine)


@lru_cache(maxsize=2)
def real_person(path: Path) -> TissueMaps:
    """Read a FreeSurfer label map of a real person. Everything but brain and ventricles is background.

    Raises:
        FileMissing: There is no such file.
        ImageUnreadable: The file is not an image.
    """
    structures, affine = read_volume(path)
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    tissues = [np.isin(structures, codes).astype(np.float32) for codes in TISSUES]
    low, high = _support(np.stack(tissues).max(0))
    crop = tuple(slice(*edges) for edges in zip(low, high, strict=True))
    blurred = np.stack([gaussian_filter(tissue[crop], _PARTIAL_VOLUME_MM / spacing_mm) for tissue in tissues])
    return _cropped(blurred, affine @ _shift(low))


def subject(seed: int, maps: TissueMaps | None = None) -> Subject:
    """Make a person: a random diffeomorphism and a random small affine of a brain, the same for the same seed.

    The velocity is white noise smoothed with `SMOOTHNESS_MM`, its root mean square (and, to a few percent, that of the
    displacement) drawn in `DISPLACEMENT_MM`.

    Args:
        seed: Any non-negative integer below 2^63.
        maps: The brain to start from; ICBM152 if not given.
    """
    maps = maps or icbm152()
    generator = torch.Generator().manual_seed(seed)
    grid, shape = _coarse_grid(maps, margin_mm=_REACH_MM)
    noise = torch.randn((3, *shape), generator=generator, dtype=torch.float64).numpy()
    low, high = DISPLACEMENT_MM
    rms_mm = float(low + (high - low) * torch.rand((), generator=generator))
    return Subject(maps, _pose(_centre(maps), generator), smooth_displacement(noise, rms_mm), grid)


def smooth_displacement(noise: NDArray[np.float64], rms_mm: float) -> Tensor:
    """Turn white noise, (3, h, w, d), into a diffeomorphism of about this root mean square, in millimetres on the coarse grid."""
    velocity = _smoothed(noise)
    return deformation.exponentiate(velocity * (rms_mm / COARSE_MM / float(_rms(velocity))), _STEPS)[0] * COARSE_MM


def revisit(person: Subject, visit: int, seed: int) -> Subject:
    """The same person on another day: lies differently, and has changed a little.

    Args:
        person: From `subject`.
        visit: Which one; 0 is the first, and changes nothing.
        seed: The person's: the visit is drawn from it, as the voxels' last bits depend on the number of threads.
    """
    if visit == 0:
        return person
    generator = torch.Generator().manual_seed(int.from_bytes(sha256(f"{seed} {visit}".encode()).digest()[:7], "big"))
    noise = torch.randn(person.displacement_mm.shape, generator=generator, dtype=torch.float64).numpy()
    change = _smoothed(noise)
    change = deformation.exponentiate(change * (CHANGE_MM / COARSE_MM / _rms(change)), _STEPS)  # smooth_displacement rounds otherwise
    shape = deformation.compose(person.displacement_mm[None] / COARSE_MM, change)[0] * COARSE_MM
    return Subject(person.maps, _pose(_centre(person.maps), generator), shape, person.grid)


def with_lesions(maps: TissueMaps, seed: int, number: int) -> TissueMaps:
    """Put fluid-filled lesions into the white matter of a brain, at places that tell one person from another.

    Args:
        maps: The brain.
        seed: Decides the places.
        number: How many.
    """
    generator = np.random.default_rng(seed)
    spacing_mm = np.linalg.norm(maps.affine[:3, :3], axis=0)
    white = np.argwhere(maps.probabilities[2].numpy() > 0.9)
    holes = np.zeros(maps.probabilities.shape[1:], np.float32)
    for place in white[generator.choice(len(white), number, replace=False)]:
        corner = np.maximum(place - np.ceil(LESION_MM / spacing_mm), 0).astype(int)
        part = tuple(slice(low, int(end) + 1) for low, end in zip(corner, place + np.ceil(LESION_MM / spacing_mm), strict=True))
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
        shape: The grid's size.

    Returns:
        (3, H, W, D): CSF, grey matter, white matter; 0 outside the brain.
    """
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    sizes = [max(2, int(np.ceil(n * mm / COARSE_MM)) + 1) for n, mm in zip(shape, spacing_mm, strict=True)]
    axes = [torch.linspace(0, n - 1, size) for n, size in zip(shape, sizes, strict=True)]
    index = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
    world = _transform(person.pose @ affine, index)
    lookup = _transform(np.linalg.inv(person.grid), world)
    world = world + deformation.sample(person.displacement_mm[None], lookup)
    coarse = _transform(np.linalg.inv(person.maps.affine), world)
    # the map is smooth: computed every few millimetres and interpolated, many times faster than voxel by voxel
    points = functional.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)[0].flatten(1)
    near = functional.interpolate(_near_brain(person.maps, coarse), size=shape)
    chosen = near.flatten().nonzero()[:, 0]  # most of a field of view is air
    tissues = torch.zeros(3, points.shape[1])
    found = deformation.sample(person.maps.probabilities[None], points[:, chosen].view(1, 3, 1, 1, -1))
    return tissues.index_copy_(1, chosen, found.view(3, -1)).view(3, *shape)


def field_of_view(person: Subject, margin_mm: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lowest and the highest corner (mm, scanner's world) of a box around the brain."""
    affine, shape = _coarse_grid(person.maps, margin_mm=_REACH_MM)
    low, high = _support(sample(person, affine, shape).sum(0).numpy() > 0.05)
    corners = affine[:3, 3] + COARSE_MM * np.stack([low, high - 1])
    return corners[0] - COARSE_MM - margin_mm, corners[1] + COARSE_MM + margin_mm


def _near_brain(maps: TissueMaps, points: Tensor) -> Tensor:
    """Return 1 where a coarse point lies within about one coarse step of the brain, else 0. (1, 1, h, w, d)."""
    brain = deformation.sample(maps.probabilities[None], points).sum(1, keepdim=True) > 0
    return functional.max_pool3d(brain.float(), kernel_size=3, stride=1, padding=1)


def read_volume(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Read an image and its affine; FileMissing or ImageUnreadable says why that cannot be done."""
    if not path.is_file():
        raise FileMissing(path, "the demo cohort's anatomies")
    try:
        image: Any = nibabel.load(path)
        return np.asarray(image.dataobj, dtype=np.float32), np.asarray(image.affine, dtype=np.float64)
    except (ImageFileError, OSError, EOFError, ValueError) as error:
        raise ImageUnreadable(path, str(error)) from error


def _cropped(probabilities: NDArray[np.float32], affine: NDArray[np.float64]) -> TissueMaps:
    """Cut to the brain and one empty voxel around it, so that reading outside gives 0."""
    low, high = _support(probabilities.max(0) > 1e-3)
    inside = probabilities[:, low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    padded = np.pad(inside, [(0, 0), (1, 1), (1, 1), (1, 1)])
    interleaved = np.ascontiguousarray(np.moveaxis(padded, 0, -1))  # a voxel's tissues side by side are read faster
    return TissueMaps(torch.from_numpy(interleaved).movedim(-1, 0), affine @ _shift(low - 1))


def _support(volume: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first and one past the last index, per axis, where `volume` is not 0."""
    used = [np.flatnonzero((volume != 0).any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return np.array([indices[0] for indices in used]), np.array([indices[-1] + 1 for indices in used])


def _shift(voxels: NDArray[np.int64]) -> NDArray[np.float64]:
    matrix = np.eye(4)
    matrix[:3, 3] = voxels
    return matrix


def _corners(maps: TissueMaps) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    last = np.array(maps.probabilities.shape[1:]) - 1
    ends = np.stack([maps.affine[:3, 3], maps.affine[:3, :3] @ last + maps.affine[:3, 3]])
    return ends.min(0), ends.max(0)


def _centre(maps: TissueMaps) -> NDArray[np.float64]:
    low, high = _corners(maps)
    return np.asarray((low + high) / 2)


def _coarse_grid(maps: TissueMaps, margin_mm: float) -> tuple[NDArray[np.float64], tuple[int, int, int]]:
    low, high = _corners(maps)
    affine = np.diag([COARSE_MM, COARSE_MM, COARSE_MM, 1.0])
    affine[:3, 3] = low - margin_mm
    height, width, depth = (int(n) for n in np.ceil((high - low + 2 * margin_mm) / COARSE_MM) + 1)
    return affine, (height, width, depth)


def _pose(centre: NDArray[np.float64], generator: torch.Generator) -> NDArray[np.float64]:
    """Draw a small rotation, scaling and translation about `centre`."""
    draws = torch.randn((3, 3), generator=generator, dtype=torch.float64).clamp(-2, 2).numpy() / 2
    turn, move, size = np.deg2rad(ROTATION_DEGREES) * draws[0], TRANSLATION_MM * draws[1], 1 + SCALE * draws[2]
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
    return torch.from_numpy(np.stack([gaussian_filter(axis, SMOOTHNESS_MM / COARSE_MM) for axis in noise])).float()[None]


def _rms(field: Tensor) -> Tensor:
    return field.square().sum(1).mean().sqrt()
