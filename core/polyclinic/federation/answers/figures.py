"""Answers to `train` and `evaluate`: figures and weights, and what of them strategies get."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from polyclinic.errors import AnswerRefused
from polyclinic.federation.answers.guard import LONGEST_S, Cases, Word, array_of, record_of
from polyclinic.federation.answers.outliers import Sketch, sketch_of
from polyclinic.federation.envelope.content import ARRAYS, METRICS, WEIGHTS
from polyclinic.federation.envelope.mapped_array import array_values
from polyclinic.federation.metrics import MOST_LABELS
from polyclinic.federation.records import SCORE
from polyclinic.learning.measures.estimates import Estimate
from polyclinic.learning.measures.wire import (
    COMPARISON,
    MEASURE,
    MOST_COMPARED,
    read_comparisons,
    read_measures,
)

LARGEST_LOSS = 1e9


def _missing(value: object) -> object:
    """Take NaN, by which a hospital says that it has no such figure, for None."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _measured(values: object) -> object:
    """Leave out the labels that have no score."""
    if not isinstance(values, Mapping):
        return values
    return {key: value for key, value in values.items() if _missing(value) is not None}


Score = Annotated[float, Field(ge=-1.0, le=1.0)]
Loss = Annotated[float, Field(ge=-LARGEST_LOSS, le=LARGEST_LOSS)]


class Figures(BaseModel):
    """What a hospital measured; a figure that is missing or NaN is None.

    Attributes:
        num_examples: Number of cases behind the figures.
        loss: Mean loss.
        score: Mean score; Dice and balanced accuracy are 0 to 1.
        scores: Score by class.
        seconds: Time that the hospital took.
        epsilon: What training for the run has told about one patient so far.
        measures: Measures with support and intervals, by class and name.
        comparisons: Mean difference by case to each of other models, by their names.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    num_examples: Cases
    loss: Annotated[Loss | None, BeforeValidator(_missing)] = None
    score: Annotated[Score | None, BeforeValidator(_missing)] = None
    scores: Annotated[
        Mapping[Word, Score], BeforeValidator(_measured), Field(max_length=MOST_LABELS)
    ] = {}
    seconds: Annotated[float, Field(ge=0, le=LONGEST_S)] | None = None
    epsilon: Annotated[Annotated[float, Field(ge=0, le=1e6)] | None, BeforeValidator(_missing)] = (
        None
    )
    measures: Annotated[
        Mapping[Word, Mapping[str, Estimate]], Field(max_length=MOST_LABELS + 1)
    ] = {}
    comparisons: Annotated[Mapping[Word, Estimate], Field(max_length=MOST_COMPARED)] = {}

    @model_validator(mode="after")
    def _hold_no_more_cases(self) -> "Figures":
        """Refuse measures of more cases than the answer is about."""
        counts = [each.n for table in self.measures.values() for each in table.values()]
        counts += [each.n for each in self.comparisons.values()]
        if counts and max(counts) > self.num_examples:
            raise ValueError("measures of more cases than num_examples")
        return self

    def told(self) -> dict[str, Any]:
        """Return the figures that the hospital sent, by name."""
        return self.model_dump(exclude_unset=True)


def read_figures(message: Message) -> Figures:
    """Read the answer to a question for scores.

    Raises:
        AnswerRefused: It holds no figures.
        pydantic.ValidationError: A figure is none, or beyond its bounds.
    """
    flat: dict[str, Any] = dict(record_of(message, METRICS, MetricRecord))
    scores = {key.removeprefix(SCORE): flat.pop(key) for key in list(flat) if key.startswith(SCORE)}
    try:
        measured = {"measures": read_measures(flat), "comparisons": read_comparisons(flat)}
    except ValidationError:
        raise
    except ValueError as error:
        raise AnswerRefused(str(error)) from error
    line = {
        key.replace("-", "_"): value
        for key, value in flat.items()
        if not key.startswith((MEASURE, COMPARISON))
    }
    for name in ("scores", "measures", "comparisons"):
        line.pop(name, None)
    found = {"scores": scores, **measured}
    return Figures.model_validate({**line, **{key: value for key, value in found.items() if value}})


@dataclass(frozen=True)
class Trained:
    """The answer to a round of training.

    Attributes:
        weights: The shared weights, float32, finite, as many as were sent out.
        figures: What the hospital measured.
        update: Sketch of the difference to what was sent out.
    """

    weights: Array = field(repr=False)
    figures: Figures
    update: Sketch


def read_trained(message: Message, asked: Array) -> Trained:
    """Read the answer to a round of training.

    Args:
        message: The answer.
        asked: The weights that the round started from.

    Raises:
        AnswerRefused: It holds other weights than were asked for, or NaN, or no examples.
        pydantic.ValidationError: A figure is none, or beyond its bounds.
    """
    figures = read_figures(message)
    if figures.num_examples < 1:
        raise AnswerRefused("it trained on no examples", "Add cases to 'training'.")
    record = record_of(message, ARRAYS, ArrayRecord)
    weights = array_of(record, WEIGHTS, "float32", int(asked.shape[0]))
    update = sketch_of(array_values(weights), array_values(asked))
    if not math.isfinite(update.norm):  # squares of float32 do not overflow in float64
        raise AnswerRefused(
            "its weights contain NaN or Inf", "Lower training.learning_rate and train again."
        )
    return Trained(weights, figures, update)


def trained_content(answer: Trained, num_examples: int) -> RecordDict:
    """Make the content of a reply for a strategy: equal names from every hospital, and no others.

    Args:
        answer: What was read.
        num_examples: Weight of the hospital in the average.
    """
    loss = _plain(answer.figures.loss)
    arrays = ArrayRecord()  # given a dictionary, it would copy the array
    arrays[WEIGHTS] = answer.weights
    metrics = MetricRecord({"num-examples": num_examples, "loss": loss})
    return RecordDict({ARRAYS: arrays, METRICS: metrics})


def figures_content(figures: Figures) -> RecordDict:
    """Make the content of a reply to `evaluate`, likewise; a strategy divides by the examples."""
    named: dict[str, Any] = {"score": _plain(figures.score), "loss": _plain(figures.loss)}
    return RecordDict(
        {METRICS: MetricRecord({"num-examples": max(1, figures.num_examples), **named})}
    )


def _plain(value: float | None) -> float:
    return math.nan if value is None else value
