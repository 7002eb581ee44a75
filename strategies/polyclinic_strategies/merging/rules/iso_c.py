"""Isotropic merging in a common space: Marczak et al. 2025, https://arxiv.org/abs/2502.04959."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from polyclinic_strategies.merging.arithmetic.layer import Layer, require_scale
from polyclinic_strategies.merging.arithmetic.matrices import as_matrices, is_matrix, polar
from polyclinic_strategies.merging.rules.mean import Mean


@dataclass(frozen=True)
class IsoC:
    """Sum all task vectors and set the singular values of the sum to their mean.

    Σ_i τ_i = U S V^T, Δ = λ mean(S) U V^T

    τ_i is a weight as a matrix (out, in), a convolution unfolded; S has min(out, in) values.
    Directions of length zero in the sum stay zero. Tensors of one dimension take λ times the plain
    mean, as in the paper's code.

    Args:
        scale: λ. The paper chooses it on validation data, for different tasks. Sites of one task
            push the same way, so that the sum grows with them; the default is that of `Sum`.
        unfold: Whether a convolution's kernel counts as a matrix (out, inputs of a patch). False
            gives it λ times the plain mean, as the paper's code does with all that has not two
            dimensions; in a network of convolutions, that is nearly everything.

    Raises:
        ValueError: A parameter is out of range.
    """

    scale: float = 0.3
    unfold: bool = True
    needs: ClassVar[frozenset[str]] = frozenset()
    global_statistics: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        require_scale(self.scale)

    def __call__(self, layer: Layer) -> Tensor:
        """Merge: (sites, *shape) -> (*shape)."""
        if not is_matrix(layer) or (layer.base.dim() > 2 and not self.unfold):
            return Mean(self.scale)(layer)
        factor, lengths = polar(as_matrices(layer).sum(0))
        return (factor * (self.scale * lengths.mean())).float().reshape(layer.base.shape)
