"""The canonical frame: every brain at one place, in one pose, size and histogram, and the way back.

A brain is brought there before it is warped. Besides the anatomy, a scan has properties of its own:
orientation, voxel size, field of view, the head's pose and size, the scanner's units. They stay at
the hospital, in `Canonical`, which never leaves it. An image is read at any canonical place with a
single interpolation of the scan, and an answer on any native voxel with a single interpolation of
the answer, whatever the number of maps between them.

Grids over the reference's box share its faces (see `polyclinic.imaging.deformation`); a finer
grid's voxel p of N is at (p + 1/2) n/N - 1/2 on the reference's n.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from torch import Tensor

from polyclinic.errors import DataError
from polyclinic.imaging.deformation import identity, sample
from polyclinic.imaging.headers import spacing_of
from polyclinic_strategies.proxy.frame.atlas import BRAIN, Reference
from polyclinic_strategies.proxy.frame.frames import dilate, ratio_of, slabs_of, transform, within
from polyclinic_strategies.proxy.frame.intensities import Intensities, air_level, match_histogram
from polyclinic_strategies.proxy.frame.registration import Fit, register

CORRELATION = 0.88  # least; a brain without skull reaches 0.89 and more, one with skull 0.87
# least correlation within the brain; T1 reaches 0.24 and more even in the old, a scan with skull
# and FLAIR up to 0.21, T2 is below 0
DETAIL = 0.22
SIZES = (0.65, 1.5)  # size of a head, relative to the reference, along any direction
SEEN = 0.5  # least share of the reference's brain in the field of view
_SHELL_MM = 8.0  # around the reference's brain there may be brain; beyond this distance is air
_HISTOGRAM_MM = 2.0


class ScanNotRecognized(DataError):
    """The reference brain does not fit a scan."""

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"The scan does not look like the reference brain ({problem}). "
            "Is it a T1 scan of a brain without skull, and is its header right about where the "
            "front and the top are? Remove the skull, or correct the header."
        )


@dataclass(frozen=True, eq=False)
class Canonical:
    """A scan and its relation to the reference; all of it stays at the hospital.

    Attributes:
        reference: The frame.
        volume: (X, Y, Z), float32, the scan as it was read.
        to_native: (4, 4), canonical voxel index to native voxel index, including pose, scales and
            shears.
        intensities: Map from the scan's units to the reference's.
        fit: Quality of the registration.
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
        """Return the canonical image, warped if there is a ddf: the scan at to_native (x + ddf(x)).

        It is read slab by slab.

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
        """Return the canonical coordinates of native voxels.

        Args:
            rows: Slice of the native first axis, with start and stop.

        Returns:
            (1, 3, rows, Y, Z), canonical voxel coordinates.
        """
        points = identity((rows.stop - rows.start, *self.volume.shape[1:]))
        points[:, 0] += rows.start
        return transform(np.linalg.inv(self.to_native), points)

    def label_map(
        self, answer: Tensor, inverse: Tensor | None = None, whole: float = 1.0
    ) -> NDArray[np.uint8]:
        """Bring an answer back and choose a label for every native voxel.

        Args:
            answer: (classes - 1, h, w, d), probabilities of all but the background; or (h, w, d), a
                label map; the mask of every label is interpolated.
            inverse: (1, 3, H, W, D), the inverse of the image's ddf, in voxels of its own grid over
                the box; None if nothing moved.
            whole: The number for a probability of 1, for instance 255.

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
                chosen = torch.where(best > whole - found.sum(0), label + 1, 0)
                labels[rows] = chosen.to(torch.uint8).numpy()
        return labels

    def _answers(
        self, answer: Tensor, inverse: Tensor | None, unpack: Callable[[Tensor], Tensor]
    ) -> Iterator[tuple[slice, Tensor]]:
        """Read an answer on the native voxels, slab by slab, with one linear interpolation.

        Args:
            answer: (C, h, w, d), of any type, on any grid over the reference's box.
            inverse: As for `label_map`.
            unpack: Turns the part of the answer that a slab needs into float32.

        Yields:
            Rows of the native first axis and their (C, rows, Y, Z), float32; 0 beyond the box.
        """
        own = self.reference.shape
        size = tuple(answer.shape[1:])
        for rows in slabs_of(tuple(self.volume.shape)):
            places = self.coordinates(rows)
            if inverse is not None:
                ratio = ratio_of(own, inverse.shape[2:])
                places = places + ratio * sample(inverse, (places + 0.5) / ratio - 0.5)
            places = (places + 0.5) / ratio_of(own, size) - 0.5
            inside, cut = within(places, size), _touched(places, size)
            part = unpack(answer[(slice(None), *cut)])
            if len(part):
                start = torch.tensor([each.start for each in cut], dtype=places.dtype)
                yield rows, sample(part[None], places - start.view(1, 3, 1, 1, 1))[0] * inside
            else:
                yield rows, part.new_zeros(0, *places.shape[2:])


