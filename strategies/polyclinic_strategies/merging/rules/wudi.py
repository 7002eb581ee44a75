"""WUDI-Merging: Cheng et al. 2025, https://arxiv.org/abs/2503.08099."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from polyclinic_strategies.merging.arithmetic.layer import Layer, require_scale
from polyclinic_strategies.merging.arithmetic.matrices import (
    as_matrices,
    is_matrix,
    nearest_solution,
)
from polyclinic_strategies.merging.rules.mean import Mean


@dataclass(frozen=True)
class Wudi:
    """Find, without data, the weight that interferes least with every site's task.

    A site's task vector spans the inputs on which its layer was trained. So the interference at
    site i is (Δ - τ_i) τ_i^T, and Δ = λ argmin_X Σ_i ‖(X - τ_i) τ_i^T‖² / ‖τ_i‖², τ_i a weight as a
    matrix (out, in), a convolution unfolded. The paper runs Adam for some hundred steps from Σ_i
    τ_i, which stops near the minimum and depends on the learning rate. The problem is quadratic.
    Here it is solved exactly: X = S + (Σ_i (τ_i - S) C_i)(Σ_i C_i)^+ with C_i = τ_i^T τ_i / ‖τ_i‖²
    and S = Σ_i τ_i. This is the minimum nearest to S, to which gradient descent from S converges.
    Tensors of one dimension take λ times the plain mean.

    Args:
        scale: λ, 1 for the paper's rule.

    Raises:
        ValueError: A parameter is out of range.
    """

    scale: float = 1.0
    needs: ClassVar[frozenset[str]] = frozenset()
    global_statistics: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        require_scale(self.scale)

    def __call__(self, layer: Layer) -> Tensor:
        """Merge: (sites, *shape) -> (*shape)."""
        if not is_matrix(layer):
            return Mean(self.scale)(layer)
        merged = minimize_interference(as_matrices(layer))
        return merged.mul_(self.scale).float().reshape(layer.base.shape)


def minimize_interference(matrices: Tensor) -> Tensor:
    """Minimize the interference: (sites, out, in) -> (out, in), all in float64."""
    sites, out, inputs = matrices.shape
    if sites * out < inputs:  # solve in the span of the rows, where the matrices are smaller
        basis = torch.linalg.qr(matrices.reshape(sites * out, inputs).T).Q
        return minimize_interference(matrices @ basis).matmul(basis.T)
    lengths = torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True)
    units = matrices / torch.where(lengths > 0, lengths, 1.0)
    total = matrices.sum(0)
    rows = units.reshape(sites * out, inputs)
    residual = torch.zeros_like(total)
    for matrix, unit in zip(matrices, units, strict=True):
        residual.addmm_((matrix - total) @ unit.T, unit)
    return nearest_solution(total, residual, rows.T @ rows)
