"""Figures of hospitals, pooled; what is held back; what contradicts itself."""

import numpy as np
import pytest
from pydantic import ValidationError

from polyclinic.learning.measures.bootstrap import interval, ratio
from polyclinic.learning.measures.classification import measure_classification
from polyclinic.learning.measures.estimates import (
    Estimate,
    check_bounds,
    hold_back,
    overall,
    pool,
    pool_all,
)
from polyclinic.learning.measures.names import MEASURES, OVERALL
from polyclinic.learning.measures.paired import compare_by_case

SIZES = (3, 17, 40)
DICE = MEASURES["dice"]


def mean(values: np.ndarray, subjects: np.ndarray | None = None) -> Estimate:  # type: ignore[type-arg]
    numbers = np.arange(len(values)) if subjects is None else subjects
    found = ratio(
        values, np.ones(len(values)), numbers.tolist(),
        n=len(values), positives=len(values), least=len(set(numbers.tolist())),
    )  # fmt: skip
    assert found is not None
    return found


def test_sums_give_the_pooled_figure() -> None:
    generator = np.random.default_rng(0)
    parts = [generator.random(size) for size in SIZES]
    found, whole = pool(DICE, list(map(mean, parts))), mean(np.concatenate(parts))
    assert found is not None
    for field in ("value", "total", "weight", "total_squares", "products", "weight_squares"):
        assert getattr(found, field) == pytest.approx(getattr(whole, field), abs=1e-9)
    assert (found.n, found.positives, found.subjects) == (60, 60, 60)
    assert found.low == pytest.approx(whole.low, abs=0.01)  # normal, and by the bootstrap
    assert found.high == pytest.approx(whole.high, abs=0.01)


def test_what_sums_do_not_give_is_weighted_by_cases_and_has_no_interval() -> None:
    parts = [
        Estimate(value=v, low=v, high=v, n=n, subjects=n, total=v * n, weight=n)
        for v, n in ((0.5, 10), (0.8, 30))
    ]
    found = pool(MEASURES["auroc"], parts)
    assert found is not None and found.value == pytest.approx(0.725)
    assert found.low is None and pool(DICE, []) is None


def test_pooled_recalls_give_the_pooled_balanced_accuracy() -> None:
    generator = np.random.default_rng(1)
    truth = generator.integers(0, 3, 60)
    probabilities = generator.dirichlet(np.ones(3), 60) + np.eye(3)[truth]
    probabilities /= probabilities.sum(1, keepdims=True)
    labels = ("a", "b", "c")
    cuts = [slice(0, 12), slice(12, 60)]
    hospitals = [
        measure_classification(
            probabilities[cut], truth[cut].tolist(), range(len(truth[cut])), labels
        )
        for cut in cuts
    ]
    whole = measure_classification(probabilities, truth.tolist(), range(60), labels)
    pooled = pool_all(hospitals)
    for label, name in ((OVERALL, "balanced_accuracy"), (OVERALL, "brier"), ("b", "recall")):
        assert pooled[label][name].value == pytest.approx(whole[label][name].value, abs=1e-9)
    # where a recall is held back, it is the mean over hospitals
    del hospitals[0]["a"]["recall"]
    weights = [(each[OVERALL]["balanced_accuracy"].value, each[OVERALL]["balanced_accuracy"].n)
               for each in hospitals]  # fmt: skip
    expected = sum(value * n for value, n in weights) / 60
    assert pool_all(hospitals)[OVERALL]["balanced_accuracy"].value == pytest.approx(expected)


def test_several_cases_of_one_subject_widen_the_interval() -> None:
    values = np.repeat(np.random.default_rng(2).random(10), 5)
    alone = mean(values)
    together = mean(values, np.repeat(np.arange(10), 5))
    assert together.value == alone.value and together.subjects == 10
    widths = [each.high - each.low for each in (alone, together)]  # type: ignore[operator]
    assert widths[1] > 1.7 * widths[0]
    pooled = [pool(DICE, [each]) for each in (alone, together)]
    assert pooled[1].high - pooled[1].low > 1.7 * (pooled[0].high - pooled[0].low)  # type: ignore[union-attr,operator]


def test_intervals_are_repeatable_and_cover() -> None:
    covered = 0
    for seed in range(100):
        found = mean(np.random.default_rng(seed).random(40))
        assert found.low is not None and found.high is not None
        covered += found.low <= 0.5 <= found.high
    assert 88 <= covered <= 99
    assert interval(lambda times: times.sum(1), [0, 0]) is None  # one subject
    assert interval(lambda times: times.sum(1) * np.nan, [0, 1]) is None


def test_what_rests_on_too_few_subjects_is_held_back() -> None:
    measures = {
        "a": {"dice": mean(np.ones(2)), "recall": mean(np.ones(3))},
        "b": {"dice": mean(np.ones(2))},
    }
    assert {label: set(table) for label, table in hold_back(measures, 3).items()} == {
        "a": {"recall"}
    }
    assert hold_back(measures, 1) == measures
    assert overall(measures) is None


def test_few_positives_or_negatives_make_a_figure_descriptive() -> None:
    def found(n: int, positives: int | None) -> Estimate:
        return Estimate(value=1, n=n, positives=positives, subjects=n, total=n, weight=n)

    kinds = [(9, None), (10, None), (10, 10), (40, 9), (40, 31), (40, 30), (9, 9)]
    expected = [True, False, False, True, True, False, True]
    assert [found(*kind).descriptive for kind in kinds] == expected


SOUND = {
    **{"value": 0.5, "low": 0.4, "high": 0.6, "total": 5, "weight": 10},
    **{"n": 10, "positives": 10, "subjects": 9},
}


@pytest.mark.parametrize(
    "changes",
    [
        {"value": 0.6}, {"low": None}, {"low": 0.7}, {"positives": 11}, {"subjects": 11},
        {"weight": 0.0}, {"n": -1}, {"n": 10**9}, {"value": float("nan")}, {"total": float("inf")},
    ],
)  # fmt: skip
def test_a_figure_that_contradicts_itself_is_refused(changes: dict[str, float]) -> None:
    assert Estimate.model_validate(SOUND).value == 0.5
    with pytest.raises(ValidationError):
        Estimate.model_validate({**SOUND, **changes})


def test_a_figure_beyond_its_measures_bounds_is_refused() -> None:
    check_bounds(DICE, Estimate.model_validate(SOUND))
    beyond = Estimate.model_validate({**SOUND, "value": 1.1, "total": 11, "high": 1.2})
    with pytest.raises(ValueError, match="dice"):
        check_bounds(DICE, beyond)
    check_bounds(MEASURES["hausdorff95_mm"], beyond)


def test_two_models_are_compared_case_by_case() -> None:
    one = {"a": 0.9, "b": 0.7, "c": float("nan"), "d": 0.5}
    other = {"a": 0.8, "b": 0.8, "c": 0.5, "e": 0.1}
    found = compare_by_case(one, other, {"a": 4, "b": 7, "c": 7, "d": 9})
    assert found is not None and (found.n, found.subjects) == (2, 2)
    assert found.value == pytest.approx(0.0) and found.low == pytest.approx(-0.1)
    assert compare_by_case({"a": 1.0}, {"b": 1.0}, {"a": 0}) is None
