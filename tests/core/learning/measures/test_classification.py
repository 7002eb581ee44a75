"""Rankings, probabilities and recalls are those of scikit-learn, also for weighted cases."""

import numpy as np
import pytest
import torch
from monai.metrics import compute_roc_auc
from sklearn import metrics

from polyclinic.learning.measures import classification as measured
from polyclinic.learning.measures.names import OVERALL

ONCE = {
    "random": (np.random.default_rng(0).random(60), np.random.default_rng(1).random(60) < 0.3),
    "ties": (
        np.random.default_rng(2).integers(0, 5, 80) / 4,
        np.random.default_rng(3).random(80) < 0.5,
    ),
    "one positive": (np.linspace(0, 1, 20), np.arange(20) == 13),
    "one negative": (np.linspace(0, 1, 20), np.arange(20) != 13),
    "perfect": (np.linspace(0, 1, 20), np.arange(20) >= 10),
    "reversed": (np.linspace(1, 0, 20), np.arange(20) >= 10),
    "constant": (np.full(20, 0.5), np.arange(20) >= 12),
}  # fmt: skip


def curve(name: str, weights: np.ndarray | None = None) -> measured.Curve:  # type: ignore[type-arg]
    scores, positive = ONCE[name]
    times = np.ones((1, len(scores))) if weights is None else weights
    return measured.Ranking(scores, positive).curve(times)


@pytest.mark.parametrize("name", ONCE)
def test_rankings_are_those_of_scikit_learn_and_monai(name: str) -> None:
    scores, positive = ONCE[name]
    found = curve(name)
    auroc = measured.auroc(found)[0]
    assert auroc == pytest.approx(metrics.roc_auc_score(positive, scores), abs=1e-6)
    assert auroc == pytest.approx(
        float(compute_roc_auc(torch.tensor(scores), torch.tensor(positive, dtype=torch.int))),
        abs=1e-6,
    )
    expected = metrics.average_precision_score(positive, scores)
    assert measured.auprc(found)[0] == pytest.approx(expected, abs=1e-6)
    alarms, detections, _ = metrics.roc_curve(positive, scores, drop_intermediate=False)
    expected = detections[alarms <= 0.05 + 1e-12].max()
    assert measured.sensitivity_at(found)[0] == pytest.approx(expected, abs=1e-6)
    expected = 1 - alarms[detections >= 0.95 - 1e-12].min()
    assert measured.specificity_at(found)[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["random", "ties"])
def test_a_case_that_counts_twice_is_two_cases(name: str) -> None:
    scores, positive = ONCE[name]
    times = np.random.default_rng(4).multinomial(
        len(scores), np.full(len(scores), 1 / len(scores)), 3
    )
    found = curve(name, times.astype(float))
    for draw, weights in enumerate(times):
        again = np.repeat(scores, weights), np.repeat(positive, weights)
        assert measured.auroc(found)[draw] == pytest.approx(metrics.roc_auc_score(*again[::-1]))
        expected = metrics.average_precision_score(*again[::-1])
        assert measured.auprc(found)[draw] == pytest.approx(expected)


@pytest.mark.parametrize("positive", [True, False])
def test_one_class_alone_has_no_ranking(positive: bool) -> None:
    found = measured.Ranking(np.linspace(0, 1, 5), np.full(5, positive)).curve(np.ones((1, 5)))
    for measure in (
        measured.auroc,
        measured.auprc,
        measured.sensitivity_at,
        measured.specificity_at,
    ):
        assert np.isnan(measure(found)[0])


def cases(classes: int, count: int = 90) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    generator = np.random.default_rng(classes)
    truth = generator.integers(0, classes, count)
    logits = generator.normal(size=(count, classes)) + 1.5 * np.eye(classes)[truth]
    exponents = np.exp(logits)
    return exponents / exponents.sum(1, keepdims=True), truth


@pytest.mark.parametrize("classes", [2, 4])
def test_a_hospitals_figures_are_those_of_scikit_learn(classes: int) -> None:
    probabilities, truth = cases(classes)
    labels = [f"class {number}" for number in range(classes)]
    found = measured.measure_classification(probabilities, truth.tolist(), range(90), labels)

    overall, chosen = found[OVERALL], probabilities.argmax(1)
    assert overall["balanced_accuracy"].value == pytest.approx(
        metrics.balanced_accuracy_score(truth, chosen), abs=1e-6
    )
    expected = (
        metrics.brier_score_loss(truth, probabilities[:, 1])
        if classes == 2
        else ((probabilities - np.eye(classes)[truth]) ** 2).sum(1).mean()
    )
    assert overall["brier"].value == pytest.approx(expected, abs=1e-6)
    recalls = metrics.recall_score(truth, chosen, average=None)
    for number, label in enumerate(labels):
        assert found[label]["recall"].value == pytest.approx(recalls[number], abs=1e-6)
        if classes == 2 and number == 0:
            assert set(found[label]) == {"recall"}
            continue
        expected = metrics.roc_auc_score(truth == number, probabilities[:, number])
        assert found[label]["auroc"].value == pytest.approx(expected, abs=1e-6)
        expected = metrics.brier_score_loss(truth == number, probabilities[:, number])
        assert found[label]["brier"].value == pytest.approx(expected, abs=1e-6)
        assert found[label]["auroc"].positives == int((truth == number).sum())
        low, high = found[label]["auroc"].low, found[label]["auroc"].high
        assert low is not None and high is not None
        assert low < found[label]["auroc"].value < high


def test_the_calibration_error_is_a_loop_over_bins() -> None:
    probabilities, truth = cases(3)
    confidence, right = probabilities.max(1), (probabilities.argmax(1) == truth).astype(float)
    expected = 0.0
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        if inside.any():
            gap = abs(right[inside].mean() - confidence[inside].mean())
            expected += inside.mean() * gap
    found = measured.calibration_error(confidence, right, np.ones((1, 90)))[0]
    assert found == pytest.approx(expected, abs=1e-9)
    sure = measured.calibration_error(np.ones(4), np.ones(4), np.ones((1, 4)))[0]
    wrong = measured.calibration_error(np.zeros(4), np.ones(4), np.ones((1, 4)))[0]
    assert (sure, wrong) == (0.0, 1.0)


def test_a_class_that_never_occurs_and_no_cases() -> None:
    probabilities, truth = cases(3)
    few = truth != 2
    found = measured.measure_classification(
        probabilities[few], truth[few].tolist(), range(int(few.sum())), ("a", "b", "c")
    )
    assert "auroc" not in found["c"] and "recall" not in found["c"] and "auroc" in found["a"]
    assert measured.measure_classification(np.zeros((0, 3)), [], [], ("a", "b", "c")) == {}
