"""Hospitals in memory, for tests: a simulation's grid that keeps what was sent."""

from collections.abc import Iterable
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from polyclinic.simulation.grid import Answer, MemoryGrid
from polyclinic.simulation.grid import MemoryNode as FakeNode

__all__ = ["Answer", "FakeGrid", "FakeNode", "make_error", "make_reply", "serve"]


class FakeGrid(MemoryGrid):
    """Keeps every message that was pushed."""

    def __init__(self, nodes: Iterable[FakeNode]) -> None:
        super().__init__(nodes)
        self.pushed: list[Message] = []

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        sent = list(messages)
        self.pushed += sent
        return super().push_messages(sent)


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
