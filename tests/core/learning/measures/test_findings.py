"""Findings that are not exclusive: AUROC beside scikit-learn, and what nobody looked for."""

import numpy as np
import pytest
from sklearn import metrics

from polyclinic.learning.measures.estimates import overall
from polyclinic.learning.measures.findings import auroc_per_finding, measure_findings

RANDOM = np.random.default_rng(0)
NAMES = ("a", "b", "c")
TRUTH = (RANDOM.random((60, 3)) < (0.5, 0.3, 0.2)).astype(float)
SCORES = np.clip(0.4 * TRUTH + 0.6 * RANDOM.random((60, 3)), 0, 1)
SUBJECTS = list(range(60))


def test_each_finding_is_measured_against_its_absence() -> None:
    found = measure_findings(SCORES, TRUTH, SUBJECTS, NAMES)
    for place, name in enumerate(NAMES):
        drawn, scores = TRUTH[:, place], SCORES[:, place]
        table = {measure: each.value for measure, each in found[name].items()}
        assert table["auroc"] == pytest.approx(metrics.roc_auc_score(drawn, scores), abs=1e-9)
        assert table["auprc"] == pytest.approx(metrics.average_precision_score(drawn, scores))
        assert table["recall"] == pytest.approx(metrics.recall_score(drawn, scores >= 0.5))
        assert table["brier"] == pytest.approx(metrics.brier_score_loss(drawn, scores))
        assert found[name]["auroc"].positives == int(drawn.sum())
    whole = overall(found)
    expected = metrics.roc_auc_score(TRUTH, SCORES, average="macro")
    assert whole is not None and whole.value == pytest.approx(expected, abs=1e-9)
    assert whole.low is not None and whole.high is not None and whole.low < expected < whole.high


def test_what_nobody_looked_for_counts_nowhere() -> None:
    """A finding that is unknown in half of the cases: the figures of the other half."""
    truth = TRUTH.copy()
    truth[::2, 1] = np.nan
    found = measure_findings(SCORES, truth, SUBJECTS, NAMES)
    half = measure_findings(SCORES[1::2], TRUTH[1::2], SUBJECTS[1::2], NAMES)
    assert found["b"]["auroc"].value == half["b"]["auroc"].value
    assert (found["b"]["auroc"].n, found["a"]["auroc"].n) == (30, 60)
    assert found["b"]["auroc"].low == half["b"]["auroc"].low


def test_a_finding_that_every_case_or_none_has_no_auroc() -> None:
    truth = TRUTH.copy()
    truth[:, 0], truth[:, 1] = 1.0, 0.0
    row = auroc_per_finding(SCORES, truth)
    assert np.isnan(row[:2]).all() and row[2] == pytest.approx(
        metrics.roc_auc_score(truth[:, 2], SCORES[:, 2])
    )
    found = measure_findings(SCORES, truth, SUBJECTS, NAMES)
    assert "auroc" not in found["a"] and "auroc" not in found["b"]
    whole = overall(found)
    assert whole is not None and whole.value == pytest.approx(row[2])


def test_no_case_no_figure() -> None:
    assert measure_findings(np.zeros((0, 3)), np.zeros((0, 3)), [], NAMES) == {}
