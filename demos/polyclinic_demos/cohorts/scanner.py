"""Simulated scanners: from a person's tissues to an image as a hospital stores it."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional

from polyclinic_demos.cohorts.anatomy import Subject, field_of_view, sample

Grid = tuple[NDArray[np.float64], tuple[int, int, int]]  # voxel indices to world, and shape
MARGIN_MM = 3.0  # air kept around the brain
# range of the gain; scanners use arbitrary units, in which white matter in T1 has about this value
_GAIN = (300.0, 700.0)
_TEXTURE_MM = 2.0
_SLAB = 1_000_000  # number of points sampled at a time; fast if they fit into the cache
_WAVES = 3  # bias field: cosines of order 0 to 2 along each axis
_AXES = {
    "R": (0, 1.0),
    "L": (0, -1.0),
    "A": (1, 1.0),
    "P": (1, -1.0),
    "S": (2, 1.0),
    "I": (2, -1.0),
}


@dataclass(frozen=True)
class Scanner:
    """Properties of a hospital's images.

    Attributes:
        name: Name of the hospital and of its folder.
        modality: As `dataset.json` names it, for example "T1".
        contrast: Intensity of pure CSF, grey matter and white matter; the brightest is about 1. Air
            is 0.
        bias: Strength of the smooth shading: intensities are multiplied by exp(u), u within about
            -bias to bias.
        noise: Standard deviation of the noise in each of the receiver's two channels (Rician in the
            image).
        voxel_mm: Voxel size along the stored axes; the third is across the slices.
        blur_mm: Sigma of the point spread within a slice and across.
        texture: Relative standard deviation of the tissue's own variation.
        orientation: Directions of the stored axes: three letters of R/L, A/P and S/I.
    """

    name: str
    modality: str
    contrast: tuple[float, float, float]
    bias: float
    noise: float
    voxel_mm: tuple[float, float, float]
    blur_mm: float
    texture: float
    orientation: str

    def __post_init__(self) -> None:
        axes = {_AXES[letter][0] for letter in self.orientation if letter in _AXES}
        if axes != {0, 1, 2} or len(self.orientation) != 3:
            raise ValueError(
                f"orientation is '{self.orientation}', it needs one letter each of R/L, A/P and S/I"
            )
        if min(self.voxel_mm) <= 0:
            raise ValueError(f"voxel_mm is {self.voxel_mm}, every size must be above 0")


@dataclass(frozen=True, eq=False)
class Scan:
    """An image with its label map, as stored.

    Attributes:
        image: (H, W, D), int16, arbitrary units.
        label_map: (H, W, D), uint8: 0 background, 1 CSF, 2 grey matter, 3 white matter.
        affine: (4, 4), voxel indices to world millimetres (RAS).
    """

    image: NDArray[np.int16]
    label_map: NDArray[np.uint8]
    affine: NDArray[np.float64]


def acquire(person: Subject, scanner: Scanner, seed: int, grid: Grid | None = None) -> Scan:
    """Scan a person: contrast, texture, shading, point spread, thick slices, Rician noise.

    Args:
        person: The person.
        scanner: The scanner.
        seed: Determines noise, texture, shading and gain; the same seed gives the same voxels.
        grid: Voxels to scan, of the scanner's size; by default a box around the brain.
    """
    generator = torch.Generator().manual_seed(seed)
    affine, shape = grid or _stored_grid(person, scanner)
    tissues = _average_in_voxels(person, affine, shape, scanner.voxel_mm)
    signal = torch.einsum("c,chwd->hwd", torch.tensor(scanner.contrast), tissues)
    signal *= _texture(shape, scanner.voxel_mm, generator).mul_(scanner.texture).add_(1)
    signal *= _shading(shape, generator).mul_(scanner.bias).exp_()
    if scanner.blur_mm > 0:
        sigma = [scanner.blur_mm / mm for mm in scanner.voxel_mm]
        signal = torch.from_numpy(gaussian_filter(signal.numpy(), sigma, truncate=3))
    real, imaginary = (
        torch.randn(shape, generator=generator).mul_(scanner.noise) for _ in range(2)
    )
    magnitude = torch.hypot(signal + real, imaginary)  # a scanner shows the modulus: Rician noise
    gain = _GAIN[0] + (_GAIN[1] - _GAIN[0]) * torch.rand((), generator=generator)
    image = magnitude.mul_(gain).round_().clamp_(0, 32767).to(torch.int16)
    return Scan(image.numpy(), label_map(tissues), affine)


def _stored_grid(person: Subject, scanner: Scanner) -> Grid:
    """Lay the scanner's voxels, in its orientation, over a box around the brain."""
    low, high = field_of_view(person, MARGIN_MM)
    affine, sizes = np.eye(4), []
    affine[:3, :3] = 0
    for axis, (letter, mm) in enumerate(zip(scanner.orientation, scanner.voxel_mm, strict=True)):
        world, sign = _AXES[letter]
        sizes.append(int(np.ceil((high[world] - low[world]) / mm)) + 1)
        affine[world, axis] = sign * mm
        affine[world, 3] = low[world] if sign > 0 else high[world]
    return affine, (sizes[0], sizes[1], sizes[2])


