"""Messages about descriptions and refined models, packed as Flower's messages."""

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from polyclinic.config.release import Release
from polyclinic.errors import AnswerRefused, ConfigError
from polyclinic.federation.answers import LONGEST_S, record_of
from polyclinic.federation.envelope import make_message
from polyclinic.federation.records import (
    ARRAYS,
    CONFIG,
    Order,
    order_from_message,
    order_to_config,
    unpack_content,
    weights_to_record,
)
from polyclinic.learning.state_dict import StateDict
from polyclinic.store.contribution import MOST_EXAMPLES
from polyclinic_strategies.merging.intake.statistics import MOST_NUMBERS, fault_of_mean
from polyclinic_strategies.merging.messages import LONG_S, Assignment

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
    content = RecordDict({CONFIG: config})
    if weights is not None:
        content[ARRAYS] = weights_to_record(weights)
    return make_message(content, node, "query.describe", ttl=LONG_S)


def read_question(message: Message) -> tuple[Order, tuple[str, ...], Release]:
    """Return order, names of statistics, and conditions for the release, of a `query.describe`.

    Raises:
        ConfigError: A field is missing or has the wrong type.
    """
    flat: dict[str, Any] = dict(unpack_content(message.content)[CONFIG])
    try:
        names = tuple(str(name) for name in flat["statistics"])
        release = Release(int(flat["min-subjects"]), float(flat["noise-multiplier"]))
    except ValidationError as error:
        raise ConfigError(
            "The coordinator's message asks for an impossible release: it runs another version of "
            "polyclinic."
        ) from error
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"The coordinator's message lacks {error}: it runs another version of polyclinic."
        ) from error
    return order_from_message(message), names, release


def has_weights(message: Message) -> bool:
    """Return whether a message holds the weights of the base."""
    return ARRAYS in unpack_content(message.content)


def describe_reply(message: Message, means: StateDict, subjects: int, seconds: float) -> Message:
    """Make the answer to a `query.describe`.

    Args:
        message: The question.
        means: Mean of each statistic over the subjects; it travels as float32 in bytes.
        subjects: Number of subjects.
        seconds: Time that the description took.
    """
    flat: dict[str, Any] = {
        f"{MEAN}{name}": mean.numpy().astype("<f4").tobytes() for name, mean in means.items()
    }
    config = ConfigRecord({**flat, "subjects": subjects, "seconds": seconds})
    return Message(RecordDict({CONFIG: config}), reply_to=message)


class DescriptionReply(NamedTuple):
    """A hospital's description: means over subjects, their number, seconds that it took."""

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
        data = flat.get(f"{MEAN}{name}")
        if not isinstance(data, bytes) or len(data) % 4 or not 0 < len(data) <= 4 * MOST_NUMBERS:
            raise AnswerRefused(f"its description lacks {name}")
        means[name] = torch.from_numpy(np.frombuffer(data, dtype="<f4").astype(np.float32))
        if problem := fault_of_mean(means[name]):
            raise AnswerRefused(f"its {name} {problem}", "Check the hospital's images.")
    return DescriptionReply(means, told.subjects, told.seconds)


def send_refined(order: Order, weights: Tensor, number: int, node: int) -> Message:
    """Make a `query.refined`: the model that was made for this hospital, with its number."""
    config = order_to_config(order)
    config["number"] = number
    content = RecordDict({ARRAYS: weights_to_record(weights), CONFIG: config})
    return make_message(content, node, "query.refined", ttl=LONG_S)


def read_refined(message: Message) -> tuple[Order, int]:
    """Return order and number of a `query.refined`.

    Its weights are read by `records.weights_from_message`.
    """
    flat: dict[str, Any] = dict(unpack_content(message.content)[CONFIG])
    return order_from_message(message), int(flat.get("number", 0))
