"""DARE followed by the sign election of TIES: Yu et al. 2024, section 4.3.

https://arxiv.org/abs/2311.03099
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from polyclinic_strategies.merging.arithmetic.layer import Layer, require, require_scale
from polyclinic_strategies.merging.arithmetic.pieces import in_pieces
from polyclinic_strategies.merging.rules.dare import drop
from polyclinic_strategies.merging.rules.ties import elect_sign


@dataclass(frozen=True)
class DareTies:
    """Drop entries at random instead of trimming them, then elect signs as TIES does.

    Δ = λ · elect_sign(m_i ⊙ τ_i) / (1 - p), m_i ~ Bernoulli(1 - p)

    Args:
        drop: p, in [0, 1).
        scale: λ.
        seed: Another seed draws other masks; for their independence see `Dare`.

    Raises:
        ValueError: A parameter is out of range.
    """

    drop: float = 0.9
    scale: float = 1.0
    seed: int = 0
    needs: ClassVar[frozenset[str]] = frozenset()
    global_statistics: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        require(0 <= self.drop < 1, f"drop={self.drop}: from 0 to below 1.")
        require_scale(self.scale)

    def __call__(self, layer: Layer) -> Tensor:
        """Merge: (sites, *shape) -> (*shape)."""
        rows = layer.rows
        merged = torch.empty(rows[0].numel())

        def merge_piece(piece: slice) -> None:
            words = (str(self.seed), str(piece.start))
            kept = [
                drop(row[piece], self.drop, layer.name, key, *words)
                for row, key in zip(rows, layer.keys, strict=True)
            ]
            merged[piece] = elect_sign(kept).mul_(self.scale / (1 - self.drop))

        in_pieces(merge_piece, merged.numel())
        return merged.reshape(layer.base.shape)
