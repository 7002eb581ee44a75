"""Intervals: subjects are drawn again, and the statistic is computed of all their cases.

    low, high = interval(lambda weights: weights @ values / weights.sum(1), subjects)

The cluster bootstrap with percentiles, Efron 1979, https://doi.org/10.1214/aos/1176344552; Field
and Welsh 2007, https://doi.org/10.1111/j.1467-9868.2007.00593.x.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.learning.measures.estimates import Estimate
from polyclinic.learning.measures.names import CONFIDENCE

DRAWS = 1000
AT_ONCE = 100  # draws in memory
SEED = 0

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]  # weights of the cases, (draws, cases), to values, (draws,)


def interval(statistic: Statistic, subjects: Sequence[int]) -> tuple[float, float] | None:
    """Compute a statistic's 95 % interval.

    Args:
        statistic: Takes how often each case counts, float64, shape (draws, cases); returns shape
            (draws,), NaN where the drawn cases have no such figure.
        subjects: Number of each case's subject.

    Returns:
        The percentiles 2.5 and 97.5 of the draws; None of fewer than two subjects, or where no
        draw has the figure. The same cases give the same interval: the seed is fixed.
    """
    known, of_case = np.unique(np.asarray(subjects, np.int64), return_inverse=True)
    count = len(known)
    if count < 2:
        return None
    generator = np.random.default_rng(SEED)
    share = np.full(count, 1 / count)
    drawn = []
    for _ in range(0, DRAWS, AT_ONCE):
        times = generator.multinomial(count, share, size=AT_ONCE).astype(np.float64)
        drawn.append(statistic(times[:, of_case]))
    values = np.concatenate(drawn)
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def ratio(
    totals: Sequence[float] | NDArray[Any],
    weights: Sequence[float] | NDArray[Any],
    subjects: Sequence[int],
    *,
    n: int,
    positives: int | None,
    least: int,
) -> Estimate | None:
    """Make the figure sum(totals) / sum(weights).

    Args:
        totals: Of each case.
        weights: Of each case; 0 where the case does not count.
        subjects: Number of each case's subject, from 0.
        n: Number of cases that count.
        positives: As `Estimate` says.
        least: Number of subjects, as `Estimate.subjects` says.

    Returns:
        None if no case counts.
    """
    a, b = np.asarray(totals, np.float64), np.asarray(weights, np.float64)
    if not len(b) or b.sum() <= 0:
        return None

    def statistic(times: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((times @ a) / (times @ b))

    of_case = np.asarray(subjects, dtype=np.int64)
    parts, sizes = np.bincount(of_case, a), np.bincount(of_case, b)
    value = float(a.sum() / b.sum())
    found = _estimate(value, statistic, subjects, float(b.sum()), n, positives, least)
    sums = {
        "total": float(a.sum()),
        "total_squares": float(parts @ parts),
        "products": float(parts @ sizes),
        "weight_squares": float(sizes @ sizes),
    }
    return found.model_copy(update=sums)


def single(
    statistic: Statistic, subjects: Sequence[int], *, positives: int | None, least: int
) -> Estimate | None:
    """Make a figure that sums do not give; its weight among hospitals is the number of cases.

    Args:
        statistic: As for `interval`.
        subjects: Number of each case's subject, from 0.
        positives: As `Estimate` says.
        least: Number of subjects, as `Estimate.subjects` says.

    Returns:
        None if the cases have no such figure.
    """
    n = len(subjects)
    value = float(statistic(np.ones((1, n)))[0]) if n else float("nan")
    if not np.isfinite(value):
        return None
    return _estimate(value, statistic, subjects, float(n), n, positives, least)


def _estimate(
    value: float,
    statistic: Statistic,
    subjects: Sequence[int],
    weight: float,
    n: int,
    positives: int | None,
    least: int,
) -> Estimate:
    """Make a figure with its interval; its total is its value times its weight."""
    low, high = around(value, interval(statistic, subjects))
    return Estimate(
        value=value,
        low=low,
        high=high,
        n=n,
        positives=positives,
        subjects=least,
        total=value * weight,
        weight=weight,
    )


def mean_of_known(values: Array) -> Array:
    """Compute the mean over the last axis of what is not NaN; NaN where nothing is."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(known, values, 0.0).sum(-1) / known.sum(-1))


class MeanOfMeans:
    """Mean over cases, then over labels, each time without NaN: as `metrics.summarize` does.

    Args:
        rows: Shape (cases, labels), NaN where a case has no figure of the label.
    """

    def __init__(self, rows: NDArray[Any]) -> None:
        values = np.asarray(rows, np.float64)
        self._known = np.isfinite(values).astype(np.float64)
        self._values = np.where(self._known > 0, values, 0.0)

    def __call__(self, times: Array) -> Array:
        """Compute one mean for each row of `times`, shape (draws, cases)."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return mean_of_known((times @ self._values) / (times @ self._known))


def of_chosen(subjects: Sequence[int], chosen: NDArray[Any]) -> list[int]:
    """Return the subject of each case that is chosen."""
    return [subject for subject, each in zip(subjects, chosen, strict=True) if each]


def around(value: float, ends: tuple[float, float] | None) -> tuple[float | None, float | None]:
    """Return an interval's ends so that rounding leaves the value within them, if it lies there."""
    if ends is None:
        return None, None
    low, high = ends
    near = 1e-9 * max(1.0, abs(value))
    return (value if 0 < low - value < near else low), (value if 0 < value - high < near else high)
