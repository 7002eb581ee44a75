"""Distances between two surfaces in mm: normalized surface Dice and Hausdorff 95.

The surface runs between voxels: each cell of 2 x 2 x 2 voxels that holds both kinds is an element
of it, whose area is that of marching cubes (in 2-D: 2 x 2 pixels, and a length). Areas are MONAI's
table of them; distances are exact.

Nikolov et al. 2021, https://doi.org/10.2196/26151, and their package `surface-distance`.
"""

from typing import Any

import numpy as np
from monai.metrics.utils import get_code_to_measure_table
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
    table, kernel = get_code_to_measure_table(spacing_mm)
    weights, sizes = kernel.numpy()[0, 0].astype(np.uint8), table.numpy().astype(np.float64)
    codes = [_codes(each, weights) for each in (prediction, truth)]
    edges = [(each != 0) & (each != len(sizes) - 1) for each in codes]
    areas = [sizes[each[edge]] for each, edge in zip(codes, edges, strict=True)]
    distances = [
        _distances(edges[0], edges[1], spacing_mm),
        _distances(edges[1], edges[0], spacing_mm),
    ]
    within = sum(
        area[distance <= tolerance_mm].sum()
        for area, distance in zip(areas, distances, strict=True)
    )
    dice = float(within / (areas[0].sum() + areas[1].sum()))
    hausdorff = max(map(_percentile, distances, areas))
    return min(1.0, dice), hausdorff


def _codes(mask: NDArray[Any], weights: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Compute the code of each cell of 2 x 2 x 2 voxels: which of them are set.

    The mask gets a border of empty voxels.

    Args:
        mask: Boolean.
        weights: Of the voxels of a cell: powers of 2, shape (2, 2, 2) or (2, 2).
    """
    padded = np.pad(mask, 1).view(np.uint8)
    codes = np.zeros([size - 1 for size in padded.shape], np.uint8)
    for place in np.ndindex(*weights.shape):
        window = tuple(slice(at, at + size) for at, size in zip(place, codes.shape, strict=True))
        codes += padded[window] * weights[place]
    return codes


def _distances(
    edge: NDArray[np.bool_], other: NDArray[np.bool_], spacing_mm: tuple[float, ...]
) -> NDArray[np.float64]:
    """Compute the distance of each element of a surface to the nearest one of the other.

    Elements of both are at distance 0; for the others a tree of the other surface is asked, so
    that memory and time are in proportion to the surfaces.
    """
    apart = ~other[edge]
    found = np.zeros(len(apart))
    if apart.any():
        scale = np.asarray(spacing_mm, np.float64)
        tree = KDTree(np.argwhere(other) * scale, leafsize=32)
        found[apart] = tree.query(np.argwhere(edge)[apart] * scale)[0]
    return found


def _percentile(distances: NDArray[np.float64], areas: NDArray[np.float64]) -> float:
    """Return the distance within which 95 % of a surface's area lie."""
    order = np.argsort(distances, kind="stable")
    share = np.cumsum(areas[order]) / areas.sum()
    place = min(int(np.searchsorted(share, PERCENT)), len(share) - 1)
    return float(distances[order][place])
