"""What coordinator and hospital say to each other about descriptions and refined models, as Flower's messages."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from pydantic import ValidationError
from torch import Tensor

from polyclinic.config.release import Release
from polyclinic.errors import ConfigError
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
from polyclinic_strategies.merging.messages import LONG_S, Assignment

MEAN = "mean."
MOST_NUMBERS = 2**20  # in one statistic


def ask_for_description(
    assignment: Assignment, names: Sequence[str], weights: Tensor | None, node: int
) -> Message:
    """`query.describe`: the base travels along only if one of the statistics is made of its features."""
    config = order_to_config(assignment.order)
    config["base"], config["statistics"] = assignment.base, list(names)
    config["min-subjects"], config["noise-multiplier"] = (
        assignment.min_subjects,
        assignment.noise_multiplier,
    )
    content = RecordDict({CONFIG: config})
    if weights is not None:
        content[ARRAYS] = weights_to_record(weights)
    return Message(content, dst_node_id=node, message_type="query.describe", ttl=LONG_S)


def read_question(message: Message) -> tuple[Order, tuple[str, ...], Release]:
    """Order, names of statistics, and what may leave, of a `query.describe`.

    Raises:
        ConfigError: Something is missing or of another kind.
    """
    flat: dict[str, Any] = dict(unpack_content(message.content)[CONFIG])
    try:
        names = tuple(str(name) for name in flat["statistics"])
        release = Release(int(flat["min-subjects"]), float(flat["noise-multiplier"]))
    except ValidationError as error:
        raise ConfigError(
            "The coordinator's message asks for an impossible release: it runs another version of polyclinic."
        ) from error
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"The coordinator's message lacks {error}: it runs another version of polyclinic."
        ) from error
    return order_from_message(message), names, release


def has_weights(message: Message) -> bool:
    """Whether the base came along."""
    return ARRAYS in unpack_content(message.content)


def describe_reply(message: Message, means: StateDict, subjects: int, seconds: float) -> Message:
    """A hospital's answer to `query.describe`: float32 numbers as bytes."""
    flat: dict[str, Any] = {
        f"{MEAN}{name}": mean.numpy().astype("<f4").tobytes() for name, mean in means.items()
    }
    return Message(
        RecordDict({CONFIG: ConfigRecord({**flat, "subjects": subjects, "seconds": seconds})}),
        reply_to=message,
    )


def read_description(message: Message, wanted: Sequence[str]) -> tuple[StateDict, int, float]:
    """The means, the number of subjects behind them, and how long that took the hospital.

    Raises:
        ConfigError: A statistic is missing, is no list of finite numbers, or is too long; or nothing says over how many subjects.
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
            raise ConfigError(f"A hospital's {name} holds NaN or Inf.")
    subjects, seconds = flat.get("subjects"), flat.get("seconds", 0.0)
    if type(subjects) is not int or subjects < 1 or not isinstance(seconds, int | float):
        raise ConfigError(
            "A hospital's description does not say over how many subjects: it runs another version of polyclinic."
        )
    return means, subjects, float(seconds)


def send_refined(order: Order, weights: Tensor, number: int, node: int) -> Message:
    """`query.refined`: the model that was made for this hospital."""
    config = order_to_config(order)
    config["number"] = number
    content = RecordDict({ARRAYS: weights_to_record(weights), CONFIG: config})
    return Message(content, dst_node_id=node, message_type="query.refined", ttl=LONG_S)


def read_refined(message: Message) -> tuple[Order, int]:
    """Order and number of a `query.refined`; its weights are read by `records.weights_from_message`."""
    flat: dict[str, Any] = dict(unpack_content(message.content)[CONFIG])
    return order_from_message(message), int(flat.get("number", 0))
