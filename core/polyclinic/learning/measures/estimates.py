"""A figure with its support and interval, and what of it leaves a hospital.

A figure is a ratio A / B of two sums over subjects; of a mean over cases, A is the sum of their
values and B their number. So hospitals' sums give the pooled figure exactly. The sums of squares
and products give the pooled figure's interval.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from polyclinic.learning.measures.names import (
    AGREEMENT,
    CONFIDENCE,
    MEASURES,
    OVERALL,
    SCORES,
    Measure,
)

FEW = 10  # positives: below them a figure only describes
MOST_CASES = 10_000_000
ROOM = 1e-9  # relative, for rounding
Sum = Annotated[float, Field(ge=-1e25, le=1e25, allow_inf_nan=False)]
Square = Annotated[float, Field(ge=0, le=1e50, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=MOST_CASES)]


class Estimate(BaseModel):
    """A figure.

    Attributes:
        value: The figure, `total / weight`.
        low: Lower end of its 95 % interval; None where there is none.
        high: Upper end.
        n: Number of cases behind it.
        positives: Number of them that have the structure, or are of the class; None if the measure
            is over all classes.
        subjects: Number of subjects behind it; if it rests on several groups, of the smallest.
        total: Sum of the cases' values.
        weight: Sum of what they are divided by: the number of cases, or of lesions.
        total_squares: Sum of squares of `total`'s parts, one part for each subject.
        products: Sum of products of the parts of `total` and `weight`.
        weight_squares: Sum of squares of `weight`'s parts; 0 where sums do not give the figure.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    value: Sum
    low: Sum | None = None
    high: Sum | None = None
    n: Count
    positives: Count | None = None
    subjects: Count
    total: Sum
    weight: Annotated[Sum, Field(gt=0)]
    total_squares: Square = 0.0
    products: Annotated[float, Field(ge=-1e50, le=1e50, allow_inf_nan=False)] = 0.0
    weight_squares: Square = 0.0

    @model_validator(mode="after")
    def _agree(self) -> "Estimate":
        """Refuse fields that contradict each other."""
        if not close(self.value * self.weight, self.total):
            raise ValueError("value, total and weight contradict each other")
        if max(self.positives or 0, self.subjects) > self.n:
            raise ValueError("more positives or subjects than cases")
        if (self.low is None) != (self.high is None):
            raise ValueError("an interval has two ends")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError("the interval's ends are exchanged")
        return self

    @property
    def descriptive(self) -> bool:
        """Whether fewer than ten positives, or negatives where there are any, are behind it."""
        if self.positives is None:
            return self.n < FEW
        negatives = self.n - self.positives
        return min(self.positives, negatives or self.positives) < FEW


Measures = Mapping[str, Mapping[str, Estimate]]  # label to measure; OVERALL: over all classes


def check_bounds(measure: Measure, estimate: Estimate) -> None:
    """Refuse a figure that its measure cannot have.

    Raises:
        ValueError: It lies beyond the measure's bounds.
    """
    for value in (estimate.value, estimate.low, estimate.high):
        if value is not None and not (
            measure.lowest - ROOM <= value <= measure.highest * (1 + ROOM) + ROOM
        ):
            raise ValueError(f"{measure.name} of {value:g} lies beyond its bounds")


def pool(measure: Measure, estimates: Sequence[Estimate]) -> Estimate | None:
    """Compute the federated figure.

    Where sums suffice, it is the figure of all cases in one place. Otherwise it is the mean over
    hospitals, weighted by their numbers of cases, and has no interval.

    Args:
        measure: What is measured.
        estimates: One for each hospital.

    Returns:
        The figure; None if there is nothing to pool. Its interval is the delta method's normal
        approximation for a ratio of means over subjects (Cochran 1977, Sampling Techniques,
        chapter 6): with r = A / B over S subjects, the variance is
        S / (S - 1) * sum((a - r b)^2) / B^2.
    """
    if not estimates:
        return None
    total, weight = _sum(estimates, "total"), _sum(estimates, "weight")
    value, subjects = total / weight, sum(each.subjects for each in estimates)
    squares, products = _sum(estimates, "total_squares"), _sum(estimates, "products")
    weights = _sum(estimates, "weight_squares")
    low = high = None
    if measure.sums and subjects > 1 and weights > 0:
        spread = max(0.0, squares - 2 * value * products + value**2 * weights)
        error = math.sqrt(spread * subjects / (subjects - 1)) / weight
        reach = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * error
        low = min(value, max(measure.lowest, value - reach))
        high = max(value, min(measure.highest, value + reach))
    known = [each.positives for each in estimates if each.positives is not None]
    return Estimate(
        value=value,
        low=low,
        high=high,
        n=sum(each.n for each in estimates),
        positives=sum(known) if len(known) == len(estimates) else None,
        subjects=subjects,
        total=total,
        weight=weight,
        total_squares=squares,
        products=products,
        weight_squares=weights,
    )