def _average_in_voxels(
    person: Subject,
    affine: NDArray[np.float64],
    shape: tuple[int, int, int],
    voxel_mm: tuple[float, float, float],
) -> Tensor:
    """Sample every 1 to 2 mm, at most 3 times per axis, and average: thick slices mix tissues.

    Returns:
        (3, H, W, D).
    """
    factors = np.clip(np.array(voxel_mm).astype(int), 1, 3)
    # offset of the first sample from its voxel's centre, in voxels
    offset = np.append((1 - factors) / (2 * factors), 1)
    fine = affine @ np.diag([*(1 / factors), 1])
    fine[:3, 3] = (affine @ offset)[:3]
    tissues = torch.zeros(3, *shape)
    thickness = max(1, _SLAB // int(shape[1] * shape[2] * factors.prod()))
    for start in range(0, shape[0], thickness):
        stop = min(start + thickness, shape[0])
        slab = fine.copy()
        slab[:3, 3] += start * affine[:3, 0]
        height, width, depth = (int(n) for n in factors * (stop - start, *shape[1:]))
        samples = sample(person, slab, (height, width, depth))
        for i, j, k in np.ndindex(*factors):  # many times faster than pooling
            tissues[:, start:stop] += samples[:, i :: factors[0], j :: factors[1], k :: factors[2]]
    return tissues.div_(float(factors.prod()))


def _texture(
    shape: tuple[int, int, int], voxel_mm: tuple[float, float, float], generator: torch.Generator
) -> Tensor:
    """Return noise of unit variance that is correlated over about `_TEXTURE_MM`."""
    sizes = [max(2, round(n * mm / _TEXTURE_MM)) for n, mm in zip(shape, voxel_mm, strict=True)]
    grains = torch.randn((1, 1, *sizes), generator=generator)
    field = functional.interpolate(grains, size=shape, mode="trilinear", align_corners=True)[0, 0]
    return field / field.std()


def _shading(shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Return a random sum of slow cosines, scaled to lie within -1 and 1."""
    weights = torch.randn((_WAVES,) * 3, generator=generator)
    orders = torch.arange(_WAVES)
    weights = weights / (1 + orders[:, None, None] + orders[:, None] + orders)
    weights[0, 0, 0] = 0
    waves = [torch.cos(torch.pi * orders[:, None] * torch.linspace(0, 1, n)) for n in shape]
    field = torch.einsum("ijk,ih,jw,kd->hwd", weights, *waves)
    return field / field.abs().max()


def label_map(tissues: Tensor) -> NDArray[np.uint8]:
    """Label each voxel with the most probable of background and the three tissues.

    At a tie, the first of them is taken.
    """
    probabilities = tissues.numpy()
    most = 1 - probabilities.sum(0)
    labels = np.zeros(most.shape, np.uint8)
    for label, tissue in enumerate(probabilities, start=1):
        labels[tissue > most] = label
        np.maximum(most, tissue, out=most)
    return labels
