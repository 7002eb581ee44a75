"""Two models on the same cases: the mean difference of their scores, case by case."""

import math
from collections.abc import Mapping

from polyclinic.learning.measures.bootstrap import ratio
from polyclinic.learning.measures.estimates import Estimate


def compare_by_case(
    scores: Mapping[str, float], others: Mapping[str, float], subjects: Mapping[str, int]
) -> Estimate | None:
    """Compute the mean of the differences `scores - others` over the cases that both have.

    Args:
        scores: Name of a case to its score: mean Dice, or 1.0 if the class is right.
        others: The same of the other model.
        subjects: Name of a case to the number of its subject.

    Returns:
        None if no case has both scores.
    """
    both = [
        name
        for name, score in scores.items()
        if math.isfinite(score) and math.isfinite(others.get(name, math.nan))
    ]
    numbers: dict[int, int] = {}
    of_case = [numbers.setdefault(subjects[name], len(numbers)) for name in both]
    differences = [scores[name] - others[name] for name in both]
    return ratio(
        differences, [1.0] * len(both), of_case, n=len(both), positives=None, least=len(numbers)
    )
