"""Measures of a multi-label classification: each finding against its absence."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.learning.measures.bootstrap import Array, single
from polyclinic.learning.measures.classification import Ranking, auroc, measure_ranked
from polyclinic.learning.measures.estimates import Estimate
from polyclinic.learning.measures.names import OVERALL

SURE = 0.5  # probability from which a finding counts as found


def auroc_per_finding(probabilities: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.float64]:
    """Compute the AUROC of each finding; NaN where no case has it, or every case.

    Args:
        probabilities: Shape (cases, findings).
        truth: The same shape: 1, 0, or NaN where nobody looked for the finding.
    """
    found = []
    for scores, drawn in zip(probabilities.T, truth.T, strict=True):
        known = np.isfinite(drawn)
        if not known.any():
            found.append(np.nan)
            continue
        ranking = Ranking(scores[known], drawn[known] == 1)
        found.append(float(auroc(ranking.curve(np.ones((1, int(known.sum())))))[0]))
    return np.asarray(found, np.float64)


def measure_findings(
    probabilities: NDArray[Any],
    truth: NDArray[Any],
    subjects: Sequence[int],
    labels: Sequence[str],
) -> dict[str, dict[str, Estimate]]:
    """Compute a hospital's figures.

    Args:
        probabilities: Shape (cases, findings).
        truth: The same shape: 1, 0, or NaN where nobody looked for the finding.
        subjects: Number of each case's subject, from 0.
        labels: Names of the findings.

    Returns:
        Measures by finding, of the cases where it is known; `OVERALL` has the mean AUROC, which is
        the score.
    """
    if not len(truth):
        return {}
    everybody = len(set(subjects))
    found: dict[str, dict[str, Estimate | None]] = {
        OVERALL: {
            "mean_auroc": single(
                _MeanAuroc(probabilities, truth), subjects, positives=None, least=everybody
            )
        }
    }
    for place, label in enumerate(labels):
        known = np.isfinite(truth[:, place])
        whose = [subject for subject, one in zip(subjects, known, strict=True) if one]
        scores = probabilities[known, place].astype(np.float64)
        positive = truth[known, place] == 1
        found[label] = measure_ranked(scores, positive, scores >= SURE, whose)
    return {
        label: {name: each for name, each in table.items() if each is not None}
        for label, table in found.items()
    }


class _MeanAuroc:
    """Mean of the findings' AUROCs, of those that have one in the drawn cases."""

    def __init__(self, probabilities: NDArray[Any], truth: NDArray[Any]) -> None:
        self._known = np.isfinite(truth)
        self._rankings = [
            Ranking(scores[known].astype(np.float64), drawn[known] == 1)
            for scores, drawn, known in zip(probabilities.T, truth.T, self._known.T, strict=True)
            if known.any()
        ]
        self._columns = [known for known in self._known.T if known.any()]

    def __call__(self, times: Array) -> Array:
        areas = np.array(
            [
                auroc(ranking.curve(times[:, known]))
                for ranking, known in zip(self._rankings, self._columns, strict=True)
            ]
        ).reshape(-1, len(times))
        seen = np.isfinite(areas)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.where(seen, areas, 0.0).sum(0) / seen.sum(0))
