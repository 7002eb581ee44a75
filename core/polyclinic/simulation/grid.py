"""Flower's grid in memory: a hospital is a function, and nothing is started.

Hospitals answer one after another, in the order in which they were asked, when their answers are
pulled: so one answer is in memory at a time, and the same questions give the same sequence.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid

from polyclinic.federation.envelope import identified, make_message
from polyclinic.system import clock

UNAVAILABLE = 1
LOOK_S = 0.05  # between two pulls, where somebody waits for all answers
Answer = Callable[[Message], Message | None]  # None: it does not answer yet


@dataclass
class MemoryNode:
    """A hospital as the grid sees it.

    Attributes:
        node_id: Number of the node; messages are addressed to it.
        answer: Called with a message; returns the reply.
        name: Hospital whose key the node would show; empty without keys.
        online_until: Seconds since 1970 at which it is offline unless it is heard of.
        last_activated_at: Changes whenever it comes back.
    """

    node_id: int
    answer: Answer
    name: str = ""
    online_until: float = math.inf
    last_activated_at: str = "first"

    def leave(self) -> None:
        """Go offline."""
        self.online_until = 0.0

    def come_back(self) -> None:
        """Come online again; what it was asked before is forgotten."""
        self.online_until, self.last_activated_at = math.inf, f"{self.last_activated_at}+"


class MemoryGrid(Grid):
    """Flower's interface to hospitals that are functions.

    Pulling the answer of a hospital that is offline destroys the message, as in Flower's own grid.

    Args:
        nodes: The hospitals.
        at_once: Number of hospitals that answer in one pull; 0: all that are asked for.
    """

    def __init__(self, nodes: Iterable[MemoryNode], at_once: int = 0) -> None:
        self.nodes = {node.node_id: node for node in nodes}
        self._at_once = at_once
        self._out: dict[str, Message] = {}
        self._numbers = itertools.count()
        self._run: Any = None

    def set_run(self, run: Any) -> None:
        """Part of Flower's interface."""
        self._run = run

    @property
    def run(self) -> Any:
        """Part of Flower's interface."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Part of Flower's interface."""
        return make_message(content, dst_node_id, message_type, ttl=ttl, group=group_id)

    def get_nodes(self) -> list[MemoryNode]:  # type: ignore[override]
        """List the hospitals that are online."""
        return [node for node in self.nodes.values() if node.online_until > time.time()]

    def get_node_ids(self) -> list[int]:
        """List their numbers."""
        return [node.node_id for node in self.get_nodes()]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Keep messages until their answers are pulled; returns an identifier for each."""
        identifiers = []
        for message in messages:
            identifier = f"message-{next(self._numbers)}"
            self._out[identifier] = identified(message, identifier)
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Let hospitals answer, in the order of the identifiers."""
        replies: list[Message] = []
        for identifier in list(message_ids):
            if self._at_once and len(replies) == self._at_once:
                break
            message = self._out.get(identifier)
            reply = None if message is None else self._answer(message)
            if reply is not None:
                del self._out[identifier]
                replies.append(reply)
        return replies

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Push messages and wait for their answers."""
        waiting, start = set(self.push_messages(messages)), clock.monotonic()
        replies: list[Message] = []
        while waiting and (timeout is None or clock.monotonic() - start <= timeout):
            found = self.pull_messages(sorted(waiting))
            waiting -= {reply.metadata.reply_to_message_id for reply in found}
            replies += found
            if not found:
                clock.sleep(LOOK_S)
        return replies

    def _answer(self, message: Message) -> Message | None:
        node = self.nodes[message.metadata.dst_node_id]
        if node.online_until <= time.time():
            return Message(Error(UNAVAILABLE, "Error: Node Unavailable"), reply_to=message)
        return node.answer(message)
