"""RegMean: Jin et al. 2023, https://arxiv.org/abs/2212.09849."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from polyclinic_strategies.merging.arithmetic.layer import Layer, require, require_scale
from polyclinic_strategies.merging.arithmetic.matrices import as_matrices, nearest_solution
from polyclinic_strategies.merging.rules.mean import Mean


@dataclass(frozen=True)
class RegMean:
    """Find the weights whose outputs are nearest to every site's own, on that site's inputs.

    Δ = λ Σ_i τ_i G_i (Σ_i G_i)^-1

    τ_i is a weight as a matrix (out, in), a convolution unfolded to in = channels · kernel; G_i =
    X_i^T X_i (in, in) are second moments of the layer's inputs at site i, from
    `Layer.statistics["gram"]`. As all sites share θ0, this is the paper's rule on weights. Inputs
    that no site ever saw (Σ G_i singular) keep the mean. Parameters without G take the plain mean:
    biases, norms, and transposed convolutions, whose shapes look like those of convolutions.

    Args:
        off_diagonal: Factor of the off-diagonal entries of each G_i, in [0, 1]; 0.9 to 0.95 in the
            paper.
        scale: λ, 1 for the paper's rule.

    Raises:
        ValueError: A parameter is out of range, or a G_i has another shape.
    """

    off_diagonal: float = 0.95
    scale: float = 1.0
    needs: ClassVar[frozenset[str]] = frozenset({"gram"})
    global_statistics: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        require(0 <= self.off_diagonal <= 1, f"off_diagonal={self.off_diagonal}: from 0 to 1.")
        require_scale(self.scale)

    def __call__(self, layer: Layer) -> Tensor:
        """Merge: (sites, out, *rest) -> (out, *rest)."""
        grams = layer.statistics.get("gram")
        if grams is None:
            return Mean(self.scale)(layer)
        matrices = as_matrices(layer)
        sites, _, inputs = matrices.shape
        require(
            grams.shape == (sites, inputs, inputs),
            f"{layer.name}: Gram matrices of shape {tuple(grams.shape)}, {inputs} inputs.",
        )
        mean = matrices.mean(0)
        residual, total = torch.zeros_like(mean), torch.zeros(inputs, inputs, dtype=torch.float64)
        for matrix, gram in zip(matrices, grams, strict=True):
            shrunk = gram.double().mul_(self.off_diagonal)
            shrunk.diagonal().copy_(gram.diagonal())
            residual.addmm_(matrix - mean, shrunk)
            total += shrunk
        merged = nearest_solution(mean, residual, total)
        return merged.mul_(self.scale).float().reshape(layer.base.shape)
