"""Lesions: connected components of a structure, found or missed, and false ones."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


@dataclass(frozen=True)
class Lesions:
    """What became of the lesions of one case.

    Attributes:
        number: Of lesions in the reference.
        found: Of them that overlap the prediction in at least one voxel.
        false_positives: Number of the prediction's components that overlap no lesion.
    """

    number: int
    found: int
    false_positives: int


def count_lesions(prediction: NDArray[Any], truth: NDArray[Any]) -> Lesions:
    """Count lesions: components whose voxels touch in a face, an edge or a corner.

    Args:
        prediction: Boolean, 2-D or 3-D: 8 or 26 neighbours.
        truth: The same shape.

    Raises:
        ValueError: The shapes differ.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} differ in shape")
    touching = np.ones((3,) * truth.ndim, dtype=bool)
    lesions, number = ndimage.label(truth, touching)
    components, predicted = ndimage.label(prediction, touching)
    both = prediction & truth
    found = np.unique(lesions[both]).size
    overlapping = np.unique(components[both]).size
    return Lesions(int(number), int(found), int(predicted) - int(overlapping))
