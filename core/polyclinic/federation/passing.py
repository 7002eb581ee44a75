"""A Grid that passes everything on to another: what wraps Flower's overrides the few methods it changes."""

from collections.abc import Iterable
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid


class PassingGrid(Grid):
    """Flower's interface, passed on.

    Args:
        grid: The one behind it.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def set_run(self, run: Any) -> None:
        """Part of Flower's interface."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """Part of Flower's interface."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Part of Flower's interface."""
        return Message(
            content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl
        )

    def get_nodes(self) -> Iterable[Any]:
        """Part of Flower's interface."""
        return self._grid.get_nodes()

    def get_node_ids(self) -> Iterable[int]:
        """Part of Flower's interface."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Part of Flower's interface."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Part of Flower's interface."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Part of Flower's interface."""
        return self._grid.send_and_receive(messages, timeout=timeout)
