"""TIES-Merging: Yadav et al. 2023, https://arxiv.org/abs/2306.01708."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from polyclinic_strategies.merging.arithmetic.layer import Layer, require, require_scale
from polyclinic_strategies.merging.arithmetic.pieces import in_parallel, in_pieces


@dataclass(frozen=True)
class Ties:
    """Trim, elect a sign, and average the values that have it.

    1. Of each τ_i, keep the fraction `keep` of largest magnitude; set everything else to zero.
    2. s = sign(Σ_i τ_i), per entry.
    3. Δ = λ · mean of the τ_i that are not zero and have the sign s, per entry; zero where there is
    none, or where the sum is exactly zero.

    Args:
        keep: Fraction kept, in (0, 1], of each tensor: ⌊keep · entries⌋ but at least one, and all
            that equal the smallest kept. The paper trims the whole vector at once. Trimming per
            tensor needs no pass over the whole model first, and trims no layer away entirely.
        scale: λ; the paper's value without validation data is 1.

    Raises:
        ValueError: A parameter is out of range.
    """

    keep: float = 0.2
    scale: float = 1.0
    needs: ClassVar[frozenset[str]] = frozenset()
    global_statistics: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        require(0 < self.keep <= 1, f"keep={self.keep}: above 0, at most 1.")
        require_scale(self.scale)

    def __call__(self, layer: Layer) -> Tensor:
        """Merge: (sites, *shape) -> (*shape)."""
        rows = layer.rows
        thresholds = in_parallel(lambda row: smallest_kept(row, self.keep), rows)
        merged = torch.empty(rows[0].numel())

        def merge_piece(piece: slice) -> None:
            trimmed = [
                trim(row[piece], threshold) for row, threshold in zip(rows, thresholds, strict=True)
            ]
            merged[piece] = elect_sign(trimmed).mul_(self.scale)

        in_pieces(merge_piece, merged.numel())
        return merged.reshape(layer.base.shape)


def smallest_kept(row: Float[Tensor, " n"], keep: float) -> float:
    """Return the magnitude of the ⌊keep · n⌋-th largest entry."""
    count = max(1, int(keep * row.numel()))
    if count >= row.numel():
        return 0.0
    magnitudes = np.abs(row.numpy())
    magnitudes.partition(row.numel() - count)
    return float(magnitudes[row.numel() - count])


def trim(values: Float[Tensor, " n"], threshold: float) -> Float[Tensor, " n"]:
    """Set values to zero whose magnitude is below the threshold."""
    below = float(np.nextafter(np.float32(threshold), np.float32(-1)))
    return torch.nn.functional.hardshrink(values, below)


def elect_sign(rows: Sequence[Float[Tensor, " n"]]) -> Float[Tensor, " n"]:
    """Return, per entry, the mean of those rows that have the sign of the sum."""
    sign = rows[0].clone()
    for row in rows[1:]:
        sign += row
    sign.sign_()
    total, count = torch.zeros_like(sign), torch.zeros_like(sign)
    for row in rows:
        aligned = (row * sign).relu_()
        total += aligned
        count += aligned.sign_()
    return total.div_(count.clamp_min_(1.0)).mul_(sign)
