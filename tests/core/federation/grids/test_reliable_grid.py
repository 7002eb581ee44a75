"""Exchanges end whatever hospitals do: come late, leave, crash, come back."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict

from polyclinic.config.compose import load_config
from polyclinic.config.schemas import DeploymentConfig
from polyclinic.errors import TooFewHospitals
from polyclinic.federation.attendance import Attendance
from polyclinic.federation.envelope import make_message
from polyclinic.federation.envelope.content import weights_to_record
from polyclinic.federation.events import Event
from polyclinic.federation.grids.reliable_grid import ReliableGrid
from polyclinic.federation.records import Hello, Order, hello_reply, order_to_config, training_reply
from polyclinic.fleet.protocol import WORKER_ENDED
from tests.fakes import FakeGrid, FakeNode, make_error

ORDER = Order("run", "arm", 0, 3, "none", "0", {"model": "unet"})
PATIENT = replace(
    load_config().deployment, min_hospitals=2, wait_s=0.3, round_timeout_s=5.0, grace_s=0.2
)


def trained(message: Message, loss: float) -> Message:
    return training_reply(message, torch.zeros(2), 1, loss, 0.0)


def hospital(
    site: str, work: Callable[[Message], Message | None] | None = None, refusal: str = ""
) -> Callable[[Message], Message | None]:
    """Make a hospital that answers the greeting, and other messages by `work`.

    Without `work` it answers with the length of its name as loss.
    """

    def answer(message: Message) -> Message | None:
        if message.metadata.message_type == "query.hello":
            return hello_reply(message, Hello(site, "0", {"training": 1}, "T1", refusal))
        if work is not None:
            return work(message)
        return trained(message, float(len(site)))

    return answer


class Federation:
    """A ReliableGrid over fake nodes, with all events."""

    def __init__(self, nodes: list[FakeNode], deployment: DeploymentConfig = PATIENT) -> None:
        self.events: list[dict[str, Any]] = []
        self.inner = FakeGrid(nodes)
        self.attendance = Attendance(self.inner, ORDER, self.note)  # type: ignore[arg-type]
        self.grid = ReliableGrid(self.inner, self.attendance, deployment, self.note)  # type: ignore[arg-type]

    def note(self, event: Event) -> None:
        self.events.append(event.to_line())

    def train(self) -> list[Message]:
        config = order_to_config(ORDER)
        config["server-round"] = 1
        content = RecordDict({"arrays": weights_to_record(torch.zeros(2)), "config": config})
        messages = [make_message(content, node, "train") for node in self.grid.get_node_ids()]
        return list(self.grid.send_and_receive(messages))

    def kinds(self, kind: str) -> list[str]:
        return [str(event["site"]) for event in self.events if event["kind"] == kind]


def losses(replies: list[Message]) -> list[float]:
    return [reply.content["metrics"]["loss"] for reply in replies]


def test_everybody_answers_in_the_order_of_their_names_whatever_the_order_of_nodes() -> None:
    federation = Federation(
        [FakeNode(3, hospital("a")), FakeNode(1, hospital("ccc")), FakeNode(2, hospital("bb"))]
    )
    assert losses(federation.train()) == [1.0, 2.0, 3.0]
    assert sorted(federation.kinds("joined")) == ["a", "bb", "ccc"]


def test_too_few_hospitals_end_the_wait_with_their_names() -> None:
    with pytest.raises(TooFewHospitals, match="alone answered within 0 s, the minimum is 2"):
        Federation([FakeNode(1, hospital("alone"))]).train()


def test_a_refused_hospital_does_not_take_part_and_the_reason_is_told() -> None:
    federation = Federation(
        [
            FakeNode(1, hospital("a")),
            FakeNode(2, hospital("b")),
            FakeNode(3, hospital("c", refusal="other labels")),
        ]
    )
    assert len(federation.train()) == 2
    assert federation.attendance.refused == {"c": "other labels"}
    assert federation.kinds("refused") == ["c"]


def test_a_round_ends_without_a_hospital_that_left_and_says_who_is_missing() -> None:
    nodes = [FakeNode(1, hospital("a")), FakeNode(2, hospital("b"))]

    def leave(message: Message) -> None:
        nodes[2].leave()

    nodes.append(FakeNode(3, hospital("gone", leave)))
    federation = Federation(nodes)
    replies = federation.train()
    assert losses(replies) == [1.0, 1.0]
    assert federation.kinds("missing") == ["gone"]
    assert federation.kinds("left") == ["gone"]


def test_a_hospital_that_comes_back_as_the_same_node_is_asked_again() -> None:
    nodes = [FakeNode(1, hospital("a"))]
    forgotten: list[Message] = []

    def forget_the_first(message: Message) -> Message | None:
        if not forgotten:
            forgotten.append(message)
            nodes[1].leave()
            nodes[1].come_back()
        if message is forgotten[0]:
            return None
        return trained(message, 9.0)

    nodes.append(FakeNode(2, hospital("returning", forget_the_first)))
    federation = Federation(nodes)
    assert losses(federation.train()) == [1.0, 9.0]
    again = [event for event in federation.events if event["kind"] == "asked" and event["again"]]
    assert again and {event["site"] for event in again} == {"returning"}


def test_a_hospital_that_comes_back_as_another_node_is_asked_there() -> None:
    inner: list[FakeGrid] = []

    def crash(message: Message) -> None:
        inner[0].nodes[9] = FakeNode(9, hospital("phoenix"))

    federation = Federation([FakeNode(1, hospital("a")), FakeNode(2, hospital("phoenix", crash))])
    inner.append(federation.inner)
    assert losses(federation.train()) == [1.0, 7.0]
    assert federation.kinds("returned") == ["phoenix"]
    trained = [
        message.metadata.dst_node_id
        for message in federation.inner.pushed
        if message.metadata.message_type == "train"
    ]
    assert trained == [1, 2, 9]


@pytest.mark.parametrize(
    "reason", [f"{WORKER_ENDED} with status -9", "Error: ClientApp stopped responding"]
)
def test_a_hospital_whose_process_died_is_asked_three_times_at_most(reason: str) -> None:
    def die(message: Message) -> Message:
        return make_error(message, reason)

    federation = Federation(
        [FakeNode(1, hospital("a")), FakeNode(2, hospital("b")), FakeNode(3, hospital("sick", die))]
    )
    assert len(federation.train()) == 2
    assert federation.kinds("asked").count("sick") == 3
    assert federation.kinds("failed") == ["sick"]


def test_a_hospital_that_raises_is_not_asked_again() -> None:
    def fail(message: Message) -> Message:
        return make_error(message, "ImageInvalid")

    federation = Federation(
        [
            FakeNode(1, hospital("a")),
            FakeNode(2, hospital("b")),
            FakeNode(3, hospital("sick", fail)),
        ]
    )
    assert len(federation.train()) == 2
    assert federation.kinds("asked").count("sick") == 1


def test_a_round_in_which_too_few_answer_ends_the_run_with_names_and_reasons() -> None:
    def fail(message: Message) -> Message:
        return make_error(message, "ImageInvalid")

    federation = Federation([FakeNode(1, hospital("a")), FakeNode(2, hospital("b", fail))])
    with pytest.raises(
        TooFewHospitals, match=r"In train: a answered.*minimum is 2.*b \(ImageInvalid\)"
    ):
        federation.train()


def test_a_silent_hospital_ends_with_the_time_out() -> None:
    deployment = replace(PATIENT, round_timeout_s=0.5)
    federation = Federation(
        [
            FakeNode(1, hospital("a")),
            FakeNode(2, hospital("b")),
            FakeNode(3, hospital("mute", lambda message: None)),
        ],
        deployment,
    )
    start = time.monotonic()
    assert len(federation.train()) == 2
    assert time.monotonic() - start < 3
    assert federation.kinds("missing") == ["mute"]


def test_a_latecomer_joins_the_next_round() -> None:
    federation = Federation([FakeNode(1, hospital("a")), FakeNode(2, hospital("b"))])
    assert len(federation.train()) == 2
    federation.inner.nodes[3] = FakeNode(3, hospital("late"))
    federation.attendance.refresh()
    assert losses(federation.train()) == [1.0, 1.0, 4.0]


def test_a_node_that_says_nothing_sensible_is_refused_not_fatal() -> None:
    def mumble(message: Message) -> Message:
        return make_error(message, "TypeError")

    federation = Federation(
        [FakeNode(1, hospital("a")), FakeNode(2, hospital("b")), FakeNode(3, mumble)]
    )
    assert len(federation.train()) == 2
    assert federation.attendance.refused == {"node 3": "TypeError"}


def test_an_offline_node_is_never_polled() -> None:
    polled: list[str] = []

    def leave(message: Message) -> None:
        polled.append(message.metadata.message_type)
        federation.inner.nodes[3].leave()

    federation = Federation(
        [
            FakeNode(1, hospital("a")),
            FakeNode(2, hospital("b")),
            FakeNode(3, hospital("gone", leave)),
        ]
    )
    federation.train()
    assert polled == ["train"]


def test_config_records_stay_flat() -> None:
    assert isinstance(order_to_config(ORDER), ConfigRecord)