def _touched(points: Tensor, shape: Sequence[int]) -> list[slice]:
    """Return the part of a grid that points (1, 3, *places) touch, one slice for each axis."""
    low, high = (pick(points, (0, 2, 3, 4)).tolist() for pick in (torch.amin, torch.amax))
    return [
        slice(min(max(math.floor(first), 0), n - 1), min(max(math.ceil(last), 0), n - 1) + 1)
        for first, last, n in zip(low, high, shape, strict=True)
    ]


def canonicalize(volume: MetaTensor, reference: Reference) -> Canonical:
    """Find the canonical frame in a scan, and the meaning of its intensities.

    Args:
        volume: (1, X, Y, Z), a brain without skull in noisy or masked air, with its affine.
        reference: The atlas.

    Raises:
        ScanNotRecognized: The atlas does not fit the scan.
        ValueError: `volume` does not have one channel.
    """
    if volume.ndim != 4 or volume.shape[0] != 1:
        raise ValueError(
            f"a scan of shape (1, X, Y, Z) is needed, this one has {tuple(volume.shape)}"
        )
    scan = volume.as_tensor()[0].float().contiguous()
    affine = np.asarray(volume.affine, dtype=np.float64)
    fit = register(reference.image, reference.affine, scan, affine)
    _check(fit)
    to_native = np.linalg.inv(affine) @ fit.matrix @ reference.affine
    return Canonical(reference, scan, to_native, _intensities(scan, to_native, reference), fit)


def _check(fit: Fit) -> None:
    """Refuse a scan that is not like the reference."""
    sizes = np.linalg.svd(fit.matrix[:3, :3], compute_uv=False)
    low, high = SIZES
    problem = None
    if fit.correlation < CORRELATION or fit.detail < DETAIL:
        problem = (
            f"correlation {fit.correlation:.2f}, and {fit.detail:.2f} within the brain; "
            f"at least {CORRELATION} and {DETAIL} are needed"
        )
    elif fit.turned:
        problem = "it fits better turned by 180 degrees"
    elif sizes.min() < low or sizes.max() > high or np.linalg.det(fit.matrix) < 0:
        problem = (
            f"it would have {sizes.min():.2f} to {sizes.max():.2f} times the usual size; "
            f"{low} to {high} are brains"
        )
    elif fit.seen < SEEN:
        problem = f"only {fit.seen:.0%} of it lies in the field of view; {SEEN:.0%} are needed"
    if problem:
        raise ScanNotRecognized(problem)


def _intensities(scan: Tensor, to_native: NDArray[np.float64], reference: Reference) -> Intensities:
    """Match the histograms of the brain, sampled every 2 mm."""
    spacing = spacing_of(reference.affine)[0]
    every = max(1, round(_HISTOGRAM_MM / spacing))
    reach = round(_SHELL_MM / max(spacing, _HISTOGRAM_MM))
    known = reference.image[::every, ::every, ::every]
    brain = (known > BRAIN)[None, None].float()
    near = dilate(brain, reach)[0, 0] > 0
    points = transform(to_native, identity(known.shape) * every)
    found = sample(scan[None, None], points)[0, 0]
    seen = within(points, scan.shape) > 0
    bright = float(found[(known > BRAIN) & seen].median())
    air = air_level(found[~near & seen], bright)
    return match_histogram(found[near & seen & (found > air)], known[known > BRAIN], air)
