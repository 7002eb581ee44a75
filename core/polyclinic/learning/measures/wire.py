"""Figures in a message: a name and a list of numbers for each; NaN stands for what is missing."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from polyclinic.learning.measures.estimates import Estimate, Measures, check_bounds
from polyclinic.learning.measures.names import MEASURES

MEASURE, COMPARISON = "measure.", "compared."
DIFFERENCE = MEASURES["score_difference"]
MOST_COMPARED = 64  # models of one run
MOST_FIGURES = 4096  # in one answer
FIELDS = (
    "value", "low", "high", "n", "positives", "subjects",
    "total", "weight", "total_squares", "products", "weight_squares",
)  # fmt: skip
WHOLE = frozenset({"n", "positives", "subjects"})


def measure_items(measures: Measures) -> Iterator[tuple[str, list[float]]]:
    """Yield the entries that hold measures: `measure.NAME.LABEL`."""
    for label, table in measures.items():
        for name, estimate in table.items():
            yield f"{MEASURE}{name}.{label}", as_numbers(estimate)


def comparison_items(comparisons: Mapping[str, Estimate]) -> Iterator[tuple[str, list[float]]]:
    """Yield the entries that hold comparisons: `compared.MODEL`."""
    for model, estimate in comparisons.items():
        yield f"{COMPARISON}{model}", as_numbers(estimate)


def read_measures(flat: Mapping[str, Any]) -> dict[str, dict[str, Estimate]]:
    """Read the measures among an answer's entries; those of unknown names are passed over.

    Raises:
        ValueError: A figure contradicts itself, or lies beyond its measure's bounds.
    """
    found: dict[str, dict[str, Estimate]] = {}
    entries = [key for key in flat if key.startswith(MEASURE)]
    if len(entries) > MOST_FIGURES:
        raise ValueError(f"{len(entries):,} measures, at most {MOST_FIGURES:,} are read")
    for key in entries:
        name, _, label = key.removeprefix(MEASURE).partition(".")
        if name in MEASURES:
            estimate = from_numbers(flat[key])
            check_bounds(MEASURES[name], estimate)
            found.setdefault(label, {})[name] = estimate
    return found


def read_comparisons(flat: Mapping[str, Any]) -> dict[str, Estimate]:
    """Read the comparisons among an answer's entries.

    Raises:
        ValueError: One contradicts itself, or is beyond -1 to 1.
    """
    found = {}
    for key, numbers in flat.items():
        if key.startswith(COMPARISON):
            found[key.removeprefix(COMPARISON)] = estimate = from_numbers(numbers)
            check_bounds(DIFFERENCE, estimate)
    return found


def as_numbers(estimate: Estimate) -> list[float]:
    """Write a figure as a list of numbers."""
    values = (getattr(estimate, field) for field in FIELDS)
    return [math.nan if value is None else float(value) for value in values]


def from_numbers(numbers: object) -> Estimate:
    """Read a figure from a list of numbers.

    Raises:
        ValueError: It is no such list, or the figure contradicts itself.
    """
    if not isinstance(numbers, list) or len(numbers) != len(FIELDS):
        raise ValueError(f"a figure has {len(FIELDS)} numbers")
    values = {}
    for field, number in zip(FIELDS, numbers, strict=True):
        if not isinstance(number, float):
            raise ValueError("a figure's numbers are real")
        if not math.isnan(number):
            values[field] = int(number) if field in WHOLE and number.is_integer() else number
    return Estimate.model_validate(values)
