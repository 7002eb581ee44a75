"""Linear algebra for merging rules.

It computes in float64, through the eigenvectors of the smaller Gram matrix.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

from polyclinic_strategies.merging.arithmetic.layer import Layer

EPSILON = torch.finfo(torch.float64).eps


def is_matrix(layer: Layer) -> bool:
    """Tell whether the parameter maps inputs to outputs.

    That holds for linear and convolution weights, and for anything else with two or more
    dimensions.
    """
    return layer.base.dim() >= 2 and layer.base.numel() > 0


def as_matrices(layer: Layer) -> Float64[Tensor, "sites out inputs"]:
    """Return weights as matrices.

    A convolution's kernel is unfolded, so that its inputs are patches.
    """
    return layer.stacked().flatten(2).double()


def polar(
    matrix: Float64[Tensor, "rows columns"],
) -> tuple[Float64[Tensor, "rows columns"], Float64[Tensor, " rank"]]:
    """Return U V^T and the singular values, smallest first, of a matrix U S V^T.

    Directions of length zero stay zero in U V^T.
    """
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
    """Return the `count` largest singular triplets; fewer where the rank is lower.

    Returns:
        U (rows, count), S (count), V (columns, count).
    """
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
    """Return the minimizer of Σ_i ‖(X - W_i) A_i^T‖² that is nearest to `start`.

    X = start + residual · gram^+. Along directions that no A_i has, X stays at `start`.

    Args:
        start: The starting point.
        residual: Σ_i (W_i - start) A_i^T A_i.
        gram: Σ_i A_i^T A_i.
    """
    factor, failed = torch.linalg.cholesky_ex(gram)
    smallest, tolerance = float(factor.diagonal().min()) ** 2, len(gram) * EPSILON
    if not int(failed) and smallest > tolerance * float(gram.diagonal().max()):
        return start + torch.cholesky_solve(residual.T, factor).T
    values, vectors = torch.linalg.eigh(gram)
    held = values > values[-1] * len(values) * EPSILON
    kept = vectors[:, held]
    return start.addmm((residual @ kept) / values[held], kept.T)
