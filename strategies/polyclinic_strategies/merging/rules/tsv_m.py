"""Task singular vectors: Gargiulo et al. 2025, https://arxiv.org/abs/2412.00081."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from polyclinic_strategies.merging.arithmetic.layer import Layer, require_scale
from polyclinic_strategies.merging.arithmetic.matrices import is_matrix, leading_directions, polar
from polyclinic_strategies.merging.rules.mean import Mean


@dataclass(frozen=True)
class TsvM:
    """Sum each site's leading singular vectors, made orthogonal across sites against interference.

    τ_i = U_i S_i V_i^T as a matrix (out, in), a convolution unfolded; of its r = min(out, in)
    singular vectors the ⌊r / N⌋ largest are kept, at least one. U = [U_1 ... U_N] and V = [V_1 ...
    V_N] are replaced by the nearest matrices with orthonormal columns, their polar factors U', V':
    Δ = λ U' diag(S_1 ... S_N) V'^T. Columns that coincide share one direction, so N equal sites
    give what one of them gives with its ⌊r / N⌋ directions. Tensors of one dimension take λ times
    the plain mean, as in the paper.

    Args:
        scale: λ; the paper's value is 1.
        unfold: Whether a convolution's kernel counts as a matrix (out, inputs of a patch). False
            gives it λ times the plain mean, as the paper's code does with all that has not two
            dimensions; in a network of convolutions, that is nearly everything.

    Raises:
        ValueError: A parameter is out of range.
    """

    scale: float = 1.0
    unfold: bool = True
    needs: ClassVar[frozenset[str]] = frozenset()
    global_statistics: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        require_scale(self.scale)

    def __call__(self, layer: Layer) -> Tensor:
        """Merge: (sites, *shape) -> (*shape)."""
        if not is_matrix(layer) or (layer.base.dim() > 2 and not self.unfold):
            return Mean(self.scale)(layer)
        shape = layer.base.shape
        matrices = [vector.flatten(1) for vector in layer.vectors]
        count = max(1, min(matrices[0].shape) // len(matrices))
        parts = [leading_directions(matrix.double(), count) for matrix in matrices]
        left, lengths, right = (torch.cat(columns, dim=-1) for columns in zip(*parts, strict=True))
        if not lengths.numel():
            return torch.zeros(shape)
        merged = (polar(left)[0] * lengths) @ polar(right)[0].T
        return merged.mul_(self.scale).float().reshape(shape)
