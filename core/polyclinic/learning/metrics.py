"""Scores of a model: Dice of label maps, recall of classes.

A class that occurs nowhere has no score: it is NaN, and left out of means.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from polyclinic.learning.measures.estimates import Estimate, Measures, hold_back
from polyclinic.learning.measures.names import OVERALL


@dataclass(frozen=True)
class Evaluation:
    """Figures of one model on one split.

    Attributes:
        loss: Mean loss; None where none was asked for.
        scores: Class name to Dice (of foreground classes) or recall; NaN if the class never occurs.
        score: Mean of the scores that are not NaN: mean Dice, or balanced accuracy; NaN if none is.
        num_examples: Number of cases.
        measures: Further measures with support and intervals, by class and by measure; over all
            classes under "". Empty where only scores were asked for.
        comparisons: Mean difference by case to each of other models, by their names.
    """

    loss: float | None
    scores: dict[str, float]
    score: float
    num_examples: int
    measures: Measures = field(default_factory=dict)
    comparisons: Mapping[str, Estimate] = field(default_factory=dict)


def hold_back_figures(evaluation: Evaluation, min_subjects: int) -> Evaluation:
    """Leave out measures and comparisons that rest on fewer subjects than a hospital lets go."""
    compared = hold_back({OVERALL: evaluation.comparisons}, min_subjects).get(OVERALL, {})
    measures = hold_back(evaluation.measures, min_subjects)
    return replace(evaluation, measures=measures, comparisons=compared)


def count_pairs(prediction: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Compute the confusion matrix.

    Args:
        prediction: Classes, any shape, whole numbers.
        truth: The same shape.
        classes: Number of classes.

    Returns:
        int64, shape (classes, classes): how many elements of class `row` were predicted as class
        `column`.

    Raises:
        ValueError: The shapes differ, or a number lies outside 0 .. classes - 1.
    """
    if prediction.shape != truth.shape:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and truth {tuple(truth.shape)} differ in shape"
        )
    for values in (prediction, truth):
        if values.numel() and not 0 <= int(values.min()) <= int(values.max()) < classes:
            raise ValueError(
                f"classes {int(values.min())} .. {int(values.max())}, expected 0 .. {classes - 1}"
            )
    kind = torch.int16 if classes <= 181 else torch.int64  # the pair's number must fit
    pairs = truth.flatten().to(kind) * classes + prediction.flatten().to(kind)
    return torch.bincount(pairs, minlength=classes * classes).view(classes, classes)


def dice_per_class(prediction: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Compute the overlap 2 |P and T| / (|P| + |T|) of every foreground class.

    Args:
        prediction: Label map, any shape, whole numbers.
        truth: The same shape.
        classes: Number of classes, the background included.

    Returns:
        float64, shape (classes - 1,): classes 1, 2, ...; NaN where a class is in neither map.

    Raises:
        ValueError: As for `count_pairs`.

    Dice 1945, https://doi.org/10.2307/1932409. Equals `monai.metrics.compute_dice` without one-hot
    maps.
    """
    pairs = count_pairs(prediction, truth, classes).double()
    return (2 * pairs.diagonal() / (pairs.sum(0) + pairs.sum(1)))[1:]


def recall_per_class(prediction: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Compute the share of each class's cases that were recognized.

    Args:
        prediction: Classes, shape (cases,), whole numbers.
        truth: The same shape.
        classes: Number of classes.

    Returns:
        float64, shape (classes,): NaN where no case has that class.

    Raises:
        ValueError: As for `count_pairs`.
    """
    pairs = count_pairs(prediction, truth, classes).double()
    return pairs.diagonal() / pairs.sum(1)


def summarize(
    per_case: Sequence[Tensor], names: Sequence[str], loss: float | None, num_examples: int
) -> Evaluation:
    """Compute means over cases, then over classes, each time without the NaNs.

    Args:
        per_case: One row of scores, shape (names,), for each case; or a single row for all of them.
        names: Names of the entries of a row.
        loss: Mean loss, if there is one.
        num_examples: Number of cases.
    """
    means = torch.stack(list(per_case)).nanmean(0).tolist() if per_case else [math.nan] * len(names)
    seen = [value for value in means if not math.isnan(value)]
    score = sum(seen) / len(seen) if seen else math.nan
    return Evaluation(loss, dict(zip(names, means, strict=True)), score, num_examples)
