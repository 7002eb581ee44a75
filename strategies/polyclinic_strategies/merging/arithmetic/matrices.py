"""Linear algebra that several merging rules share, in float64, through the eigenvectors of the smaller Gram matrix."""

import torch
from jaxtyping import Float64
from torch import Tensor

from polyclinic_strategies.merging.arithmetic.layer import Layer

EPSILON = torch.finfo(torch.float64).eps


def is_matrix(layer: Layer) -> bool:
    """Whether the parameter maps inputs to outputs: linear and convolution weights, and whatever else has two dimensions or more."""
    return layer.base.dim() >= 2 and layer.base.numel() > 0


def as_matrices(layer: Layer) -> Float64[Tensor, "sites out inputs"]:
    """Weights as matrices: a convolution's kernel is unfolded, so that its inputs are patches."""
    return layer.stacked().flatten(2).double()


def polar(
    matrix: Float64[Tensor, "rows columns"],
) -> tuple[Float64[Tensor, "rows columns"], Float64[Tensor, " rank"]]:
    """U V^T and the singular values, smallest first, of a matrix U S V^T. Directions without any length stay zero in U V^T."""
    if matrix.shape[0] > matrix.shape[1]:
        factor, values = polar(matrix.T)
        return factor.T, values
    squares, vectors = torch.linalg.eigh(matrix @ matrix.T)
    held = squares > squares[-1] * len(squares) * EPSILON
    kept = vectors[:, held]
    return (kept / squares[held].sqrt()) @ (kept.T @ matrix), squares.clamp_min(0.0).sqrt()


def leading_directions(
    matrix: Float64[Tensor, "rows columns"], count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` largest singular triplets: U (rows, count), S (count), V (columns, count); fewer where the rank is lower."""
    if matrix.shape[0] > matrix.shape[1]:
        right, lengths, left = leading_directions(matrix.T, count)
        return left, lengths, right
    squares, vectors = torch.linalg.eigh(matrix @ matrix.T)
    held = squares > squares[-1] * len(squares) * EPSILON
    squares, left = squares[held][-count:], vectors[:, held][:, -count:]
    lengths = squares.sqrt()
    return left, lengths, (matrix.T @ left).div_(lengths)


def nearest_solution(
    start: Float64[Tensor, "out inputs"],
    residual: Float64[Tensor, "out inputs"],
    gram: Float64[Tensor, "inputs inputs"],
) -> Float64[Tensor, "out inputs"]:
    """The X nearest to `start` with the least Σ_i ‖(X - W_i) A_i^T‖², where gram = Σ_i A_i^T A_i, residual = Σ_i (W_i - start) A_i^T A_i.

    X = start + residual · gram^+: along directions that no A_i has, X stays at `start`.
    """
    factor, failed = torch.linalg.cholesky_ex(gram)
    pivots = factor.diagonal()
    if not int(failed) and float(pivots.min()) ** 2 > len(gram) * EPSILON * float(
        gram.diagonal().max()
    ):
        return start + torch.cholesky_solve(residual.T, factor).T
    values, vectors = torch.linalg.eigh(gram)
    held = values > values[-1] * len(values) * EPSILON
    kept = vectors[:, held]
    return start.addmm((residual @ kept) / values[held], kept.T)
