"""Segmentation into classes that exclude each other, and into regions that may overlap."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from polyclinic.config.schemas import DataConfig
from polyclinic.imaging.datasets import Case
from polyclinic.imaging.grids import resample
from polyclinic.imaging.headers import Grid
from polyclinic.imaging.volumes import read_label
from polyclinic.learning.cases.foreground_voxels import find_foreground
from polyclinic.learning.measures.estimates import Measures
from polyclinic.learning.measures.segmentation import (
    StructureFigures,
    measure_case,
    measure_regions,
    measure_segmentation,
)
from polyclinic.learning.metrics import Evaluation, dice_per_class, summarize
from polyclinic.learning.tasks.task import Label, Scored

SLAB = 24  # planes of the native grid that are interpolated at once
SURE = 0.5  # probability from which a voxel is of a region


class VoxelTask:
    """What segmentations have in common: label maps, and the way back to the image's own grid."""

    def prepare_label(self, case: Case, data: DataConfig, native: Grid, grid: Grid) -> Tensor:
        """Read a label map, and bring it onto the network's grid: uint8."""
        return resample(self._read(case, data).to(torch.uint8), native, grid, nearest=True)

    def target(self, label: Label, data: DataConfig) -> Tensor:  # noqa: ARG002
        """Return the label map for the loss, int64."""
        return _map_of(label).long()

    def name(self, answer: Tensor, data: DataConfig) -> None:  # noqa: ARG002
        """Say nothing: an answer is a label map."""
        return

    def _read(self, case: Case, data: DataConfig) -> Tensor:
        """Read a label map, channels first."""
        assert isinstance(case.label, Path)
        drawn = read_label(case.label, len(data.labels), values=case.label_values)
        return torch.as_tensor(drawn.as_tensor())


class Segmentation(VoxelTask):
    """One class for each voxel; class 0 is the background."""

    def find_foreground(self, label: Label, data: DataConfig) -> tuple[Tensor, ...]:
        """Find the voxels of each class but the background."""
        return find_foreground(_map_of(label), len(data.labels))

    def truth(self, label: Label, data: DataConfig) -> Tensor:  # noqa: ARG002
        """Return the label map, XYZ."""
        return _map_of(label)[0]

    def read_truth(self, case: Case, data: DataConfig) -> Tensor:
        """Read the label map as drawn, XYZ."""
        return self._read(case, data)[0]

    def decide(self, logits: Tensor, data: DataConfig) -> Tensor:  # noqa: ARG002
        """Choose the class with the highest logit."""
        return logits.argmax(0)

    def answer(self, logits: Tensor, data: DataConfig, grid: Grid, native: Grid) -> Tensor:  # noqa: ARG002
        """Choose the most probable class of each voxel of the image: uint8, XYZ."""
        return _natively(logits.softmax(0), grid, native, most_probable, 0)

    def draw(self, answer: Tensor) -> Tensor:
        """Return the label map itself."""
        return answer.to(torch.uint8)

    def tally(self, data: DataConfig) -> "VoxelTally":
        """Score Dice of the classes but the background."""
        classes = len(data.labels)
        return VoxelTally(
            data.kind.scored(data.labels),
            lambda answer, truth: dice_per_class(answer.flatten(), truth.flatten(), classes),
            lambda answer, truth, spacing_mm: measure_case(
                answer.numpy(), truth.numpy(), spacing_mm, classes, data.tolerance_mm
            ),
        )


