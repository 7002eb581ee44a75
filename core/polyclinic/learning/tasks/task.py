"""The protocol of a task: labels, targets, answers, and how answers are scored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from polyclinic.config.schemas import DataConfig
from polyclinic.imaging.datasets import Case
from polyclinic.imaging.headers import Grid
from polyclinic.imaging.listing.values import Values
from polyclinic.learning.measures.estimates import Measures
from polyclinic.learning.metrics import Evaluation

# of a prepared case: uint8, 1XYZ, or one channel for each region; a class; findings or numbers
Label = Tensor | int | Values


@dataclass(frozen=True)
class Scored:
    """Figures of one case.

    Attributes:
        scores: Of a segmentation, Dice by label, NaN if it is in neither map; else the answer:
            probabilities or numbers by label.
        score: From 0 to 1; NaN if nothing of the case is known.
    """

    scores: Mapping[str, float]
    score: float


class Tally(Protocol):
    """Scores of cases, which are added one at a time."""

    def add(self, answer: Tensor, truth: Tensor) -> Scored:
        """Score a case."""
        ...

    def measure(self, answer: Tensor, truth: Tensor, spacing_mm: Sequence[float]) -> None:
        """Measure a case that was added, on the image's own grid."""
        ...

    def evaluation(self, loss: float | None) -> Evaluation:
        """Return the scores of all cases."""
        ...

    def measures(self, subjects: Sequence[int]) -> Measures:
        """Return measures with support and intervals.

        Args:
            subjects: Number of each case's subject, from 0.
        """
        ...


class Task(Protocol):
    """What a network's output means."""

    def prepare_label(self, case: Case, data: DataConfig, native: Grid, grid: Grid) -> Label:
        """Bring a case's label onto the network's grid.

        Raises:
            DataError: The typed fault of a label map.
        """
        ...

    def find_foreground(self, label: Label, data: DataConfig) -> tuple[Tensor, ...]:
        """Find voxels that patches are centred on, for each structure that there is."""
        ...

    def target(self, label: Label, data: DataConfig) -> Tensor:
        """Return what the loss takes for one case."""
        ...

    def truth(self, label: Label, data: DataConfig) -> Tensor:
        """Return what an answer on the network's grid is compared with."""
        ...

    def read_truth(self, case: Case, data: DataConfig) -> Tensor:
        """Read what an answer on the image's own grid is compared with.

        Raises:
            DataError: The typed fault of a label map.
        """
        ...

    def decide(self, logits: Tensor, data: DataConfig) -> Tensor:
        """Return the answer on the network's grid.

        Args:
            logits: Shape (outputs, X, Y, Z), or (outputs,).
            data: Labels and ranges.
        """
        ...

    def answer(self, logits: Tensor, data: DataConfig, grid: Grid, native: Grid) -> Tensor:
        """Return the answer on the image's own grid, on the CPU.

        Segmentation: uint8, XYZ. Regions: bool, (regions, X, Y, Z). Classification and findings:
        probabilities, (labels,). Regression: numbers in their unit, (labels,).
        """
        ...

    def draw(self, answer: Tensor) -> Tensor | None:
        """Return a label map of 0, 1, ..., uint8, of an answer or a truth; None where none is."""
        ...

    def name(self, answer: Tensor, data: DataConfig) -> str | None:
        """Say an answer about a whole image in words; None if its values say all."""
        ...

    def tally(self, data: DataConfig) -> Tally:
        """Begin to score cases."""
        ...
