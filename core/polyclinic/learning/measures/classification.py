"""Measures of a classification's probabilities.

Every function takes how often each case counts, so that the bootstrap computes all draws at once.
With ones, the results are those of scikit-learn.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.learning.measures.bootstrap import Array, mean_of_known, of_chosen, ratio, single
from polyclinic.learning.measures.estimates import Estimate, leave_out_none
from polyclinic.learning.measures.names import FIXED, OVERALL

BINS = 15  # of the calibration error
NEAR = 1e-12  # for the comparison of two shares

Curve = tuple[Array, Array]  # weights of true and of false positives at each threshold


class Ranking:
    """One class against the others: the cases by falling probability.

    Args:
        scores: Probability of the class, shape (cases,).
        positive: Whether each case is of the class.
    """

    def __init__(self, scores: NDArray[Any], positive: NDArray[Any]) -> None:
        self._order = np.argsort(-scores, kind="stable")
        ranked = scores[self._order]
        self._ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # of equal scores
        self._positive = positive[self._order].astype(np.float64)

    def curve(self, times: Array) -> Curve:
        """Count true and false positives at every threshold, from none to all cases.

        Args:
            times: How often each case counts, shape (draws, cases).

        Returns:
            Two arrays of shape (draws, thresholds + 1).
        """
        ranked = times[:, self._order]
        start = np.zeros((len(times), 1))
        return (
            np.hstack([start, np.cumsum(ranked * self._positive, 1)[:, self._ends]]),
            np.hstack([start, np.cumsum(ranked * (1 - self._positive), 1)[:, self._ends]]),
        )


def auroc(curve: Curve) -> Array:
    """Compute the area under the receiver operating characteristic.

    Hanley and McNeil 1982, https://doi.org/10.1148/radiology.143.1.7063747.
    """
    true, false = curve
    steps, heights = np.diff(false, axis=1), true[:, 1:] + true[:, :-1]
    return _divide((steps * heights).sum(1) / 2, true[:, -1] * false[:, -1])


def auprc(curve: Curve) -> Array:
    """Compute the average precision: the mean of precisions, weighted by the gain in recall."""
    true, false = curve
    precision = np.nan_to_num(_divide(true[:, 1:], true[:, 1:] + false[:, 1:]))
    found = _divide((np.diff(true, axis=1) * precision).sum(1), true[:, -1])
    return np.where(false[:, -1] > 0, found, np.nan)


def sensitivity_at(curve: Curve, specificity: float = FIXED) -> Array:
    """Find the largest sensitivity of a threshold whose specificity is at least this."""
    true, false = curve
    sensitivity, alarms = _divide(true, true[:, -1:]), _divide(false, false[:, -1:])
    best = np.where(alarms <= 1 - specificity + NEAR, sensitivity, -1.0).max(1)
    return _where_both(curve, best)


def specificity_at(curve: Curve, sensitivity: float = FIXED) -> Array:
    """Find the largest specificity of a threshold whose sensitivity is at least this."""
    true, false = curve
    found, alarms = _divide(true, true[:, -1:]), _divide(false, false[:, -1:])
    best = np.where(found >= sensitivity - NEAR, 1 - alarms, -1.0).max(1)
    return _where_both(curve, best)


def balanced_accuracy(
    correct: NDArray[Any], truth: NDArray[Any], classes: int, times: Array
) -> Array:
    """Compute the mean of the recalls of the classes that occur.

    Brodersen et al. 2010, https://doi.org/10.1109/ICPR.2010.764.
    """
    of_class = np.eye(classes)[truth]
    return mean_of_known(_divide(times @ (of_class * correct[:, None]), times @ of_class))


def calibration_error(confidence: NDArray[Any], happened: NDArray[Any], times: Array) -> Array:
    """Compute the expected calibration error, of 15 bins of equal width.

    Guo et al. 2017, https://arxiv.org/abs/1706.04599: the mean distance between how sure the model
    was and how often it was right, weighted by the cases in the bins.
    """
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = np.eye(BINS)[bins] * (happened - confidence)[:, None]
    return _divide(np.abs(times @ gaps).sum(1), times.sum(1))


def measure_classification(
    probabilities: NDArray[Any],
    truth: Sequence[int],
    subjects: Sequence[int],
    labels: Sequence[str],
) -> dict[str, dict[str, Estimate]]:
    """Compute a hospital's figures.

    Args:
        probabilities: Shape (cases, classes).
        truth: Class of each case.
        subjects: Number of each case's subject, from 0.
        labels: Names of the classes. Of two classes the second is the positive one, and it alone is
            ranked; of more, each is ranked against all others.

    Returns:
        Measures by label; `OVERALL` has the balanced accuracy, which is the score.
    """
    if not len(truth):
        return {}
    found = {OVERALL: _measure_overall(probabilities, np.asarray(truth), subjects)}
    for number, label in enumerate(labels):
        ranked = len(labels) > 2 or number == 1
        found[label] = _measure_class(number, probabilities, np.asarray(truth), subjects, ranked)
    return leave_out_none(found)


def _measure_overall(
    probabilities: NDArray[Any], truth: NDArray[Any], subjects: Sequence[int]
) -> dict[str, Estimate | None]:
    classes, chosen = probabilities.shape[1], probabilities.argmax(1)
    correct = (chosen == truth).astype(np.float64)
    squares = ((probabilities - np.eye(classes)[truth]) ** 2).sum(1)
    squares = squares / 2 if classes == 2 else squares  # as scikit-learn's of two classes
    everybody, n = len(set(subjects)), len(truth)
    confidence = probabilities.max(1).astype(np.float64)

    def one(statistic: Callable[[Array], Array]) -> Estimate | None:
        return single(statistic, subjects, positives=None, least=everybody)

    return {
        "balanced_accuracy": one(lambda times: balanced_accuracy(correct, truth, classes, times)),
        "brier": ratio(squares, np.ones(n), subjects, n=n, positives=None, least=everybody),
        "calibration_error": one(lambda times: calibration_error(confidence, correct, times)),
    }


def _measure_class(
    number: int,
    probabilities: NDArray[Any],
    truth: NDArray[Any],
    subjects: Sequence[int],
    ranked: bool,
) -> dict[str, Estimate | None]:
    positive, chosen = truth == number, probabilities.argmax(1) == number
    if not ranked:
        return {"recall": _recall(positive, chosen, subjects)}
    return measure_ranked(probabilities[:, number].astype(np.float64), positive, chosen, subjects)


def _recall(
    positive: NDArray[Any], chosen: NDArray[Any], subjects: Sequence[int]
) -> Estimate | None:
    n, least = int(positive.sum()), len(set(of_chosen(subjects, positive)))
    return ratio(positive & chosen, positive, subjects, n=n, positives=n, least=least)


def measure_ranked(
    scores: NDArray[np.float64],
    positive: NDArray[Any],
    chosen: NDArray[Any],
    subjects: Sequence[int],
) -> dict[str, Estimate | None]:
    """Compute all measures of one class against the others, or of a finding against its absence.

    Args:
        scores: Probability of the class, shape (cases,).
        positive: Whether each case is of the class.
        chosen: Whether the model says so.
        subjects: Number of each case's subject, from 0.
    """
    n, positives = len(scores), int(positive.sum())
    happened, ranking = positive.astype(np.float64), Ranking(scores, positive)
    least = min(len(set(of_chosen(subjects, group))) for group in (positive, ~positive))

    def one(statistic: Callable[[Array], Array]) -> Estimate | None:
        return single(statistic, subjects, positives=positives, least=least)

    def of_curve(statistic: Callable[[Curve], Array]) -> Estimate | None:
        return one(lambda times: statistic(ranking.curve(times)))

    squares = (scores - happened) ** 2
    return {
        "recall": _recall(positive, chosen, subjects),
        "auroc": of_curve(auroc),
        "auprc": of_curve(auprc),
        "sensitivity": of_curve(sensitivity_at),
        "specificity": of_curve(specificity_at),
        "brier": ratio(squares, np.ones(n), subjects, n=n, positives=positives, least=least),
        "calibration_error": one(lambda times: calibration_error(scores, happened, times)),
    }


def _divide(one: Array, other: Array) -> Array:
    """Divide; NaN where there is nothing to divide by."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(other > 0, one / other, np.nan))


def _where_both(curve: Curve, values: Array) -> Array:
    """Return NaN where there are no positives, or no negatives."""
    true, false = curve
    return np.asarray(np.where((true[:, -1] > 0) & (false[:, -1] > 0), values, np.nan))