class Regions(VoxelTask):
    """A probability for each voxel and region; regions may overlap, as in nnU-Net.

    Isensee et al. 2020, https://arxiv.org/abs/2011.00848, for brain tumours.
    """

    def find_foreground(self, label: Label, data: DataConfig) -> tuple[Tensor, ...]:  # noqa: ARG002
        """Find the voxels of each region."""
        return tuple(
            places for region in _map_of(label) for places in find_foreground(region[None], 2)
        )

    def truth(self, label: Label, data: DataConfig) -> Tensor:  # noqa: ARG002
        """Return the regions: bool, (regions, X, Y, Z)."""
        return _map_of(label) > 0

    def read_truth(self, case: Case, data: DataConfig) -> Tensor:
        """Read the regions as drawn: bool, (regions, X, Y, Z)."""
        return self._read(case, data)

    def decide(self, logits: Tensor, data: DataConfig) -> Tensor:  # noqa: ARG002
        """Choose the regions whose probability is above one half."""
        return logits > 0

    def answer(self, logits: Tensor, data: DataConfig, grid: Grid, native: Grid) -> Tensor:  # noqa: ARG002
        """Choose the regions of each voxel of the image: bool, (regions, X, Y, Z)."""
        return _natively(logits.sigmoid(), grid, native, lambda found: found > SURE, 1)

    def draw(self, answer: Tensor) -> Tensor:
        """Draw the regions over each other in their order: 0 for none of them, 1, 2, ..."""
        return draw_regions(answer, range(1, len(answer) + 1))

    def tally(self, data: DataConfig) -> "VoxelTally":
        """Score Dice of the regions."""
        return VoxelTally(
            data.kind.scored(data.labels),
            lambda answer, truth: torch.cat(
                [
                    dice_per_class(one.flatten().int(), other.flatten().int(), 2)
                    for one, other in zip(answer, truth, strict=True)
                ]
            ),
            lambda answer, truth, spacing_mm: measure_regions(
                answer.numpy(), truth.numpy(), spacing_mm, data.tolerance_mm
            ),
        )

    def _read(self, case: Case, data: DataConfig) -> Tensor:
        drawn = super()._read(case, data)
        regions = [torch.isin(drawn, torch.tensor(places)) for places in case.regions]
        return torch.cat(regions)


class VoxelTally:
    """Dice of cases, and the measures of their structures.

    Args:
        names: Labels that have a score.
        score: Takes an answer and its truth; returns Dice of each name, NaN if it is in neither.
        measure: Takes an answer, its truth and the size of a voxel.
    """

    def __init__(
        self,
        names: Sequence[str],
        score: Callable[[Tensor, Tensor], Tensor],
        measure: Callable[[Tensor, Tensor, Sequence[float]], list[StructureFigures]],
    ) -> None:
        self._names, self._score, self._measure = names, score, measure
        self._rows: list[Tensor] = []
        self._figures: list[list[StructureFigures]] = []

    def add(self, answer: Tensor, truth: Tensor) -> Scored:
        """Score a case."""
        self._rows.append(self._score(answer, truth.to(answer.device)).cpu())
        one = summarize(self._rows[-1:], self._names, None, 1)
        return Scored(one.scores, one.score)

    def measure(self, answer: Tensor, truth: Tensor, spacing_mm: Sequence[float]) -> None:
        """Measure a case's structures."""
        self._figures.append(self._measure(answer, truth, spacing_mm))

    def evaluation(self, loss: float | None) -> Evaluation:
        """Compute means over cases, then over labels."""
        return summarize(self._rows, self._names, loss, len(self._rows))

    def measures(self, subjects: Sequence[int]) -> Measures:
        """Compute the measures of all cases."""
        if not self._figures:
            return {}
        rows = np.stack([row.numpy() for row in self._rows])
        return measure_segmentation(self._figures, rows, subjects, self._names)


def draw_regions(regions: Tensor, values: Sequence[int]) -> Tensor:
    """Draw regions into one label map, later ones over earlier ones.

    Args:
        regions: Bool, (regions, X, Y, Z).
        values: What is drawn for each region.
    """
    drawn = torch.zeros(regions.shape[1:], dtype=torch.uint8)
    for region, value in zip(regions.cpu(), values, strict=True):
        drawn[region] = value
    return drawn


def most_probable(probabilities: Tensor) -> Tensor:
    """Compute `argmax(0)` as uint8, several times as fast for a few classes."""
    best, labels = probabilities[0].clone(), torch.zeros_like(probabilities[0], dtype=torch.uint8)
    for number, values in enumerate(probabilities[1:], start=1):
        labels.masked_fill_(values > best, number)
        torch.maximum(best, values, out=best)
    return labels


def _natively(
    probabilities: Tensor,
    grid: Grid,
    native: Grid,
    choose: Callable[[Tensor], Tensor],
    axis: int,
) -> Tensor:
    """Choose on another grid, slab by slab along `axis` of the choice, to save memory."""
    slabs = []
    for start in range(0, native.shape[0], SLAB):
        shift = np.eye(4)
        shift[0, 3] = start
        slab = Grid((min(SLAB, native.shape[0] - start), *native.shape[1:]), native.affine @ shift)
        slabs.append(choose(resample(probabilities, grid, slab)).cpu())
    return torch.cat(slabs, axis)


def _map_of(label: Label) -> Tensor:
    assert isinstance(label, Tensor)
    return label
