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
    """The weight that interferes least with every site's task, found without data.

    A site's task vector spans the inputs its layer was trained on, so the interference at site i is
    (Δ - τ_i) τ_i^T, and Δ = λ argmin_X Σ_i ‖(X - τ_i) τ_i^T‖² / ‖τ_i‖², τ_i a weight as a matrix
    (out, in), a convolution unfolded. The paper runs Adam for some hundred steps from Σ_i τ_i,
    which stops near the minimum and depends on the learning rate. The problem is quadratic: here it
    is solved exactly, X = S + (Σ_i (τ_i - S) C_i)(Σ_i C_i)^+ with C_i = τ_i^T τ_i / ‖τ_i‖² and S =
    Σ_i τ_i. That is the minimum nearest to S, the one that gradient descent from S converges to.
    Tensors of one dimension: λ times the plain mean.

    Args:
        scale: λ, 1 for the paper's rule.

    Raises:
        ValueError: A parameter outside its range.
    """

    scale: float = 1.0
    needs: ClassVar[frozenset[str]] = frozenset()
    global_statistics: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        require_scale(self.scale)

    def __call__(self, layer: Layer) -> Tensor:
        """(sites, *shape) -> (*shape)."""
        if not is_matrix(layer):
            return Mean(self.scale)(layer)
        merged = minimize_interference(as_matrices(layer))
        return merged.mul_(self.scale).float().reshape(layer.base.shape)


def minimize_interference(matrices: Tensor) -> Tensor:
    """(sites, out, in) -> (out, in), all in float64."""
    sites, out, inputs = matrices.shape
    if (
        sites * out < inputs
    ):  # everything happens in the span of the rows: solve there, the matrices are smaller
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
