"""Measures of a regression: errors, the share of variance explained, and limits of agreement.

Bland and Altman 1986, https://doi.org/10.1016/S0140-6736(86)90837-8: of the differences between
prediction and reference, the mean is the bias, and 95 % lie between bias - 1.96 s and bias + 1.96 s
where s is their standard deviation, if they are normally distributed.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from polyclinic.learning.measures.bootstrap import Array, MeanOfMeans, of_chosen, ratio, single
from polyclinic.learning.measures.estimates import Estimate, leave_out_none
from polyclinic.learning.measures.names import AGREEMENT, OVERALL

Numbers = NDArray[np.float64]


def closeness(predicted: Numbers, truth: Numbers, ranges: Sequence[float]) -> Numbers:
    """Compute 1 - |error| / range, at least 0, which is a case's score; NaN where it is unknown.

    Args:
        predicted: Shape (..., numbers).
        truth: The same shape; NaN where the number is unknown.
        ranges: Lowest and highest value of each number, one after the other.
    """
    widths = np.asarray(ranges[1::2], np.float64) - np.asarray(ranges[::2], np.float64)
    return np.asarray(np.maximum(0.0, 1 - np.abs(predicted - truth) / widths))


def measure_regression(
    predicted: Numbers,
    truth: Numbers,
    subjects: Sequence[int],
    labels: Sequence[str],
    ranges: Sequence[float],
) -> dict[str, dict[str, Estimate]]:
    """Compute a hospital's figures.

    Args:
        predicted: Shape (cases, numbers).
        truth: The same shape; NaN where the number is unknown.
        subjects: Number of each case's subject, from 0.
        labels: Names of the numbers.
        ranges: As for `closeness`.

    Returns:
        Measures by label; `OVERALL` has the mean closeness, which is the score.
    """
    if not len(truth):
        return {}
    rows = closeness(predicted, truth, ranges)
    found = {OVERALL: {"within_range": _mean_of_rows(rows, subjects)}}
    for place, label in enumerate(labels):
        known = np.isfinite(rows[:, place])
        whose = of_chosen(subjects, known)
        found[label] = _measure_number(predicted[known, place], truth[known, place], whose)
    return leave_out_none(found)


def _measure_number(
    predicted: Numbers, truth: Numbers, subjects: Sequence[int]
) -> dict[str, Estimate | None]:
    errors, ones, n = predicted - truth, np.ones(len(truth)), len(truth)
    least = len(set(subjects))

    def mean(values: Numbers) -> Estimate | None:
        return ratio(values, ones, subjects, n=n, positives=None, least=least)

    def limit(sign: int) -> Estimate | None:
        return single(
            lambda times: limit_of_agreement(errors, times, sign),
            subjects,
            positives=None,
            least=least,
        )

    return {
        "mae": mean(np.abs(errors)),
        "bias": mean(errors),
        "lower_limit": limit(-1),
        "upper_limit": limit(1),
        "squared_error": mean(errors**2),
        "r2": single(lambda times: r2(errors, truth, times), subjects, positives=None, least=least),
    }


def limit_of_agreement(errors: Numbers, times: Array, sign: int) -> Array:
    """Compute a limit of agreement: the lower one if `sign` is -1, the upper one if it is 1.

    Args:
        errors: Prediction minus reference, shape (cases,).
        times: How often each case counts, shape (draws, cases).
    """
    count = times.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        bias = (times @ errors) / count
        centred = errors[None] - bias[:, None]
        spread = np.sqrt((times * centred**2).sum(1) / (count - 1))
        return np.asarray(np.where(count > 1, bias + sign * AGREEMENT * spread, np.nan))


def r2(errors: Numbers, truth: Numbers, times: Array) -> Array:
    """Compute the share of the truth's variance that is explained: 1 - SS(errors) / SS(truth).

    NaN where the truth does not vary. Negative where the mean of the truth is the better guess.
    """
    count = times.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (times @ truth) / count
        spread = (times * (truth[None] - mean[:, None]) ** 2).sum(1)
        return np.asarray(np.where(spread > 0, 1 - (times @ errors**2) / spread, np.nan))


def _mean_of_rows(rows: Numbers, subjects: Sequence[int]) -> Estimate | None:
    """Make the score: the mean over cases, then over numbers, each time of what is known."""
    if rows.shape[1] > 1:
        return single(MeanOfMeans(rows), subjects, positives=None, least=len(set(subjects)))
    # a mean over cases: sums of hospitals give the pooled one
    known = np.isfinite(rows[:, 0])
    least = len(set(of_chosen(subjects, known)))
    values = np.where(known, rows[:, 0], 0.0)
    return ratio(values, known, subjects, n=int(known.sum()), positives=None, least=least)
