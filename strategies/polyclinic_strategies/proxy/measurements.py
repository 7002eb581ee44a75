"""Measurements of a generator and its segmenter on people that neither was trained on.

They are displacement, folding, round trip, Dice, and pictures.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from polyclinic.config.schemas import DataConfig
from polyclinic.imaging.datasets import Case
from polyclinic.imaging.deformation import identity, jacobian_determinant, sample, upsample
from polyclinic.imaging.volumes import read_image, read_label
from polyclinic.learning.metrics import dice_per_class, summarize
from polyclinic.learning.training import infer
from polyclinic_strategies.proxy.cases import CanonicalCase
from polyclinic_strategies.proxy.frame.canonical import Canonical, canonicalize
from polyclinic_strategies.proxy.frame.frames import slabs_of, transform
from polyclinic_strategies.proxy.generator import IMAGE_MM, Field
from polyclinic_strategies.proxy.preview import write_preview
from polyclinic_strategies.proxy.protection import (
    TOP,
    Protection,
    coarse_image,
    draw_deformation,
    quantize,
)
from polyclinic_strategies.proxy.system import ProxySystem

Say = Callable[[str], None]


@dataclass(frozen=True)
class Measured:
    """Dice of every class and their mean, on the scans' own grids."""

    dice: dict[str, float]
    cases: int


@dataclass(frozen=True)
class FieldMeasured:
    """Size and regularity of a field's displacements.

    Attributes:
        strength_mm: Root mean square displacement.
        largest_mm: Largest displacement of a voxel.
        smallest_jacobian: Smallest determinant of a voxel.
        folded: Share of voxels whose determinant is not above 0.
    """

    strength_mm: float
    largest_mm: float
    smallest_jacobian: float
    folded: float


def measure_field(field: Field, cases: Sequence[CanonicalCase], seed: int = 1) -> FieldMeasured:
    """Measure the deformations of one key for each case, on a grid of 4 mm."""
    squares, largest, smallest, folded = [], 0.0, float("inf"), []
    for number, case in enumerate(cases):
        ddf, _ = draw_deformation(field, case.coarse[None], seed + number)
        squares.append(float(ddf.square().sum(1).mean()))
        largest = max(largest, float(ddf.square().sum(1).max()) ** 0.5)
        determinant = jacobian_determinant(ddf)
        smallest = min(smallest, float(determinant.min()))
        folded.append(float((determinant <= 0).float().mean()))
    return FieldMeasured(
        IMAGE_MM * float(np.mean(squares)) ** 0.5,
        IMAGE_MM * largest,
        smallest,
        float(np.mean(folded)),
    )


def round_trips(
    field: Field, protection: Protection, cases: Sequence[Case], data: DataConfig, seed: int = 1
) -> float:
    """Return the mean Dice of label maps after a round trip.

    They are warped as the scan is, sent as labels, and brought back to the scan's own grid.
    """
    found = []
    for number, case in enumerate(cases):
        canonical, truth = _open(case, protection, data)
        ddf, inverse = draw_deformation(field, coarse_image(canonical), seed + number)
        warped = _warp_labels(truth, canonical, upsample(ddf, protection.shape), len(data.labels))
        found.append(_dice(canonical.label_map(warped, inverse), truth, data))
    return summarize(found, data.labels[1:], None, len(found)).score


def dice_through(
    system: ProxySystem, protection: Protection, cases: Sequence[Case], data: DataConfig, say: Say
) -> Measured:
    """Measure the Dice of scans that are segmented as proxies."""
    rows = []
    for row in scores_through(system, protection, cases, data):
        rows.append(row)
        done = f"test scan {len(rows)} of {len(cases)}"
        say(f"{done}, through its proxy: Dice {float(row.nanmean()):.3f}")
    return _measured(rows, data)


