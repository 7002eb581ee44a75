"""DARE (drop and rescale): Yu et al. 2024, https://arxiv.org/abs/2311.03099."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from polyclinic_strategies.merging.arithmetic.fixed_point import (
    FRACTION_BITS,
    check_layer,
    from_fixed,
    sum_fixed,
)
from polyclinic_strategies.merging.arithmetic.layer import Layer, require, require_scale, seed_of
from polyclinic_strategies.merging.arithmetic.pieces import in_pieces


@dataclass(frozen=True)
class Dare:
    """Drop entries at random, rescale the others so that the expectation stays, and sum.

    Δ = λ Σ_i m_i ⊙ τ_i / (1 - p), m_i ~ Bernoulli(1 - p)

    A mask follows from the parameter's name, the site's name and the seed: it does not change when
    another site joins or leaves, and any order of sites gives the same bits.

    Args:
        drop: p, in [0, 1). The paper drops up to 0.9 and more.
        scale: λ of the sum that follows, as in `Sum`.
        seed: Another seed draws other masks.
        fraction_bits: Binary places of the exact sum (`fixed_point`).

    Raises:
        ValueError: A parameter is out of range.
    """

    drop: float = 0.9
    scale: float = 0.3
    seed: int = 0
    fraction_bits: int = FRACTION_BITS
    needs: ClassVar[frozenset[str]] = frozenset()
    global_statistics: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        require(0 <= self.drop < 1, f"drop={self.drop}: from 0 to below 1.")
        require_scale(self.scale)
        require(0 <= self.fraction_bits <= 62, f"fraction_bits={self.fraction_bits}: from 0 to 62.")

    def __call__(self, layer: Layer) -> Tensor:
        """Merge: (sites, *shape) -> (*shape)."""
        rows = layer.rows
        merged, ones = torch.empty(rows[0].numel()), [1] * len(layer.keys)

        def merge_piece(piece: slice) -> list[float]:
            words = (str(self.seed), str(piece.start))
            kept = [
                drop(row[piece], self.drop, layer.name, key, *words)
                for row, key in zip(rows, layer.keys, strict=True)
            ]
            total, norms = sum_fixed(kept, ones, self.fraction_bits)
            merged[piece] = from_fixed(total, 1, self.scale / (1 - self.drop), self.fraction_bits)
            return norms

        check_layer(layer, ones, in_pieces(merge_piece, merged.numel()), self.fraction_bits)
        return merged.reshape(layer.base.shape)


def drop(values: Float[Tensor, " n"], probability: float, *words: str) -> Float[Tensor, " n"]:
    """Keep each value with the probability 1 - p, else set it to zero; do not rescale.

    The same words drop the same values on every machine.
    """
    stream = np.random.SFC64(seed_of("dare", *words))
    raw = stream.random_raw((values.numel() + 1) // 2).astype("<u8", copy=False)
    drawn = raw.view("<u4")[: values.numel()]
    return values * torch.from_numpy(drawn >= np.uint64(round(probability * 2**32)))
