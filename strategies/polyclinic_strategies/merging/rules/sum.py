"""Task arithmetic: Ilharco et al. 2023, https://arxiv.org/abs/2212.04089."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from polyclinic_strategies.merging.arithmetic.fixed_point import FRACTION_BITS, merge_fixed
from polyclinic_strategies.merging.arithmetic.layer import Layer, require, require_scale


@dataclass(frozen=True)
class Sum:
    """Sum all task vectors and scale the sum: Δ = λ Σ_i τ_i.

    Any order of sites gives the same bits.

    Args:
        scale: λ. The sum overshoots as sites join, so λ = 1 is right for one site only; 1 / N is
            the mean. The paper finds λ = 0.3 to 0.4 good over many sets of tasks. It is best to let
            the hospitals score a few values.
        fraction_bits: Binary places of the exact sum (`fixed_point`).

    Raises:
        ValueError: A parameter is out of range.
    """

    scale: float = 0.3
    fraction_bits: int = FRACTION_BITS
    needs: ClassVar[frozenset[str]] = frozenset()
    global_statistics: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        require_scale(self.scale)
        require(0 <= self.fraction_bits <= 62, f"fraction_bits={self.fraction_bits}: from 0 to 62.")

    def __call__(self, layer: Layer) -> Tensor:
        """Merge: (sites, *shape) -> (*shape)."""
        return merge_fixed(layer, [1] * len(layer.keys), 1, self.scale, self.fraction_bits)
