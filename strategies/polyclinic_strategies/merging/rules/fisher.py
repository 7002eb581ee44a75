"""Fisher merging: Matena and Raffel 2022, https://arxiv.org/abs/2111.09832."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from polyclinic_strategies.merging.arithmetic.layer import Layer, require, require_scale
from polyclinic_strategies.merging.arithmetic.pieces import in_pieces
from polyclinic_strategies.merging.rules.mean import Mean


@dataclass(frozen=True)
class Fisher:
    """Average each entry, weighted by how sensitive each site's outputs are to that entry.

    Δ = λ Σ_i F_i ⊙ τ_i / Σ_i F_i

    F_i is the diagonal of the Fisher information, of τ_i's shape, from
    `Layer.statistics["fisher"]`. As all sites share θ0, this is the paper's mean of weights. Where
    every F_i is zero, and for parameters without F, the plain mean is taken.

    Args:
        scale: λ, 1 for the paper's rule.

    Raises:
        ValueError: A parameter is out of range, or a Fisher weight is below zero or of another
            shape.
    """

    scale: float = 1.0
    needs: ClassVar[frozenset[str]] = frozenset({"fisher"})
    global_statistics: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        require_scale(self.scale)

    def __call__(self, layer: Layer) -> Tensor:
        """Merge: (sites, *shape) -> (*shape)."""
        merged = Mean(self.scale)(layer)
        fisher = layer.statistics.get("fisher")
        if fisher is None:
            return merged
        require(
            fisher.shape == (len(layer.keys), *layer.base.shape),
            f"{layer.name}: Fisher weights of shape {tuple(fisher.shape)}.",
        )
        require(not bool((fisher < 0).any()), f"{layer.name}: Fisher weights below zero.")
        flat = merged.reshape(-1)
        weights = fisher.reshape(len(layer.keys), -1)

        def merge_piece(piece: slice) -> None:
            total = torch.zeros(piece.stop - piece.start, dtype=torch.float64)
            weighted = torch.zeros_like(total)
            for row, weight in zip(layer.rows, weights, strict=True):
                exact = weight[piece].double()
                total += exact
                weighted += exact.mul_(row[piece])
            flat[piece] = torch.where(
                total > 0, weighted.div_(total).mul_(self.scale).float(), flat[piece]
            )

        in_pieces(merge_piece, flat.numel())
        return flat.reshape(layer.base.shape)