def scores_through(
    system: ProxySystem, protection: Protection, cases: Sequence[Case], data: DataConfig
) -> Iterator[Tensor]:
    """Yield the Dice of each foreground class, (classes - 1,), for one scan after another.

    Each scan is segmented through a proxy of its own key.
    """
    for case in cases:
        protected = protection.warp(read_image(case.image, 1, 3))
        found = answer(system.segmenter, protected.proxy, data)
        yield _dice(protected.reveal(found), _truth(case, data), data)


def dice_directly(
    system: ProxySystem, protection: Protection, cases: Sequence[Case], data: DataConfig, say: Say
) -> Measured:
    """Measure the Dice of scans that are segmented in the canonical frame, not warped."""
    rows = []
    for number, case in enumerate(cases, start=1):
        canonical, truth = _open(case, protection, data)
        found = answer(system.segmenter, quantize(canonical.image()), data)
        rows.append(_dice(canonical.label_map(torch.from_numpy(found), None, TOP), truth, data))
        say(f"test scan {number} of {len(cases)}, directly: Dice {float(rows[-1].nanmean()):.3f}")
    return _measured(rows, data)


def answer(segmenter: nn.Module, proxy: NDArray[np.uint8], data: DataConfig) -> NDArray[np.uint8]:
    """Return the service's answer: (classes - 1, H, W, D), foreground probabilities times 255."""
    with torch.inference_mode():
        logits = infer(segmenter, torch.from_numpy(proxy)[None].float() / TOP, data)
        return quantize(logits.softmax(0)[1:])


def draw_pictures(
    folder: Path,
    system: ProxySystem,
    protection: Protection,
    cases: Sequence[Case],
    data: DataConfig,
) -> Iterator[dict[str, str]]:
    """Draw scans with their proxies and answers.

    Yields:
        Name of the file, relative to `folder`'s parent, and title.
    """
    for case in cases:
        volume = read_image(case.image, 1, 3)
        protected = protection.warp(volume)
        found = answer(system.segmenter, protected.proxy, data)
        path = folder / f"{case.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_preview(
            path,
            volume,
            protected.proxy,
            found,
            protected.reveal(found),
            data.labels,
            quantize(protected.canonical.image()),
            str(protected.change),
        )
        yield {"file": f"{folder.name}/{path.name}", "title": case.name}


def _open(case: Case, protection: Protection, data: DataConfig) -> tuple[Canonical, Tensor]:
    volume = read_image(case.image, 1, 3)
    assert isinstance(volume, MetaTensor)
    return canonicalize(volume, protection.reference), _truth(case, data)


def _truth(case: Case, data: DataConfig) -> Tensor:
    """Read the drawn labels, (X, Y, Z)."""
    assert isinstance(case.label, Path)
    truth: Tensor = read_label(case.label, len(data.labels), values=case.label_values).as_tensor()[
        0
    ]
    return truth


def _warp_labels(truth: Tensor, canonical: Canonical, ddf: Tensor, classes: int) -> Tensor:
    """Warp labels onto the ddf's grid, with linear interpolation of each mask: (H, W, D), uint8."""
    masks = functional.one_hot(truth.long(), classes).movedim(-1, 0)[None, 1:].float()
    shape = (int(ddf.shape[2]), int(ddf.shape[3]), int(ddf.shape[4]))
    slabs = []
    for rows in slabs_of(shape):
        points = identity((rows.stop - rows.start, *shape[1:]))
        points[:, 0] += rows.start
        found = sample(masks, transform(canonical.to_native, points + ddf[:, :, rows]))[0]
        best, label = found.max(0)
        slabs.append(torch.where(best > 1 - found.sum(0), label + 1, 0).to(torch.uint8))
    return torch.cat(slabs)


def _dice(found: NDArray[np.uint8], truth: Tensor, data: DataConfig) -> Tensor:
    return dice_per_class(torch.from_numpy(found).view(-1), truth.reshape(-1), len(data.labels))


def _measured(rows: Sequence[Tensor], data: DataConfig) -> Measured:
    found = summarize(rows, data.labels[1:], None, len(rows))
    return Measured({**found.scores, "mean": found.score}, len(rows))
