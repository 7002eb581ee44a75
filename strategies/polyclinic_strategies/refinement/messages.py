"""Messages about descriptions and refined models, packed as Flower's messages."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from polyclinic.config.release import MinSubjects, NoiseMultiplier, Release
from polyclinic.config.schemas import STRICT
from polyclinic.errors import ConfigError
from polyclinic.federation.assignment import Names
from polyclinic.federation.envelope import make_message
from polyclinic.federation.records import (
    ARRAYS,
    CONFIG,
    Order,
    config_of,
    order_from_message,
    order_to_config,
    read_values,
    unpack_content,
    weights_to_record,
)
from polyclinic.learning.state_dict import StateDict
from polyclinic_strategies.merging.messages import LONG_S, Assignment


@dataclass(frozen=True, config=STRICT)
class _Question:
    """What a coordinator asks of a description."""

    statistics: Names
    min_subjects: MinSubjects
    noise_multiplier: NoiseMultiplier


MEAN = "mean."  # prefix of the statistics' names in a message
MOST_NUMBERS = 2**20  # upper limit for the numbers in one statistic


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
    flat = config_of(message)
    asked = read_values(
        _Question,
        {
            "statistics": flat.get("statistics"),
            "min_subjects": flat.get("min-subjects"),
            "noise_multiplier": flat.get("noise-multiplier"),
        },
        "question.",
    )
    release = Release(asked.min_subjects, asked.noise_multiplier)
    return order_from_message(message), asked.statistics, release


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


def read_description(message: Message, wanted: Sequence[str]) -> tuple[StateDict, int, float]:
    """Return the means, the number of subjects, and the seconds that the description took.

    Raises:
        ConfigError: A statistic is missing, too long, or not a list of finite numbers; or the
            number of subjects is missing.
    """
    flat: dict[str, Any] = dict(message.content.config_records.get(CONFIG, {}))
    means = {}
    for name in wanted:
        data = flat.get(f"{MEAN}{name}")
        if not isinstance(data, bytes) or len(data) % 4 or not 0 < len(data) <= 4 * MOST_NUMBERS:
            raise ConfigError(
                f"A hospital's description lacks {name}: it runs another version of polyclinic."
            )
        means[name] = torch.from_numpy(np.frombuffer(data, dtype="<f4").astype(np.float32))
        if not bool(torch.isfinite(means[name]).all()):
            raise ConfigError(f"A hospital's {name} holds NaN or Inf: check its images.")
    subjects, seconds = flat.get("subjects"), flat.get("seconds", 0.0)
    if type(subjects) is not int or subjects < 1 or not isinstance(seconds, int | float):
        raise ConfigError(
            "A hospital's description lacks the number of subjects: it runs another version of "
            "polyclinic."
        )
    return means, subjects, float(seconds)


def send_refined(order: Order, weights: Tensor, number: int, node: int) -> Message:
    """Make a `query.refined`: the model that was made for this hospital, with its number."""
    config = order_to_config(order)
    config["number"] = number
    content = RecordDict({ARRAYS: weights_to_record(weights), CONFIG: config})
    return make_message(content, node, "query.refined", ttl=LONG_S)


def read_refined(message: Message) -> tuple[Order, int]:
    """Return order and number of a `query.refined`.

    Its weights are read by `records.weights_from_message`.

    Raises:
        ConfigError: A field has the wrong type.
    """
    number = config_of(message).get("number", 0)
    if type(number) is not int or not 0 <= number < 2**31:
        raise ConfigError(
            "The refined model has no number: the coordinator runs another version of polyclinic."
        )
    return order_from_message(message), number
