"""Bring every brain to one place, pose, size and histogram before it is warped: the canonical frame, and the way back.

What a hospital's scan has of its own besides the anatomy (orientation, voxel size, field of view,
the head's pose and size, the scanner's units) stays at the hospital: it is in `Canonical`, which
never leaves it. An image is read at any canonical place with a single interpolation of the scan,
and an answer on any native voxel with a single interpolation of the answer, however many maps lie
between.

Grids over the reference's box share its faces (see `polyclinic.imaging.deformation`); a finer
grid's voxel p of N is at (p + 1/2) n/N - 1/2 on the reference's n.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from polyclinic.errors import DataError
from polyclinic.imaging.deformation import identity, sample
from polyclinic.imaging.headers import spacing_of
from polyclinic_strategies.proxy.frame.atlas import BRAIN, Reference
from polyclinic_strategies.proxy.frame.frames import ratio_of, slabs_of, transform, within
from polyclinic_strategies.proxy.frame.intensities import Intensities, air_level, match_histogram
from polyclinic_strategies.proxy.frame.registration import Fit, register

CORRELATION = 0.88  # a brain laid over the average one reaches 0.89 and more, one with skull 0.87
# within the brain: 0.24 and more in T1 even of the old; with skull and in FLAIR up to 0.21, in T2
# below 0
DETAIL = 0.22
SIZES = (0.65, 1.5)  # a head's, relative to the reference along any direction
SEEN = 0.5  # of the reference's brain
_SHELL_MM = 8.0  # around the reference's brain there may be brain, beyond it is air
_HISTOGRAM_MM = 2.0


class ScanNotRecognized(DataError):
    """The reference brain cannot be laid over a scan."""

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"The scan does not look like the reference brain ({problem}). "
            "Is it a T1 scan of a brain without skull, and is its header right about where the "
            "front and the top are? Remove the skull, or correct the header."
        )


@dataclass(frozen=True, eq=False)
class Canonical:
    """A scan with what relates it to the reference; all of it is the hospital's own.

    Attributes:
        reference: The frame.
        volume: (X, Y, Z), float32, the scan as it was read.
        to_native: (4, 4), canonical voxel index to native voxel index: pose, scales and shears
            included.
        intensities: The scan's units to the reference's.
        fit: How well the reference lies over the scan.
    """

    reference: Reference
    volume: Tensor
    to_native: NDArray[np.float64]
    intensities: Intensities
    fit: Fit

    def read(self, points: Tensor) -> Tensor:
        """Read the scan, in the reference's intensities, with one linear interpolation.

        Args:
            points: (1, 3, h, w, d), canonical voxel coordinates.

        Returns:
            (h, w, d), float32 in [0, 1]; 0 beyond the scan's field of view.
        """
        native = transform(self.to_native, points)
        found = self.intensities(sample(self.volume[None, None], native)[0, 0])
        return found * within(native, self.volume.shape)

    def image(self, ddf: Tensor | None = None) -> Tensor:
        """Give the canonical image, or the image warped by a ddf: the scan at to_native (x + ddf(x)), slab by slab.

        Args:
            ddf: (1, 3, H, W, D), in voxels of its own grid, any grid over the reference's box;
                without it nothing moves.

        Returns:
            (H, W, D) on the ddf's grid, or on the reference's; float32 in [0, 1].
        """
        shape = self.reference.shape if ddf is None else tuple(ddf.shape[2:])
        ratio = ratio_of(self.reference.shape, shape)
        slabs = []
        for rows in slabs_of(shape):
            points = identity((rows.stop - rows.start, *shape[1:]))
            points[:, 0] += rows.start
            points = points if ddf is None else points + ddf[:, :, rows]
            slabs.append(self.read((points + 0.5) * ratio - 0.5))
        return torch.cat(slabs)

    def coordinates(self, rows: slice) -> Tensor:
        """Where native voxels lie in the canonical frame.

        Args:
            rows: Which of the native first axis, start and stop given.

        Returns:
            (1, 3, rows, Y, Z), canonical voxel coordinates.
        """
        points = identity((rows.stop - rows.start, *self.volume.shape[1:]))
        points[:, 0] += rows.start
        return transform(np.linalg.inv(self.to_native), points)

    def bring_back(
        self, answer: Tensor, inverse: Tensor | None = None
    ) -> Iterator[tuple[slice, Tensor]]:
        """Read an answer on the native voxels, slab by slab, with one linear interpolation.

        Args:
            answer: (C, h, w, d), of any type, on any grid over the reference's box: what was said
                of `image(ddf)`.
            inverse: (1, 3, H, W, D), what undoes the ddf, in voxels of its own grid over the box;
                None if nothing moved.

        Yields:
            Rows of the native first axis and their (C, rows, Y, Z), float32; 0 beyond the box.
        """
        yield from self._answers(answer, inverse, lambda part: part.float())

    def label_map(
        self, answer: Tensor, inverse: Tensor | None = None, whole: float = 1.0
    ) -> NDArray[np.uint8]:
        """Bring an answer back and decide on a label for every native voxel.

        Args:
            answer: (classes - 1, h, w, d), probabilities of all but the background; or (h, w, d), a
                label map, of which every label's mask is interpolated.
            inverse: As for `bring_back`.
            whole: What stands for a probability of 1, for instance 255.

        Returns:
            (X, Y, Z), 0 where nothing is more probable than the background.
        """
        if answer.ndim == 3:
            numbers, whole = torch.arange(1, int(answer.max()) + 1).view(-1, 1, 1, 1), 1.0
            slabs = self._answers(answer[None], inverse, lambda part: (part == numbers).float())
        else:
            slabs = self._answers(answer, inverse, lambda part: part.float())
        labels = np.zeros(tuple(self.volume.shape), np.uint8)
        for rows, found in slabs:
            if len(found):
                best, label = found.max(0)
                labels[rows] = (
                    torch.where(best > whole - found.sum(0), label + 1, 0).to(torch.uint8).numpy()
                )
        return labels

    def _answers(
        self, answer: Tensor, inverse: Tensor | None, unpack: Callable[[Tensor], Tensor]
    ) -> Iterator[tuple[slice, Tensor]]:
        """Cut out of the answer what a slab needs, unpack that and read it."""
        own = self.reference.shape
        size = tuple(answer.shape[1:])
        for rows in slabs_of(tuple(self.volume.shape)):
            places = self.coordinates(rows)
            if inverse is not None:
                ratio = ratio_of(own, inverse.shape[2:])
                places = places + ratio * sample(inverse, (places + 0.5) / ratio - 0.5)
            places = (places + 0.5) / ratio_of(own, size) - 0.5
            inside = within(places, size)
            ends = zip(
                places.amin((0, 2, 3, 4)).tolist(),
                places.amax((0, 2, 3, 4)).tolist(),
                size,
                strict=True,
            )
            cut = [
                (
                    int(min(max(math.floor(low), 0), n - 1)),
                    int(min(max(math.ceil(high), 0), n - 1)) + 1,
                )
                for low, high, n in ends
            ]
            part = unpack(answer[(slice(None), *(slice(*edges) for edges in cut))])
            start = torch.tensor([low for low, _ in cut], dtype=places.dtype).view(1, 3, 1, 1, 1)
            yield (
                rows,
                sample(part[None], places - start)[0] * inside
                if len(part)
                else part.new_zeros(0, *places.shape[2:]),
            )


def canonicalize(volume: MetaTensor, reference: Reference) -> Canonical:
    """Find where the reference's voxels lie in a scan, and what its intensities mean.

    Args:
        volume: (1, X, Y, Z), a brain without skull in noisy or masked air, with its affine.
        reference: The atlas.

    Raises:
        ScanNotRecognized: The atlas does not fit the scan.
        ValueError: `volume` has not one channel.
    """
    if volume.ndim != 4 or volume.shape[0] != 1:
        raise ValueError(
            f"a scan of shape (1, X, Y, Z) is needed, this one has {tuple(volume.shape)}"
        )
    scan, affine = (
        volume.as_tensor()[0].float().contiguous(),
        np.asarray(volume.affine, dtype=np.float64),
    )
    fit = register(reference.image, reference.affine, scan, affine)
    _check(fit)
    to_native = np.linalg.inv(affine) @ fit.matrix @ reference.affine
    return Canonical(reference, scan, to_native, _intensities(scan, to_native, reference), fit)


def _check(fit: Fit) -> None:
    """Refuse what is not the reference's like."""
    sizes = np.linalg.svd(fit.matrix[:3, :3], compute_uv=False)
    low, high = SIZES
    problem = None
    if fit.correlation < CORRELATION or fit.detail < DETAIL:
        found, wanted = (
            f"correlation {fit.correlation:.2f}, and {fit.detail:.2f} within the brain",
            f"{CORRELATION} and {DETAIL}",
        )
        problem = f"{found}; at least {wanted} are needed"
    elif fit.turned:
        problem = "it fits better turned by 180 degrees"
    elif sizes.min() < low or sizes.max() > high or np.linalg.det(fit.matrix) < 0:
        problem = f"it would have {sizes.min():.2f} to {sizes.max():.2f} times the usual size; {low} to {high} are brains"
    elif fit.seen < SEEN:
        problem = f"only {fit.seen:.0%} of it lies in the field of view; {SEEN:.0%} are needed"
    if problem:
        raise ScanNotRecognized(problem)


def _intensities(scan: Tensor, to_native: NDArray[np.float64], reference: Reference) -> Intensities:
    """Match the histograms of the brain, as read every 2 mm."""
    spacing = spacing_of(reference.affine)[0]
    every, reach = (
        max(1, round(_HISTOGRAM_MM / spacing)),
        round(_SHELL_MM / max(spacing, _HISTOGRAM_MM)),
    )
    known = reference.image[::every, ::every, ::every]
    near = (
        functional.max_pool3d(
            (known > BRAIN)[None, None].float(), 2 * reach + 1, stride=1, padding=reach
        )[0, 0]
        > 0
    )
    points = transform(to_native, identity(known.shape) * every)
    found = sample(scan[None, None], points)[0, 0]
    seen = within(points, scan.shape) > 0
    bright = float(found[(known > BRAIN) & seen].median())
    air = air_level(found[~near & seen], bright)
    return match_histogram(found[near & seen & (found > air)], known[known > BRAIN], air)
