"""The measures of a hospital's cases, collected one case at a time."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from polyclinic.config.schemas import DataConfig
from polyclinic.imaging.datasets import Case
from polyclinic.imaging.subjects import number_subjects
from polyclinic.learning.measures.classification import measure_classification
from polyclinic.learning.measures.estimates import Estimate
from polyclinic.learning.measures.segmentation import (
    StructureFigures,
    measure_case,
    measure_segmentation,
)


class Collected:
    """What is measured of cases that are scored in their order.

    Args:
        cases: All of them.
        data: Task, labels and tolerance.
    """

    def __init__(self, cases: Sequence[Case], data: DataConfig) -> None:
        self._subjects = number_subjects(cases)
        self._data = data
        self._figures: list[list[StructureFigures]] = []
        self._probabilities: list[NDArray[Any]] = []
        self._truths: list[int] = []

    def add_labels(
        self, labels: NDArray[Any], truth: NDArray[Any], spacing_mm: Sequence[float]
    ) -> None:
        """Measure a label map.

        Args:
            labels: Predicted, XYZ or XY.
            truth: As drawn, of as many voxels.
            spacing_mm: Of the three axes.
        """
        count, tolerance = len(self._data.labels), self._data.tolerance_mm
        drawn, spacing = truth.reshape(labels.shape), spacing_mm[: labels.ndim]
        self._figures.append(measure_case(labels, drawn, spacing, count, tolerance))

    def add_class(self, probabilities: Tensor, truth: int) -> None:
        """Keep the probabilities of a case, shape (classes,), and its class."""
        self._probabilities.append(np.asarray(probabilities.double().numpy()))
        self._truths.append(truth)

    def measures(self, rows: Sequence[Tensor]) -> dict[str, dict[str, Estimate]]:
        """Compute the measures of all cases that were added.

        Args:
            rows: Of a segmentation, the Dice of each case's foreground classes.
        """
        if self._figures:
            values = np.stack([np.asarray(row.numpy()) for row in rows])
            subjects = self._subjects[: len(values)]
            return measure_segmentation(self._figures, values, subjects, self._data.labels[1:])
        if self._truths:
            probabilities = np.stack(self._probabilities)
            subjects = self._subjects[: len(probabilities)]
            return measure_classification(probabilities, self._truths, subjects, self._data.labels)
        return {}
