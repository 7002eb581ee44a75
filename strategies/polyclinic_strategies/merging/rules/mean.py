"""The plain mean: Wortsman et al. 2022 ("model soups"), https://arxiv.org/abs/2203.05482."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from polyclinic_strategies.merging.arithmetic.fixed_point import FRACTION_BITS, merge_fixed
from polyclinic_strategies.merging.arithmetic.layer import Layer, require, require_scale


@dataclass(frozen=True)
class Mean:
    """Average all task vectors; every site counts the same, however many examples it has.

    Δ = λ/N Σ_i τ_i. Any order of sites gives the same bits.

    Args:
        scale: λ, 1 for the mean itself.
        fraction_bits: Binary places of the exact sum (`fixed_point`).

    Raises:
        ValueError: A parameter is out of range.
    """

    scale: float = 1.0
    fraction_bits: int = FRACTION_BITS
    needs: ClassVar[frozenset[str]] = frozenset()
    global_statistics: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        require_scale(self.scale)
        require(0 <= self.fraction_bits <= 62, f"fraction_bits={self.fraction_bits}: from 0 to 62.")

    def __call__(self, layer: Layer) -> Tensor:
        """Merge: (sites, *shape) -> (*shape)."""
        sites = len(layer.keys)
        return merge_fixed(layer, [1] * sites, sites, self.scale, self.fraction_bits)
