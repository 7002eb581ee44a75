"""Errors, limits of agreement and R2: by hand, beside scikit-learn, and pooled over hospitals."""

import math

import numpy as np
import pytest
from sklearn import metrics

from polyclinic.learning.measures.estimates import overall, pool_all
from polyclinic.learning.measures.names import OVERALL
from polyclinic.learning.measures.regression import (
    closeness,
    limit_of_agreement,
    measure_regression,
)

RANDOM = np.random.default_rng(0)
TRUTH = RANDOM.normal(60, 12, (40, 1))
PREDICTED = TRUTH + RANDOM.normal(2, 5, (40, 1))
RANGE = (0.0, 110.0)


def measure(first: int = 0, last: int = 40) -> dict[str, float]:
    found = measure_regression(
        PREDICTED[first:last], TRUTH[first:last], list(range(last - first)), ("age",), RANGE
    )
    return {name: each.value for name, each in found["age"].items()}


def test_three_cases_by_hand() -> None:
    """Errors 1, -1 and 3: MAE 5/3, bias 1, deviation 2."""
    truth = np.array([[10.0], [20.0], [30.0]])
    predicted = truth + np.array([[1.0], [-1.0], [3.0]])
    found = measure_regression(predicted, truth, [0, 1, 2], ("age",), (0, 100))
    age = {name: each.value for name, each in found["age"].items()}
    assert age["mae"] == pytest.approx(5 / 3) and age["bias"] == pytest.approx(1)
    assert age["lower_limit"] == pytest.approx(1 - 1.96 * 2)
    assert age["upper_limit"] == pytest.approx(1 + 1.96 * 2)
    assert age["r2"] == pytest.approx(1 - 11 / 200)
    whole = overall(found)
    assert whole is not None and whole.value == pytest.approx(1 - 5 / 3 / 100)


def test_figures_are_those_of_scikit_learn() -> None:
    found, truth, predicted = measure(), TRUTH[:, 0], PREDICTED[:, 0]
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(truth, predicted), abs=1e-9)
    assert found["squared_error"] == pytest.approx(metrics.mean_squared_error(truth, predicted))
    assert found["r2"] == pytest.approx(metrics.r2_score(truth, predicted), abs=1e-9)


def test_hospitals_sums_give_the_figures_of_all_cases_in_one_place() -> None:
    """Limits of agreement too: they follow from the pooled bias and squared error."""
    parts = [
        measure_regression(
            PREDICTED[first:last], TRUTH[first:last], list(range(last - first)), ("age",), RANGE
        )
        for first, last in ((0, 7), (7, 25), (25, 40))
    ]
    pooled, whole = pool_all(parts)["age"], measure()
    for name in ("mae", "bias", "squared_error", "lower_limit", "upper_limit"):
        assert pooled[name].value == pytest.approx(whole[name], abs=1e-9)
    assert pooled["mae"].n == 40 and pooled["mae"].low is not None


def test_unknown_numbers_count_nowhere() -> None:
    truth = np.array([[1.0, math.nan], [2.0, 5.0], [math.nan, 7.0]])
    predicted = np.array([[2.0, 9.0], [2.0, 6.0], [3.0, 7.0]])
    found = measure_regression(predicted, truth, [0, 1, 2], ("a", "b"), (0, 10, 0, 10))
    assert (found["a"]["mae"].n, found["b"]["mae"].n) == (2, 2)
    assert found["a"]["mae"].value == 0.5 and found["b"]["bias"].value == 0.5
    assert found[OVERALL]["within_range"].value == pytest.approx(0.95)


def test_a_draw_of_subjects_of_whom_nothing_is_known_is_left_out() -> None:
    truth = np.full((4, 2), math.nan)
    truth[0] = 1.0, 5.0
    found = measure_regression(np.ones((4, 2)), truth, range(4), ("a", "b"), (0, 10, 0, 10))
    whole = found[OVERALL]["within_range"]
    assert whole.value == whole.low == whole.high == pytest.approx(0.8)


def test_one_case_has_no_limits_and_no_r2() -> None:
    found = measure_regression(np.array([[3.0]]), np.array([[2.0]]), [0], ("a",), (0, 10))
    assert set(found["a"]) == {"mae", "bias", "squared_error"}
    assert found["a"]["mae"].low is None and found["a"]["mae"].descriptive


def test_a_case_that_counts_twice_is_two_cases() -> None:
    errors, times = RANDOM.normal(size=10), RANDOM.integers(0, 4, (5, 10)).astype(float)
    found = limit_of_agreement(errors, times, 1)
    for draw, weights in enumerate(times):
        again = np.repeat(errors, weights.astype(int))
        assert found[draw] == pytest.approx(again.mean() + 1.96 * again.std(ddof=1))


def test_closeness_is_at_least_nothing() -> None:
    found = closeness(np.array([[5.0, 300.0]]), np.array([[10.0, 0.0]]), (0, 10, 0, 100))
    assert found.tolist() == [[0.5, 0.0]]
