"""Messages about descriptions and refined models, packed as Flower's messages."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from pydantic import BaseModel, ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from polyclinic.config.release import MinSubjects, NoiseMultiplier, Release
from polyclinic.config.schemas import STRICT
from polyclinic.describing.uncertainty import error_name
from polyclinic.errors import AnswerRefused, ConfigError
from polyclinic.federation.answers import LONGEST_S, record_of
from polyclinic.federation.assignment import Names
from polyclinic.federation.envelope import make_message
from polyclinic.federation.envelope.content import ARRAYS, CONFIG, unpack_content, weights_to_record
from polyclinic.federation.records import (
    Order,
    config_of,
    order_from_message,
    order_to_config,
    read_values,
)
from polyclinic.learning.state_dict import StateDict
from polyclinic.store.requirements import MOST_EXAMPLES
from polyclinic_strategies.merging.intake.statistics import (
    MOST_NUMBERS,
    fault_of_mean,
    fault_of_variance,
)
from polyclinic_strategies.merging.messages import LONG_S, Assignment


@dataclass(frozen=True, config=STRICT)
class _Question:
    """What a coordinator asks of a description."""

    statistics: Names
    min_subjects: MinSubjects
    noise_multiplier: NoiseMultiplier
    variances: Annotated[bool, Field(strict=True)] = False


MEAN = "mean."  # prefix of the statistics' names in a message


def ask_for_description(
    assignment: Assignment, names: Sequence[str], weights: Tensor | None, node: int
) -> Message:
    """Make a `query.describe`.

    Args:
        assignment: Job of the hospital, and conditions for the release of a description.
        names: Names of the statistics.
        weights: Packed weights of the base if a statistic needs them, else None.
        node: Node that the message goes to.
    """
    config = order_to_config(assignment.order)
    config["base"], config["statistics"] = assignment.base, list(names)
    config["min-subjects"] = assignment.min_subjects
    config["noise-multiplier"] = assignment.noise_multiplier
    config["variances"] = assignment.variances
    content = RecordDict({CONFIG: config})
    if weights is not None:
        content[ARRAYS] = weights_to_record(weights)
    return make_message(content, node, "query.describe", ttl=LONG_S)


class DescriptionQuestion(NamedTuple):
    """What a hospital is asked to describe itself by, and what may leave for it."""

    order: Order
    statistics: tuple[str, ...]
    release: Release
    variances: bool  # whether the variance of each mean is wanted, too


def read_question(message: Message) -> DescriptionQuestion:
    """Read a `query.describe`; one of 0.1.0 asks for no variances.

    Raises:
        ConfigError: A field is missing or has the wrong type.
    """
    flat = config_of(message)
    asked = read_values(
        _Question,
        {
            "statistics": flat.get("statistics"),
            "min_subjects": flat.get("min-subjects"),
            "noise_multiplier": flat.get("noise-multiplier"),
            "variances": flat.get("variances", False),
        },
        "question.",
    )
    release = Release(asked.min_subjects, asked.noise_multiplier)
    order = order_from_message(message)
    return DescriptionQuestion(order, asked.statistics, release, asked.variances)


def has_weights(message: Message) -> bool:
    """Return whether a message holds the weights of the base."""
    return ARRAYS in unpack_content(message.content)


def describe_reply(message: Message, means: StateDict, subjects: int, seconds: float) -> Message:
    """Make the answer to a `query.describe`.

    Args:
        message: The question.
        means: Mean of each statistic over the subjects, and variances if they were asked for; they
            travel as float32 in bytes.
        subjects: Number of subjects.
        seconds: Time that the description took.
    """
    flat: dict[str, Any] = {
        f"{MEAN}{name}": mean.numpy().astype("<f4").tobytes() for name, mean in means.items()
    }
    config = ConfigRecord({**flat, "subjects": subjects, "seconds": seconds})
    return Message(RecordDict({CONFIG: config}), reply_to=message)


class DescriptionReply(NamedTuple):
    """A hospital's description: means and variances, number of subjects, seconds that it took."""

    means: StateDict
    subjects: int
    seconds: float


class _Told(BaseModel):
    """The bounds of what comes with the means."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    subjects: Annotated[int, Field(ge=1, le=MOST_EXAMPLES)]
    seconds: Annotated[float, Field(ge=0, le=LONGEST_S)] = 0.0


def read_description(message: Message, wanted: Sequence[str]) -> DescriptionReply:
    """Read the answer to a `query.describe`.

    Raises:
        AnswerRefused: A statistic is missing, or is no mean of vectors that are at most 1 long.
        pydantic.ValidationError: The number of subjects is missing or impossible.
    """
    flat: dict[str, Any] = dict(record_of(message, CONFIG, ConfigRecord))
    told = _Told(**flat)
    means = {}
    for name in wanted:
        means[name] = _numbers(flat, name)
        if problem := fault_of_mean(means[name]):
            raise AnswerRefused(f"its {name} {problem}", "Check the hospital's images.")
        variance = error_name(name)
        if f"{MEAN}{variance}" in flat:
            means[variance] = _numbers(flat, variance)
            if problem := fault_of_variance(means[variance]):
                raise AnswerRefused(f"its {variance} {problem}", "Check the hospital's images.")
    return DescriptionReply(means, told.subjects, told.seconds)


def _numbers(flat: Mapping[str, Any], name: str) -> Tensor:
    """Read one list of numbers of a description.

    Raises:
        AnswerRefused: It is missing, empty or too long.
    """
    data = flat.get(f"{MEAN}{name}")
    if not isinstance(data, bytes) or len(data) % 4 or not 0 < len(data) <= 4 * MOST_NUMBERS:
        raise AnswerRefused(f"its description lacks {name}")
    return torch.from_numpy(np.frombuffer(data, dtype="<f4").astype(np.float32))


def send_refined(order: Order, weights: Tensor, number: int, node: int) -> Message:
    """Make a `query.refined`: the model that was made for this hospital, with its number."""
    config = order_to_config(order)
    config["number"] = number
    content = RecordDict({ARRAYS: weights_to_record(weights), CONFIG: config})
    return make_message(content, node, "query.refined", ttl=LONG_S)


def read_refined(message: Message) -> tuple[Order, int]:
    """Return order and number of a `query.refined`.

    Its weights are read by `content.weights_from_message`.

    Raises:
        ConfigError: A field has the wrong type.
    """
    number = config_of(message).get("number", 0)
    if type(number) is not int or not 0 <= number < 2**31:
        raise ConfigError(
            "The refined model has no number: the coordinator runs another version of polyclinic."
        )
    return order_from_message(message), number
