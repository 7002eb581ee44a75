"""Slices of a brain on a simulated scanner, in 2-D alone: position, content and exposure.

The steps are those of `scanner`, without a volume: contrast, texture, shading, ghosts, point
spread, Rician noise, 8 bits.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from polyclinic_demos.cohorts.anatomy import Subject, sample

# intensities of CSF, grey matter and white matter: about those of the demo hospitals, and proton
# density
CONTRASTS = {
    "T1": (0.28, 0.68, 0.95),
    "T2": (1.00, 0.60, 0.43),
    "FLAIR": (0.16, 0.95, 0.70),
    "PD": (0.88, 1.00, 0.70),
}
PLANES = {  # directions of rows and columns: down and right on the screen
    "axial": ((0, -1, 0), (1, 0, 0)),
    "coronal": ((0, 0, -1), (1, 0, 0)),
    "sagittal": ((0, 0, -1), (0, 1, 0)),
}
FINE = 2  # number of points along each side of a pixel, so that pixels mix tissues
_DEPTH = 2  # points across the slice
_WAVES = 3  # shading: cosines of order 0 to 2 along each axis
_TEXTURE_MM = 1.2

Grey = NDArray[np.uint8]
Field = NDArray[np.float32]


@dataclass(frozen=True)
class View:
    """Position of a slice.

    Attributes:
        plane: One of `PLANES`.
        centre_mm: Its centre, in the world of ICBM152.
        extent_mm: Length of its sides.
        tilt_degrees: Standard deviation of the rotation about each axis.
    """

    plane: str
    centre_mm: tuple[float, float, float]
    extent_mm: float
    tilt_degrees: float = 4.0


@dataclass(frozen=True)
class Exposure:
    """Properties of a scanner; those of the same name are as in `Scanner`.

    Attributes:
        family: One of `CONTRASTS`.
        contrast: Intensity of CSF, grey matter and white matter.
        bias: Strength of the shading.
        noise: Standard deviation of the noise in each channel of the receiver.
        blur_mm: Sigma of the point spread.
        texture: Relative standard deviation of the tissue's own variation.
        ghost: Phase, in radians, by which breathing moves the lines of k-space.
        gamma: Exponent of the curve by which the image is stored.
    """

    family: str
    contrast: tuple[float, float, float]
    bias: float
    noise: float
    blur_mm: float
    texture: float
    ghost: float = 0.0
    gamma: float = 1.0


def draw_exposure(rng: np.random.Generator, family: str | None = None) -> Exposure:
    """Draw a scanner near one of the families."""
    family = family or str(rng.choice(list(CONTRASTS)))
    contrast = np.clip(np.array(CONTRASTS[family]) * np.exp(rng.normal(0, 0.06, 3)), 0.05, 1.15)
    low, middle, high = (float(value) for value in contrast)
    return Exposure(
        family,
        (low, middle, high),
        bias=rng.uniform(0.05, 0.35),
        noise=rng.uniform(0.01, 0.05),
        blur_mm=rng.uniform(0.4, 1.6),
        texture=rng.uniform(0.02, 0.05),
        gamma=rng.uniform(0.85, 1.2),
    )


def look(person: Subject, view: View, size: int, rng: np.random.Generator) -> Field:
    """Read a person's tissues on a slice: (3, FINE * size, FINE * size)."""
    fine = FINE * size
    linear, thickness_mm = plane_axes(view, rng) * view.extent_mm / fine, rng.uniform(1.0, 4.0)
    linear[:, 2] *= thickness_mm / _DEPTH / np.linalg.norm(linear[:, 2])
    affine = np.eye(4)
    affine[:3, :3] = linear
    centre = np.linalg.solve(person.pose, [*view.centre_mm, 1.0])[:3]
    affine[:3, 3] = centre - linear @ ((np.array([fine, fine, _DEPTH]) - 1) / 2)
    tissues = sample(person, affine, (fine, fine, _DEPTH)).mean(-1)
    return np.asarray(tissues.numpy(), dtype=np.float32)


