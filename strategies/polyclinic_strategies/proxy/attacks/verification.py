"""Recognition rates from likenesses of pairs: AUC, true positives at 1 % false ones, rank 1."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FALSE_POSITIVES = 0.01
DRAWS = 500  # number of bootstrap samples


@dataclass(frozen=True)
class Recognition:
    """Result of one attacker.

    Attributes:
        auc: Area under the ROC curve of same against different pairs; 0.5 is chance.
        tpr: Share of same pairs found where 1 % of different pairs are mistaken for the same.
        rank1: Share of probes whose most similar gallery image is the same person's; chance is 1 /
            people.
        low, high: 95 % bootstrap interval of the AUC, over people.
        people: Number of people.
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
        likeness: (comparisons, people, people): entry (c, i, j) says how similar probe i and
            gallery image j are, the same person where i = j. Comparisons are of different visits or
            keys.
        seed: Seed of the bootstrap.

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
    samples = (generator.integers(people, size=people) for _ in range(DRAWS))
    draws = [_auc(values, np.asarray(sample)) for sample in samples]
    low, high = np.nanquantile(draws, [0.025, 0.975])
    same = np.eye(people, dtype=bool)
    threshold = np.quantile(values[:, ~same], 1 - FALSE_POSITIVES)
    tpr = float((values[:, same] > threshold).mean())
    rank1 = float((values.argmax(2) == np.arange(people)).mean())
    return Recognition(_auc(values, np.arange(people)), tpr, rank1, float(low), float(high), people)


def _auc(values: NDArray[np.float64], who: NDArray[np.int64]) -> float:
    """Return the mean over the comparisons of P(same > different) + P(equal) / 2, for these people.

    A person who was drawn twice does not make a different pair with itself.
    """
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
    """Return the cosines between all pairs of two lists of features.

    Args:
        first, second: (people, features).

    Returns:
        (people, people).
    """
    one, other = (torch.nn.functional.normalize(each, dim=1) for each in (first, second))
    return one @ other.T
