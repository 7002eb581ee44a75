"""Distances between two surfaces in mm: normalized surface Dice and Hausdorff 95.

The surface runs between voxels: each cell of 2 x 2 x 2 voxels that holds both kinds is an element
of it, whose area is that of marching cubes (in 2-D: 2 x 2 pixels, and a length). Elements and areas
are MONAI's; distances are exact.

Nikolov et al. 2021, https://doi.org/10.2196/26151, and their package `surface-distance`.
"""

from typing import Any

import numpy as np
import torch
from monai.metrics.utils import get_mask_edges
from numpy.typing import NDArray
from scipy.spatial import KDTree

PERCENT = 0.95


def measure_surfaces(
    prediction: NDArray[Any],
    truth: NDArray[Any],
    spacing_mm: tuple[float, ...],
    tolerance_mm: float,
) -> tuple[float, float]:
    """Compute normalized surface Dice and Hausdorff 95.

    Surface Dice is the share of both surfaces that lies within the tolerance of the other one.
    Hausdorff 95 is the larger of the two distances within which 95 % of one surface lie from the
    other.

    Args:
        prediction: Boolean, 2-D or 3-D, not empty; its surroundings count as empty.
        truth: The same shape, not empty.
        spacing_mm: Size of a voxel.
        tolerance_mm: Largest distance at which surfaces count as equal.

    Returns:
        Surface Dice, 0 to 1; Hausdorff 95 in mm.

    Raises:
        ValueError: The shapes differ, or one of the structures is empty.
    """
    if prediction.shape != truth.shape or len(spacing_mm) != truth.ndim:
        raise ValueError(
            f"prediction {prediction.shape}, truth {truth.shape} and spacing {spacing_mm} differ "
            "in shape"
        )
    if not prediction.any() or not truth.any():
        raise ValueError("an empty structure has no surface")
    padded = [torch.from_numpy(np.pad(each, 1)) for each in (prediction, truth)]
    edges = get_mask_edges(*padded, crop=False, spacing=spacing_mm)
    places = [np.argwhere(each.numpy()) * np.asarray(spacing_mm, np.float64) for each in edges[:2]]
    areas = [
        area.numpy()[edge.numpy()].astype(np.float64)
        for edge, area in zip(edges[:2], edges[2:], strict=True)
    ]
    trees = [KDTree(each, leafsize=32) for each in places]
    distances = [trees[1].query(places[0])[0], trees[0].query(places[1])[0]]
    within = sum(
        area[distance <= tolerance_mm].sum()
        for area, distance in zip(areas, distances, strict=True)
    )
    dice = float(within / (areas[0].sum() + areas[1].sum()))
    hausdorff = max(map(_percentile, distances, areas))
    return min(1.0, dice), hausdorff


def _percentile(distances: NDArray[np.float64], areas: NDArray[np.float64]) -> float:
    """Return the distance within which 95 % of a surface's area lie."""
    order = np.argsort(distances, kind="stable")
    share = np.cumsum(areas[order]) / areas.sum()
    place = min(int(np.searchsorted(share, PERCENT)), len(share) - 1)
    return float(distances[order][place])
