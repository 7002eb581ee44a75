"""Flower's grid, but a reply whose parts are still arriving holds up nobody: it is kept until all of it is there.

Flower announces a reply before its parts have arrived, and its own grid then waits for the last of them. The coordinator's loop has one
thread, so one hospital on a slow link would stop everybody: at 30 % packet loss nothing happened for 223 s while two finished
contributions waited.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from flwr.app import Error, Message, Metadata
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.supercore.constant import SYSTEM_MESSAGE_TYPE
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectUnavailableError,
    inflate_object_from_contents,
)
from flwr.supercore.run import Run
from flwr.superlink.grid.http_grid import HttpGrid

FORGET_S = 3600.0  # a reply that nobody has asked for so long


@dataclass
class Arriving:
    """A reply that has been announced, and what has come of it."""

    identifier: str
    parts: list[str]
    asked: float  # when somebody last wanted it
    contents: dict[str, bytes] = field(default_factory=dict)


class PatientHttpGrid(HttpGrid):
    """Looks at what has arrived and never waits for the rest, so that a hospital on a slow link delays itself alone."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._arriving: dict[str, Arriving] = {}  # by the question that they answer

    @property
    def _run_id(self) -> int:
        return cast(Run, self._run).run_id

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies that are here as a whole."""
        asked, moment = list(dict.fromkeys(message_ids)), time.monotonic()
        new = [identifier for identifier in asked if identifier not in self._arriving]
        if new:
            answer = self._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=new))
            for proto, tree in zip(answer.messages_list, answer.message_object_trees, strict=True):
                parts = [part.object_id for part in iterate_object_tree(tree)]
                self._arriving[proto.metadata.reply_to_message_id] = Arriving(
                    proto.metadata.message_id, parts, moment
                )
        for identifier in set(asked) & self._arriving.keys():
            self._arriving[identifier].asked = moment
        self._arriving = {
            key: reply for key, reply in self._arriving.items() if moment - reply.asked < FORGET_S
        }
        heard = (self._receive(identifier) for identifier in asked if identifier in self._arriving)
        return [reply for reply in heard if reply is not None]

    def _receive(self, question: str) -> Message | None:
        """One reply, if its last part has arrived; an error if it never will."""
        reply = self._arriving[question]
        pull = make_pull_object_fn_protobuf(
            self._runtime_client.PullObject, self.node, self._run_id
        )
        try:
            for part in reply.parts:
                if part not in reply.contents:
                    reply.contents[part] = pull(part)
        except ObjectUnavailableError:
            return None
        except ObjectPullError as error:
            del self._arriving[question]
            return self._lost(question, error)
        del self._arriving[question]
        confirmed = ConfirmMessageReceivedRequest(
            node=self.node, run_id=self._run_id, message_object_id=reply.identifier
        )
        self._runtime_client.ConfirmMessageReceived(confirmed)
        message = cast(Message, inflate_object_from_contents(reply.identifier, reply.contents))
        message.metadata.__dict__["_message_id"] = reply.identifier
        return message

    def _lost(self, question: str, error: ObjectPullError) -> Message:
        """What Flower says of a reply that stopped half-way."""
        metadata = Metadata(
            run_id=self._run_id, message_id="", src_node_id=self.node.node_id, dst_node_id=self.node.node_id,
            message_type=SYSTEM_MESSAGE_TYPE, group_id="", ttl=0, reply_to_message_id=question, created_at=now().timestamp(),
        )  # fmt: skip
        reason = f"Reply message objects are unavailable. {error}"
        return make_message(
            metadata=metadata, error=Error(code=ErrorCode.MESSAGE_UNAVAILABLE, reason=reason)
        )
