"""Messages about descriptions and refined models: unchanged on arrival, or refused in one line."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from pydantic import ValidationError

from polyclinic.config.release import Release
from polyclinic.errors import AnswerRefused, ConfigError
from polyclinic.federation.envelope import make_message
from polyclinic.federation.envelope.content import CONFIG, pack_content, weights_from_message
from polyclinic.federation.records import Order
from polyclinic_strategies.merging.messages import Assignment
from polyclinic_strategies.refinement.messages import (
    MOST_NUMBERS,
    ask_for_description,
    describe_reply,
    has_weights,
    read_description,
    read_question,
    read_refined,
    send_refined,
)
from tests.fakes import make_reply

ORDER = Order(
    "run",
    "refinement",
    7,
    2,
    "none",
    "0.1.0",
    {"model": "unet_2d"},
    {"training.epochs": 2},
    {"model": "d" * 64},
)
ASSIGNMENT = Assignment(ORDER, "b" * 64, "segmentation", "c" * 64, (), 5, 0.25)
NAMES = ["average_image", "histogram"]


def received(message: Message) -> Message:
    """As the hospital gets it: small messages travel packed, and have an id."""
    message.content = pack_content(message.content)
    message.metadata.__dict__["_message_id"] = "1"
    return message


def question() -> Message:
    return received(ask_for_description(ASSIGNMENT, NAMES, None, 3))


# questions


# small weights are packed, large ones not
@pytest.mark.parametrize("weights", [None, torch.arange(5.0), torch.zeros(2 * 2**20)])
def test_a_question_arrives_with_names_release_and_the_base_if_it_is_needed(
    weights: torch.Tensor | None,
) -> None:
    message = received(ask_for_description(ASSIGNMENT, NAMES, weights, 3))
    assert (message.metadata.dst_node_id, message.metadata.message_type) == (3, "query.describe")
    assert read_question(message) == (ORDER, tuple(NAMES), Release(5, 0.25), False)
    wanted = ask_for_description(replace(ASSIGNMENT, variances=True), NAMES, weights, 3)
    assert read_question(received(wanted)).variances
    assert has_weights(message) == (weights is not None)
    if weights is not None:
        assert torch.equal(weights_from_message(message), weights)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("min-subjects", 0),
        ("min-subjects", -3),
        ("min-subjects", "few"),
        ("min-subjects", math.inf),
        ("min-subjects", None),
        ("noise-multiplier", -1.0),
        ("noise-multiplier", math.nan),
        ("noise-multiplier", "loud"),
        ("noise-multiplier", None),
        ("statistics", 3),
        ("statistics", None),
        ("seed", None),
    ],
)
def test_an_impossible_question_is_a_wrong_setting_in_one_line(key: str, value: object) -> None:
    flat: dict[str, Any] = dict(question().content[CONFIG])
    del flat[key]
    if value is not None:
        flat[key] = value
    content = RecordDict({CONFIG: ConfigRecord(flat)})
    message = make_message(content, 3, "query.describe")
    with pytest.raises(ConfigError, match="another version of polyclinic") as caught:
        read_question(message)
    assert "\n" not in str(caught.value) and "http" not in str(caught.value)


# descriptions


def described(**changes: object) -> Message:
    means = {"average_image": torch.tensor([0.5, -0.25, 1e-7]), "histogram": torch.ones(1)}
    reply = describe_reply(question(), means, 4, 1.5)
    flat: dict[str, Any] = dict(reply.content[CONFIG])
    flat |= {key.replace("_of_", "."): value for key, value in changes.items()}
    kept = {key: value for key, value in flat.items() if value is not None}
    return make_reply(question(), {CONFIG: ConfigRecord(kept)})


def test_a_description_arrives_bit_for_bit() -> None:
    means, subjects, seconds = read_description(described(), NAMES)
    assert torch.equal(means["average_image"], torch.tensor([0.5, -0.25, 1e-7]))
    assert torch.equal(means["histogram"], torch.ones(1))
    assert means["average_image"].dtype == torch.float32
    assert (subjects, seconds) == (4, 1.5)
    asked, _, _ = read_description(described(), NAMES[:1])
    assert set(asked) == {"average_image"}  # nothing that was not asked for


def test_a_question_of_0_1_0_asks_for_no_variances() -> None:
    flat: dict[str, Any] = dict(question().content[CONFIG])
    del flat["variances"]
    message = make_message(RecordDict({CONFIG: ConfigRecord(flat)}), 3, "query.describe")
    assert not read_question(message).variances


def test_a_variance_arrives_with_its_mean_and_is_not_missed() -> None:
    sent = described(mean_of_average_image_of_variance=np.float32(0.25).tobytes())
    means, _, _ = read_description(sent, NAMES)
    assert means["average_image.variance"].tolist() == [0.25]
    assert "histogram.variance" not in means


@pytest.mark.parametrize("numbers", [[-0.1], [1.5], [math.nan], [0.1, 0.1]])
def test_an_impossible_variance_is_refused(numbers: list[float]) -> None:
    data = np.asarray(numbers, dtype="<f4").tobytes()
    with pytest.raises(AnswerRefused, match="variance"):
        read_description(described(mean_of_average_image_of_variance=data), NAMES)


@pytest.mark.parametrize(
    "data", [None, b"", b"12345", b"123", "text", 7, [1, 2], bytes(4 * MOST_NUMBERS + 4)]
)
def test_a_description_that_is_no_list_of_numbers_is_refused(data: object) -> None:
    with pytest.raises(AnswerRefused, match="average_image"):
        read_description(described(mean_of_average_image=data), NAMES)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_description_that_is_not_finite_is_refused(number: float) -> None:
    data = torch.tensor([1.0, number]).numpy().tobytes()
    with pytest.raises(AnswerRefused, match="histogram contains NaN or Inf"):
        read_description(described(mean_of_histogram=data), NAMES)


def test_a_mean_that_is_longer_than_means_are_is_refused() -> None:
    with pytest.raises(AnswerRefused, match="histogram is 3e"):
        read_description(described(mean_of_histogram=torch.tensor([3e38]).numpy().tobytes()), NAMES)


@pytest.mark.parametrize(
    "changes",
    [
        {"subjects": None},
        {"subjects": "four"},
        {"subjects": 0},
        {"subjects": 2.5},
        {"subjects": 2**62},
        {"seconds": "long"},
    ],
)
def test_a_description_over_nobody_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(changes))):
        read_description(described(**changes), NAMES)


def test_an_answer_without_anything_is_refused() -> None:
    with pytest.raises(AnswerRefused, match="config"):
        read_description(make_reply(question(), {}), NAMES)


# refined models


@pytest.mark.parametrize("count", [5, 2 * 2**20])
def test_a_refined_model_arrives_with_its_number(count: int) -> None:
    weights = torch.arange(count, dtype=torch.float32)
    message = received(send_refined(replace(ORDER, arm="refinement"), weights, 12, 4))
    assert (message.metadata.dst_node_id, message.metadata.message_type) == (4, "query.refined")
    assert read_refined(message) == (ORDER, 12)
    assert torch.equal(weights_from_message(message), weights)
