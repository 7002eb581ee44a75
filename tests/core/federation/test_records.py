"""The message codec: what is packed comes out unchanged, and anything else is refused."""

import math
from dataclasses import replace

import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict

from polyclinic.errors import ConfigError
from polyclinic.federation.answers import read_figures, read_hello
from polyclinic.federation.envelope import make_message
from polyclinic.federation.envelope.content import (
    INLINE_BYTES,
    pack_content,
    unpack_content,
    unpack_message,
    weights_from_message,
    weights_to_record,
)
from polyclinic.federation.records import (
    Hello,
    Order,
    PatientTerms,
    evaluation_reply,
    greeting,
    hello_reply,
    order_from_message,
    order_to_config,
    round_of,
    training_reply,
)
from polyclinic.learning.metrics import Evaluation

ORDER = Order(
    "run-1",
    "fedavg",
    7,
    5,
    "norm",
    "0.1.0",
    {"model": "unet"},
    {"data.patch": [8, 8], "training.epochs": 2},
    {"model": "ab"},
    offset=2,
)


def asking(config: ConfigRecord, parameters: int = 4) -> Message:
    content = RecordDict(
        {"arrays": weights_to_record(torch.arange(float(parameters))), "config": config}
    )
    return make_message(content, 1, "train")


def test_an_order_survives_the_journey_with_what_the_strategy_added() -> None:
    config = order_to_config(ORDER)
    config["server-round"], config["proximal-mu"] = 1, 0.5
    received = order_from_message(asking(config))
    assert (received.run, received.arm, received.seed, received.personal) == (
        "run-1",
        "fedavg",
        7,
        "norm",
    )
    assert received.settings == {"data.patch": [8, 8], "training.epochs": 2}
    assert (received.round, received.offset, received.proximal_mu) == (3, 2, 0.5)


def test_what_an_order_says_of_patients_travels_and_is_bounded() -> None:
    terms = PatientTerms(8.0, 1e-5, 0.5)
    config = order_to_config(replace(ORDER, patients=terms))
    assert order_from_message(asking(config)).patients == terms
    assert order_from_message(asking(order_to_config(ORDER))).patients is None
    for key, value in (("epsilon", 0.0), ("delta", 1.0), ("clipping-norm", 1e-30)):
        changed = {**config, key: value}
        with pytest.raises(ConfigError, match="patients"):
            order_from_message(asking(ConfigRecord(changed)))
    del config["delta"]
    with pytest.raises(ConfigError, match="missing"):
        order_from_message(asking(config))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run", "../../etc"),
        ("arm", "a/b"),
        ("run", ".hidden"),
        ("seed", "x"),
        ("version", "v" * 500),
    ],
)
def test_names_that_lead_elsewhere_are_refused(key: str, value: str) -> None:
    config = order_to_config(ORDER)
    config[key] = value
    with pytest.raises(ConfigError, match="another version"):
        order_from_message(asking(config))


def test_an_order_that_lacks_something_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"order\.run is missing"):
        order_from_message(asking(ConfigRecord({"arm": "a"})))


@pytest.mark.parametrize("parameters", [0, 5, INLINE_BYTES // 4 + 1])
def test_weights_survive_packed_or_not(parameters: int) -> None:
    message = asking(order_to_config(ORDER), parameters)
    before = weights_from_message(message)
    message.content = pack_content(message.content)
    assert ("packed" in message.content) == (4 * parameters <= INLINE_BYTES)
    assert torch.equal(weights_from_message(message), before)
    assert order_from_message(message).run == "run-1"
    assert set(unpack_content(message.content)) == {"arrays", "config"}


@pytest.mark.parametrize(
    "flat", [{"a": 1}, {"=config": b"123"}, {"=config": "text"}, {"=config": b"", "=metrics": b""}]
)
def test_a_packed_message_without_weights_is_refused(flat: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="no weights"):
        unpack_content(RecordDict({"packed": ConfigRecord(flat)}))  # type: ignore[arg-type]


def test_replies_carry_figures() -> None:
    message = asking(order_to_config(ORDER))
    trained = unpack_message(training_reply(message, torch.ones(3), 4, 0.5, 1.5))
    assert read_figures(trained).told() == {"num_examples": 4, "loss": 0.5, "seconds": 1.5}
    assert torch.equal(weights_from_message(trained), torch.ones(3))
    evaluated = read_figures(
        evaluation_reply(message, Evaluation(None, {"CSF": 0.5, "bone": math.nan}, 0.5, 2), 0.1)
    )
    assert (evaluated.scores, evaluated.loss) == ({"CSF": 0.5}, None)


def test_a_hospital_introduces_itself() -> None:
    hello = Hello("st-mary", "0.1.0", {"training": 3, "test": 1}, "T1", "")
    for task in ("", "segmentation, 2 classes, 1 channel, 3-D"):
        said = replace(hello, task=task)
        assert read_hello(hello_reply(greeting(ORDER, 1, 60.0), said)) == said


def test_rounds_are_counted_over_all_attempts() -> None:
    config = order_to_config(ORDER)
    assert round_of(asking(config)) == 0
    config["server-round"] = 2
    assert round_of(asking(config)) == 4
