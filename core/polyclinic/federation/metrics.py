"""Figures of a run: one model for every line of metrics.jsonl, by which it is written and read.

A value of the wrong kind is read as None, for one damaged figure need not cost the others of its
line.
"""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    StrictInt,
    TypeAdapter,
    ValidationError,
)

from polyclinic.federation.events import Word
from polyclinic.federation.run_state import Count
from polyclinic.learning.measures.estimates import Estimate
from polyclinic.system.text import parse_json

Phase = Literal["train", "validate", "test"]
FILE = "metrics.jsonl"
LARGEST = 1e15
MOST_LABELS = 256  # with a score of their own


def finite(value: object) -> float | None:
    """Return a number that may be a figure, at most `LARGEST`; None for anything else."""
    return float(value) if isinstance(value, int | float) and abs(value) <= LARGEST else None


def finite_items(values: object) -> dict[str, float]:
    """Keep the entries of a mapping that are finite numbers; empty for anything else."""
    found = values if isinstance(values, Mapping) else {}
    first = islice(found.items(), MOST_LABELS)
    return {key: known for key, value in first if (known := finite(value)) is not None}


def sound_estimates(values: object) -> object:
    """Return figures with their support as they are; empty for anything that is none."""
    try:
        return _ESTIMATES.validate_python(values)
    except ValidationError:
        return {}


def sound_measures(values: object) -> object:
    """Return the tables of such figures, by label; empty for anything that is none."""
    found = values if isinstance(values, Mapping) else {}
    first = islice(found.items(), MOST_LABELS + 1)
    return {label: table for label, each in first if (table := sound_estimates(each))}


_ESTIMATES: TypeAdapter[Mapping[str, Estimate]] = TypeAdapter(Mapping[Word, Estimate])
Estimates = Annotated[Mapping[Word, Estimate], BeforeValidator(sound_estimates)]
MeasureTables = Annotated[Mapping[Word, Mapping[Word, Estimate]], BeforeValidator(sound_measures)]
Number = Annotated[float | None, BeforeValidator(finite)]
Numbers = Annotated[Mapping[Word, float], BeforeValidator(finite_items)]
Reason = Annotated[Word | None, BeforeValidator(lambda value: value or None)]


class Metric(BaseModel):
    """What one hospital reported in one phase of one round of a strategy's run.

    Attributes:
        arm: Name of the strategy's run, or of a model that it is compared with.
        round: Round, counted over all attempts; number of a published model where there are no
            rounds.
        scores: Score of each label.
        missing: Why the hospital reported nothing.
        time: Seconds since 1970.
        seconds: How long the hospital worked.
        measures: Measures with support and intervals, by label and name.
        comparisons: Mean difference by case to each of other models, by their names.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    arm: Word
    round: StrictInt
    phase: Phase
    site: Word
    num_examples: Count = None
    loss: Number = None
    score: Number = None
    scores: Numbers = {}
    missing: Reason = None
    time: Number = None
    seconds: Number = None
    measures: MeasureTables = {}
    comparisons: Estimates = {}

    def to_line(self) -> dict[str, Any]:
        """Return what is written: plain values, without what was left to its default."""
        return self.model_dump(mode="json", exclude_unset=True)


def parse_metric(line: str) -> Metric | None:
    """Read one line of metrics.jsonl; None where it is damaged."""
    try:
        return Metric.model_validate(parse_json(line))
    except (ValueError, OverflowError):
        return None


def read_metrics(path: Path) -> tuple[tuple[Metric, ...], int]:
    """Read the figures of a run.

    Of two lines about the same thing, as a resumed run has, the later one counts. A score that is
    missing is the mean of the labels' scores.

    Returns:
        The figures, and how many lines were damaged.
    """
    text = path.read_bytes().decode("utf-8", "replace") if path.is_file() else ""
    lines = [parse_metric(line) for line in text.split("\n") if line.strip()]
    kept = {
        (metric.arm, metric.round, metric.phase, metric.site): _with_score(metric)
        for metric in lines
        if metric is not None
    }
    return tuple(kept.values()), sum(metric is None for metric in lines)


def _with_score(metric: Metric) -> Metric:
    if metric.score is not None or not metric.scores:
        return metric
    return metric.model_copy(update={"score": fmean(metric.scores.values())})
