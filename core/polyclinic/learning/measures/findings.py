"""Measures of a multi-label classification: each finding against its absence."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.learning.measures.bootstrap import Array, mean_of_known, of_chosen, single
from polyclinic.learning.measures.classification import Ranking, auroc, measure_ranked
from polyclinic.learning.measures.estimates import Estimate, leave_out_none
from polyclinic.learning.measures.names import OVERALL

SURE = 0.5  # probability from which a finding counts as found


def auroc_per_finding(probabilities: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.float64]:
    """Compute the AUROC of each finding; NaN where no case has it, or every case.

    Args:
        probabilities: Shape (cases, findings).
        truth: The same shape: 1, 0, or NaN where nobody looked for the finding.
    """
    return np.asarray(_Aurocs(probabilities, truth)(np.ones((1, len(truth))))[0])


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
    everybody, aurocs = len(set(subjects)), _Aurocs(probabilities, truth)
    mean = single(
        lambda times: mean_of_known(aurocs(times)), subjects, positives=None, least=everybody
    )
    found = {OVERALL: {"mean_auroc": mean}}
    for place, label in enumerate(labels):
        known = np.isfinite(truth[:, place])
        scores = probabilities[known, place].astype(np.float64)
        positive = truth[known, place] == 1
        found[label] = measure_ranked(scores, positive, scores >= SURE, of_chosen(subjects, known))
    return leave_out_none(found)


class _Aurocs:
    """AUROC of each finding, where only cases count in which it is known."""

    def __init__(self, probabilities: NDArray[Any], truth: NDArray[Any]) -> None:
        columns = zip(probabilities.T, truth.T, strict=True)
        self._findings = [
            (np.isfinite(drawn), Ranking(scores.astype(np.float64), drawn == 1))
            for scores, drawn in columns
        ]

    def __call__(self, times: Array) -> Array:
        """Compute shape (draws, findings)."""
        return np.stack(
            [auroc(ranking.curve(times * known)) for known, ranking in self._findings], axis=1
        )
