"""In-memory twins of Flower's Grid: a hospital is a function, and no process is started."""

import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity

TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
Answer = Callable[[Message], Message | None]  # None: the hospital does not answer


@dataclass
class FakeNode:
    """A SuperNode as the grid sees it."""

    node_id: int
    answer: Answer
    online_until: float = field(default_factory=lambda: time.time() + 3600)
    last_activated_at: str = "first"
    name: str = ""

    def leave(self) -> None:
        self.online_until = 0.0

    def come_back(self) -> None:
        self.online_until, self.last_activated_at = time.time() + 3600, f"{self.last_activated_at}+"


class FakeGrid:
    """Flower's Grid in memory.

    As with the real one, asking for the reply of an offline node destroys the message.
    """

    def __init__(self, nodes: Iterable[FakeNode]) -> None:
        self.nodes = {node.node_id: node for node in nodes}
        self.pushed: list[Message] = []
        self._out: dict[str, Message] = {}
        self._counter = itertools.count()
        self.run: Any = None

    def set_run(self, run: Any) -> None:
        self.run = run

    def get_nodes(self) -> list[FakeNode]:
        return [node for node in self.nodes.values() if node.online_until > time.time()]

    def get_node_ids(self) -> list[int]:
        return [node.node_id for node in self.get_nodes()]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        identifiers = []
        for message in messages:
            identifier = f"message-{next(self._counter)}"
            message.metadata.__dict__["_message_id"] = identifier
            self._out[identifier] = message
            self.pushed.append(message)
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        replies = []
        for identifier in list(message_ids):
            message = self._out.get(identifier)
            if message is None:
                continue
            node = self.nodes[message.metadata.dst_node_id]
            if node.online_until <= time.time():
                reply: Message | None = Message(
                    Error(1, "Error: Node Unavailable"), reply_to=message
                )
            else:
                reply = node.answer(message)
            if reply is not None:
                del self._out[identifier]
                replies.append(reply)
        return replies


def make_reply(message: Message, content: dict[str, Any]) -> Message:
    """Make a reply with these records."""
    return Message(RecordDict(content), reply_to=message)


def make_error(message: Message, reason: str) -> Message:
    """Make a reply that says what went wrong."""
    return Message(Error(2, reason), reply_to=message)


def serve(app: ClientApp, node_config: dict[str, Any]) -> Answer:
    """Make a hospital that runs a ClientApp in this process."""

    def answer(message: Message) -> Message:
        context = Context(
            run_id=1,
            node_id=message.metadata.dst_node_id,
            node_config=node_config,
            state=RecordDict(),
            run_config={},
        )
        return app(message=message, context=context)

    return answer