def plane_axes(view: View, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the directions of rows, columns and slices, slightly rotated.

    They are the columns of a (3, 3) matrix.
    """
    down, right = (np.array(axis, dtype=np.float64) for axis in PLANES[view.plane])
    turn = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(view.tilt_degrees) * rng.normal(0, 1, 3).clip(-2, 2)):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        plane = np.eye(3)
        plane[i, i] = plane[j, j] = np.cos(angle)
        plane[i, j], plane[j, i] = -np.sin(angle), np.sin(angle)
        turn = turn @ plane
    return np.asarray(turn @ np.stack([down, right, np.cross(down, right)], axis=1))


def pool(field: Field) -> Field:
    """Average the fine points of each pixel.

    (..., FINE * size, FINE * size) -> (..., size, size)
    """
    *rest, height, width = field.shape
    blocks = field.reshape(*rest, height // FINE, FINE, width // FINE, FINE)
    return np.asarray(blocks.mean((-3, -1)), dtype=np.float32)


def signal_of(tissues: Field, exposure: Exposure) -> Field:
    """Mix the tissues' intensities, still on the fine grid."""
    contrast = np.array(exposure.contrast, dtype=np.float32)
    return np.asarray(np.einsum("c,chw->hw", contrast, tissues), dtype=np.float32)


def develop(signal: Field, exposure: Exposure, pixel_mm: float, rng: np.random.Generator) -> Grey:
    """Turn a slice's signal, (size, size), into an 8-bit image.

    The steps are texture, shading, ghosts, point spread, noise and gain.
    """
    grains = gaussian_filter(rng.normal(0, 1, signal.shape), _TEXTURE_MM / pixel_mm)
    shaded = (
        np.exp(exposure.bias * _shading(signal.shape, rng))
        * (1 + exposure.texture * grains / grains.std())
        * signal
    )
    if exposure.ghost:
        shaded = _ghosted(shaded, exposure.ghost, rng)
    shaded = gaussian_filter(shaded, exposure.blur_mm / pixel_mm)
    real, imaginary = rng.normal(0, exposure.noise, (2, *signal.shape))
    magnitude = np.hypot(shaded + real, imaginary)  # a scanner shows the modulus: Rician noise
    brightest = max(float(np.percentile(magnitude, 99.5)), 1e-3)
    stored = np.clip(magnitude / brightest, 0, 1.15) ** exposure.gamma
    return np.asarray((stored * rng.uniform(140, 215)).round().clip(0, 255), dtype=np.uint8)


def label_map(tissues: Field) -> Grey:
    """Label each pixel with the most probable of background and the tissues.

    At a tie, the first of them is taken. (tissues, size, size) -> (size, size)
    """
    background = 1 - tissues.sum(0, keepdims=True)
    return np.asarray(np.concatenate([background, tissues]).argmax(0), dtype=np.uint8)


def turned(image: Grey, rng: np.random.Generator) -> Grey:
    """Rotate by a random number of quarter turns, and mirror or not."""
    image = np.rot90(image, int(rng.integers(4)))
    return np.ascontiguousarray(image[:, ::-1] if rng.random() < 0.5 else image)


def _shading(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    orders = np.arange(_WAVES)
    weights = rng.normal(0, 1, (_WAVES, _WAVES)) / (1 + orders[:, None] + orders)
    weights[0, 0] = 0
    rows, columns = (np.cos(np.pi * orders[:, None] * np.linspace(0, 1, n)) for n in shape)
    field = np.einsum("ij,ih,jw->hw", weights, rows, columns)
    return np.asarray(field / np.abs(field).max())


def _ghosted(
    signal: NDArray[np.float64], phase: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Move the lines of k-space to and fro, as breathing does.

    Copies of the brain appear along one axis.
    """
    axis = int(rng.integers(2))
    lines, period = np.arange(signal.shape[axis]), rng.uniform(2.5, 6.0)
    motion = np.exp(1j * phase * np.sin(2 * np.pi * lines / period + rng.uniform(0, 2 * np.pi)))
    spectrum = np.fft.fftshift(np.fft.fft2(signal)) * (motion[:, None] if axis == 0 else motion)
    return np.abs(np.fft.ifft2(np.fft.ifftshift(spectrum)))
