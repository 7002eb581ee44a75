"""How well people are recognized: from likenesses of pairs to AUC, true positives at 1 % false ones, and rank 1."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FALSE_POSITIVES = 0.01
DRAWS = 500  # of the bootstrap


@dataclass(frozen=True)
class Recognition:
    """What one attacker reached.

    Attributes:
        auc: Area under the ROC curve of same against different; 0.5 is chance.
        tpr: Share of same pairs found where 1 % of different pairs are mistaken for the same.
        rank1: Share of probes whose likest gallery image is the same person's; chance is 1 /
            people.
        low, high: 95 % interval of the AUC, people drawn anew.
        people: How many there were.
    """

    auc: float
    tpr: float
    rank1: float
    low: float
    high: float
    people: int


def score(likeness: Tensor, seed: int = 0) -> Recognition:
    """Score an attacker.

    Args:
        likeness: (comparisons, people, people): entry (c, i, j) says how alike probe i and gallery
            image j are, the same person where i = j; the comparisons are of other visits or keys.
        seed: Of the bootstrap.

    Raises:
        ValueError: The matrices are not square, or of fewer than two people.
    """
    if likeness.ndim != 3 or likeness.shape[1] != likeness.shape[2] or likeness.shape[1] < 2:
        raise ValueError(
            f"likenesses of shape {tuple(likeness.shape)}: (comparisons, people, people) are "
            "needed, at least two people"
        )
    values = likeness.double().numpy()
    people = values.shape[1]
    generator = np.random.default_rng(seed)
    draws = [
        _auc(values, np.asarray(generator.integers(people, size=people))) for _ in range(DRAWS)
    ]
    low, high = np.nanquantile(draws, [0.025, 0.975])
    same = np.eye(people, dtype=bool)
    threshold = np.quantile(values[:, ~same], 1 - FALSE_POSITIVES)
    tpr = float((values[:, same] > threshold).mean())
    rank1 = float((values.argmax(2) == np.arange(people)).mean())
    return Recognition(_auc(values, np.arange(people)), tpr, rank1, float(low), float(high), people)


def _auc(values: NDArray[np.float64], who: NDArray[np.int64]) -> float:
    """Mean over the comparisons of P(same > different) + P(equal) / 2, for these people; the same person twice is no different pair."""
    different = who[:, None] != who[None, :]
    areas = []
    for matrix in values:
        same, other = matrix[who, who], np.sort(matrix[np.ix_(who, who)][different])
        if not len(other):
            return float("nan")
        below = np.searchsorted(other, same, "left") + np.searchsorted(other, same, "right")
        areas.append(below.mean() / 2 / len(other))
    return float(np.mean(areas))


def likenesses(first: Tensor, second: Tensor) -> Tensor:
    """Cosines between all of two lists of features.

    Args:
        first, second: (people, features).

    Returns:
        (people, people).
    """
    return (
        torch.nn.functional.normalize(first, dim=1) @ torch.nn.functional.normalize(second, dim=1).T
    )