def pool_all(found: Iterable[Measures]) -> dict[str, dict[str, Estimate]]:
    """Compute every federated figure of hospitals' figures, by label and measure.

    The balanced accuracy is the mean of the pooled recalls, which is exact, where hospitals told
    the recalls of all their cases. Limits of agreement follow exactly from the pooled bias and
    mean squared error.
    """
    given = list(found)
    labels = dict.fromkeys(label for each in given for label in each)
    pooled: dict[str, dict[str, Estimate]] = {}
    for label in labels:
        tables = [each[label] for each in given if label in each]
        names = [name for name in MEASURES if any(name in table for table in tables)]
        for name in names:
            parts = [table[name] for table in tables if name in table]
            if (estimate := pool(MEASURES[name], parts)) is not None:
                pooled.setdefault(label, {})[name] = estimate
    if "balanced_accuracy" in pooled.get(OVERALL, {}) and all(map(_told_all_recalls, given)):
        whole = pooled[OVERALL]["balanced_accuracy"]
        recalls = [table["recall"].value for table in pooled.values() if "recall" in table]
        value = math.fsum(recalls) / len(recalls)
        pooled[OVERALL]["balanced_accuracy"] = _with_value(whole, value)
    for table in pooled.values():
        _pool_limits(table)
    return pooled


def _pool_limits(table: dict[str, Estimate]) -> None:
    """Put the limits of agreement of all cases in place of the mean of hospitals' limits."""
    if not {"bias", "squared_error", "lower_limit", "upper_limit"} <= set(table):
        return
    bias, squares = table["bias"], table["squared_error"]
    spread = deviation(bias.value, squares.value, bias.n)
    if bias.n == squares.n and spread is not None:
        for name, sign in (("lower_limit", -1), ("upper_limit", 1)):
            table[name] = _with_value(table[name], bias.value + sign * AGREEMENT * spread)


def deviation(mean: float, mean_of_squares: float, n: float) -> float | None:
    """Compute a sample's standard deviation from its moments; None of fewer than two values."""
    if n < 2:
        return None
    return math.sqrt(max(0.0, mean_of_squares - mean**2) * n / (n - 1))


def _with_value(estimate: Estimate, value: float) -> Estimate:
    """Return a figure with another value, which no interval belongs to."""
    changes = {"value": value, "total": value * estimate.weight, "low": None, "high": None}
    return estimate.model_copy(update=changes)


def _told_all_recalls(measures: Measures) -> bool:
    """Tell whether a hospital's recalls are of all its cases: none was held back."""
    whole = measures.get(OVERALL, {}).get("balanced_accuracy")
    counts = [table["recall"].n for table in measures.values() if "recall" in table]
    return whole is None or sum(counts) == whole.n > 0


def hold_back(measures: Measures, min_subjects: int) -> dict[str, dict[str, Estimate]]:
    """Leave out figures that rest on fewer subjects than a hospital lets go.

    Args:
        measures: All that was measured.
        min_subjects: The release policy's least number of subjects.
    """
    kept = {
        label: {name: each for name, each in table.items() if each.subjects >= min_subjects}
        for label, table in measures.items()
    }
    return {label: table for label, table in kept.items() if table}


def leave_out_none(
    found: Mapping[str, Mapping[str, Estimate | None]],
) -> dict[str, dict[str, Estimate]]:
    """Leave out the figures that the cases do not have."""
    return {
        label: {name: each for name, each in table.items() if each is not None}
        for label, table in found.items()
    }


def overall(measures: Measures) -> Estimate | None:
    """Return the figure over all classes that a model's score is, such as mean Dice."""
    table = measures.get(OVERALL, {})
    return next((table[name] for name in SCORES if name in table), None)


def close(one: float, other: float) -> bool:
    """Tell whether two numbers are equal but for rounding."""
    return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-6)


def _sum(estimates: Sequence[Estimate], field: str) -> float:
    return math.fsum(getattr(each, field) for each in estimates)
