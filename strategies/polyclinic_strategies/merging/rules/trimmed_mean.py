"""The coordinate-wise trimmed mean: Yin et al. 2018, https://arxiv.org/abs/1803.01498."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from polyclinic_strategies.merging.arithmetic.layer import Layer, require, require_scale
from polyclinic_strategies.merging.arithmetic.pieces import in_pieces


@dataclass(frozen=True)
class TrimmedMean:
    """Average, per entry, without the b = ⌊trim · N⌋ largest and the b smallest values.

    Up to b sites that send anything cannot move the result outside the range of the others' values.

    Args:
        trim: Fraction left out at each end, in [0, 0.5).
        scale: λ, the factor of the mean.

    Raises:
        ValueError: A parameter is out of range.
    """

    trim: float = 0.2
    scale: float = 1.0
    needs: ClassVar[frozenset[str]] = frozenset()
    global_statistics: ClassVar[frozenset[str]] = frozenset()
    robust: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(0 <= self.trim < 0.5, f"trim={self.trim}: from 0 to below 0.5.")
        require_scale(self.scale)

    def __call__(self, layer: Layer) -> Tensor:
        """Merge: (sites, *shape) -> (*shape)."""
        sites = len(layer.keys)
        left_out = int(self.trim * sites)
        rows = layer.rows
        merged = torch.empty(rows[0].numel())

        def merge_piece(piece: slice) -> None:
            ordered = move_extremes([row[piece] for row in rows], left_out)
            inner = ordered[left_out : sites - left_out]
            total = inner[0].double()
            for row in inner[1:]:
                total += row
            merged[piece] = total.div_(len(inner)).mul_(self.scale)

        in_pieces(merge_piece, merged.numel())
        return merged.reshape(layer.base.shape)


def move_extremes(rows: list[Float[Tensor, " n"]], count: int) -> list[Float[Tensor, " n"]]:
    """Move, per entry, the `count` smallest values to the first rows, the largest to the last.

    This is a bubble sort that stops there.
    """
    last = len(rows) - 1
    for done in range(count):
        for row in [*range(done, last - done), *range(last - done - 2, done - 1, -1)]:
            rows[row], rows[row + 1] = (
                torch.minimum(rows[row], rows[row + 1]),
                torch.maximum(rows[row], rows[row + 1]),
            )
    return rows
