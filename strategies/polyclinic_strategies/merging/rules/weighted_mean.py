"""Mean weighted by examples (federated averaging): McMahan et al. 2017.

https://arxiv.org/abs/1602.05629
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from polyclinic_strategies.merging.arithmetic.fixed_point import FRACTION_BITS, merge_fixed
from polyclinic_strategies.merging.arithmetic.layer import Layer, require, require_scale


@dataclass(frozen=True)
class WeightedMean:
    """Average all task vectors, weighted by the sites' numbers of examples.

    Δ = λ Σ_i n_i τ_i / Σ_i n_i. Any order of sites gives the same bits.

    Args:
        scale: λ, 1 for the mean itself.
        fraction_bits: Binary places of the exact sum (`fixed_point`).

    Raises:
        ValueError: A parameter is out of range, or no site has an example.
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
        require(
            min(layer.weights) >= 0 < sum(layer.weights),
            f"examples {layer.weights}: none below 0, and not all 0.",
        )
        return merge_fixed(layer, layer.weights, sum(layer.weights), self.scale, self.fraction_bits)
