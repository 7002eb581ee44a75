"""Fingerprints of cases that are no files."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from polyclinic_strategies.planning.bins import (
    EXTENT_EDGES,
    INTENSITY_EDGES,
    SHAPE_EDGES,
    SPACING_EDGES,
    one_hot,
    shares,
)
from polyclinic_strategies.planning.cohort import Cohort, combine
from polyclinic_strategies.planning.fingerprint import Fingerprint


@dataclass(frozen=True)
class Image:
    """What a fingerprint knows of a case."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    intensities: Sequence[float] = field(default=(1.0,))
    picture: bool = False

    @property
    def extent_mm(self) -> tuple[float, ...]:
        """Size in mm."""
        return tuple(size * each for size, each in zip(self.shape, self.spacing_mm, strict=True))


def fingerprint(images: Sequence[Image], classes: int = 3, channels: int = 1) -> Fingerprint:
    """Return the fingerprint of a hospital with these images, one patient each."""

    def mean(rows: list[np.ndarray]) -> np.ndarray:
        return np.mean(rows, axis=0)

    def along(values: Sequence[float], edges: np.ndarray) -> np.ndarray:
        return np.stack([one_hot(value, edges) for value in values])

    parts = {
        "spacing": mean([along(each.spacing_mm, SPACING_EDGES) for each in images]),
        "shape": mean([along(each.shape, SHAPE_EDGES) for each in images]),
        "extent": mean([along(each.extent_mm, EXTENT_EDGES) for each in images]),
        "intensity": mean(
            [
                np.stack(
                    [shares(np.array(each.intensities, np.float32), INTENSITY_EDGES)] * channels
                )
                for each in images
            ]
        ),
        "classes": np.full(classes, 1 / classes),
        "box": np.ones(1),
        "pictures": np.array([np.mean([each.picture for each in images])]),
    }
    return Fingerprint(len(images), parts)


def cohort(images: Sequence[Image], classes: int = 3, channels: int = 1) -> Cohort:
    """Return the same as the only hospital."""
    return combine({"a": fingerprint(images, classes, channels)})
