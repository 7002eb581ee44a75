"""A reply whose parts are still on their way holds up nobody."""

from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.app.message.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree

from polyclinic_server.fleet import http_grid
from polyclinic_server.fleet.http_grid import PatientHttpGrid


def reply(question: str) -> Message:
    metadata = Metadata(
        run_id=1, message_id="", src_node_id=2, dst_node_id=1, reply_to_message_id=question, group_id="", created_at=1.0, ttl=60.0,
        message_type="query.hello",
    )  # fmt: skip
    message = make_message(
        metadata=metadata, content=RecordDict({"said": ConfigRecord({"question": question})})
    )
    message.metadata.__dict__["_message_id"] = message.object_id
    return message


class Runtime:
    """Flower's Runtime API: announces replies at once, has their parts when it is told so."""

    def __init__(self, *questions: str) -> None:
        self.replies = {question: reply(question) for question in questions}
        self.parts = {
            question: {
                name: each.deflate() for name, each in get_all_nested_objects(message).items()
            }
            for question, message in self.replies.items()
        }
        self.here: set[str] = set()
        self.lost: set[str] = set()
        self.announced = 0
        self.confirmed: list[str] = []

    def PullMessages(self, request: Any) -> PullAppMessagesResponse:  # noqa: N802  # Flower's names
        self.announced += 1
        chosen = [
            self.replies[question] for question in request.message_ids if question in self.replies
        ]
        return PullAppMessagesResponse(
            messages_list=[
                message_to_proto(remove_content_from_message(message)) for message in chosen
            ],
            message_object_trees=[get_object_tree(message) for message in chosen],
        )

    def PullObject(self, request: Any) -> PullObjectResponse:  # noqa: N802
        for question, parts in self.parts.items():
            if request.object_id in parts and question not in self.lost:
                here = question in self.here
                return PullObjectResponse(
                    object_found=True,
                    object_available=here,
                    object_content=parts[request.object_id] if here else b"",
                )
        return PullObjectResponse(object_found=False)

    def ConfirmMessageReceived(self, request: Any) -> None:  # noqa: N802
        self.confirmed.append(request.message_object_id)


@pytest.fixture
def runtime() -> Runtime:
    return Runtime("slow", "quick")


@pytest.fixture
def grid(runtime: Runtime) -> PatientHttpGrid:
    made = PatientHttpGrid("127.0.0.1:1", insecure=True, token="token")  # nothing is dialled
    made._client = runtime  # type: ignore[assignment]
    made._run = SimpleNamespace(run_id=1)  # type: ignore[assignment]
    return made


def test_who_is_quick_does_not_wait_for_who_is_slow(
    grid: PatientHttpGrid, runtime: Runtime
) -> None:
    runtime.here = {"quick"}
    (heard,) = grid.pull_messages(["slow", "quick"])
    assert heard.metadata.reply_to_message_id == "quick"
    assert heard.content["said"]["question"] == "quick"  # type: ignore[index]
    assert grid.pull_messages(["slow"]) == []
    runtime.here.add("slow")
    (heard,) = grid.pull_messages(["slow"])
    assert heard.content["said"]["question"] == "slow"  # type: ignore[index]
    assert runtime.confirmed == [
        runtime.replies[question].object_id for question in ("quick", "slow")
    ]
    assert grid._arriving == {}


def test_a_reply_that_never_comes_whole_is_an_error(
    grid: PatientHttpGrid, runtime: Runtime
) -> None:
    assert grid.pull_messages(["slow"]) == []
    runtime.lost = {"slow"}
    (heard,) = grid.pull_messages(["slow"])
    assert heard.has_error() and "objects are unavailable" in str(heard.error.reason)
    assert heard.metadata.reply_to_message_id == "slow"


def test_what_nobody_asks_for_any_more_is_forgotten(
    grid: PatientHttpGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid.pull_messages(["slow"])
    assert set(grid._arriving) == {"slow"}
    monkeypatch.setattr(http_grid, "FORGET_S", 0.0)
    grid.pull_messages(["unknown"])
    assert grid._arriving == {}
