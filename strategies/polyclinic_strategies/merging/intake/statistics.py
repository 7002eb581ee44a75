"""Bounds of the statistics that come with a task vector: names, shapes and values.

A Gram matrix G of a weight's inputs is a mean of x x^T: symmetric, its diagonal at least 0, and
|G_ij| at most sqrt(G_ii G_jj). A Fisher weight is a mean square. A description is a mean of vectors
that are at most 1 long.
"""

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from polyclinic.describing.statistics import DESCRIPTION
from polyclinic.describing.uncertainty import LARGEST, VARIANCE, error_name
from polyclinic.store.contribution import TensorFile
from polyclinic.store.refusals import StatisticRefused
from polyclinic_strategies.merging.layer_statistics import FISHER, GRAM

LARGEST_SQUARE = 1e12  # mean square of a layer's input, or of a gradient
MOST_NUMBERS = 2**20  # of one description
TOLERANCE = 1e-3
Layout = Mapping[str, tuple[int, ...]]


def check_wanted(
    file: TensorFile, site: str, wanted: Collection[str], *, variances: bool = False
) -> None:
    """Compare a contribution's statistics with those that were asked for.

    Args:
        file: The contribution.
        site: Its hospital.
        wanted: Names of what must be there.
        variances: Whether the variance of a mean may be there, too. None is missed: hospitals of
            0.1.0 send none.

    Raises:
        StatisticRefused: One is missing, or was not asked for.
    """
    found = {_kind(name): name for name in file.statistics}
    for kind in sorted(set(wanted) - set(found)):
        raise StatisticRefused(site, kind, "is missing")
    allowed = {*wanted, *(error_name(name) for name in wanted if variances)}
    for kind in sorted(set(found) - allowed):
        raise StatisticRefused(site, found[kind], "was not asked for")


def check_statistics(file: TensorFile, site: str, layout: Layout) -> None:
    """Check the statistics of layers in a contribution; others are left alone.

    Args:
        file: The contribution.
        site: Its hospital.
        layout: Names and shapes of the tensors that hospitals train.

    Raises:
        StatisticRefused: One belongs to no weight, has another shape, or impossible values.
    """
    for name in file.statistics:
        kind, _, weight = name.partition("/")
        if kind in (GRAM, FISHER):
            wanted = _shape(kind, layout.get(weight))
            if problem := _misfit(file, name, wanted) or _fault(kind, file.statistic(name)):
                raise StatisticRefused(site, name, problem)


def check_description(file: TensorFile, site: str) -> None:
    """Check the statistics of images in a contribution; others are left alone.

    Raises:
        StatisticRefused: One is no mean of vectors that are at most 1 long.
    """
    for name in file.statistics:
        if name.startswith(DESCRIPTION):
            fault = fault_of_variance if name.endswith(VARIANCE) else fault_of_mean
            if problem := fault(file.statistic(name)):
                raise StatisticRefused(site, name, problem)


def fault_of_mean(mean: Tensor) -> str:
    """Tell what is wrong with one mean of a description; empty if nothing is."""
    if mean.ndim != 1 or not 0 < len(mean) <= MOST_NUMBERS:
        return f"has the shape {tuple(mean.shape)}, a list of numbers was expected"
    length = float(torch.linalg.vector_norm(mean, dtype=torch.float64))
    if not math.isfinite(length):
        return "contains NaN or Inf"
    return f"is {length:.4g} long, a mean is at most 1 long" if length > 1 + TOLERANCE else ""


def fault_of_variance(variance: Tensor) -> str:
    """Tell what is wrong with the variance of a mean; empty if nothing is."""
    if tuple(variance.shape) != (1,):
        return f"has the shape {tuple(variance.shape)}, one number was expected"
    found = float(variance)
    return "" if 0 <= found <= LARGEST else f"is {found:.4g}, a variance is 0 .. {LARGEST:g}"


def _kind(name: str) -> str:
    if name.startswith(DESCRIPTION):
        return name.removeprefix(DESCRIPTION)
    kind, slash, _ = name.partition("/")
    return kind if slash and kind in (GRAM, FISHER) else name


def _shape(kind: str, shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if shape is None or kind == FISHER:
        return shape
    return (math.prod(shape[1:]),) * 2 if len(shape) > 1 else None


def _misfit(file: TensorFile, name: str, wanted: tuple[int, ...] | None) -> str:
    if wanted is None:
        return "belongs to no weight of the network"
    found = file.statistic_shape(name)
    return "" if found == wanted else f"has the shape {found}, expected is {wanted}"


def _fault(kind: str, values: Tensor) -> str:
    if not bool(torch.isfinite(values).all()):
        return "contains NaN or Inf"
    diagonal = values.diagonal() if kind == GRAM else values
    if bool((diagonal < 0).any()):
        return "has mean squares below zero"
    if bool((diagonal > LARGEST_SQUARE).any()):
        return f"has mean squares above {LARGEST_SQUARE:g}"
    return _fault_of_gram(values) if kind == GRAM else ""


def fault_of_moments(values: Tensor) -> str:
    """Tell why a square matrix is none of second moments, or of covariances; empty if it is one."""
    return _fault(GRAM, values)


def _fault_of_gram(values: Tensor) -> str:
    roots = values.diagonal().double().sqrt()
    slack = TOLERANCE * float(roots.max()) ** 2 if len(roots) else 0.0
    if bool(((values - values.T).abs() > slack).any()):
        return "is not symmetric"
    if bool((values.abs() > torch.outer(roots, roots) * (1 + TOLERANCE) + slack).any()):
        return "is no matrix of second moments"
    return ""
