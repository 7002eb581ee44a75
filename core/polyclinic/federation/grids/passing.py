"""A Grid that passes every call on to another Grid.

Classes that wrap Flower's Grid inherit from it and override the methods that they change.
"""

from collections.abc import Iterable
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from polyclinic.federation.news import pause, tells_news


class PassingGrid(Grid):
    """Flower's Grid interface in front of another Grid.

    Args:
        grid: Grid that gets the calls.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def set_run(self, run: Any) -> None:
        """Pass on the run."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """Flower's run of the inner grid."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    @property
    def tells_news(self) -> bool:
        """Whether the inner grid tells news by itself."""
        return tells_news(self._grid)

    def wait_for_news(self, timeout_s: float) -> None:
        """Wait until the inner grid has news, or for this number of seconds."""
        pause(self._grid, timeout_s)

    def get_nodes(self) -> Iterable[Any]:
        """Return the nodes that are online."""
        return self._grid.get_nodes()

    def get_node_ids(self) -> Iterable[int]:
        """Return the identifiers of the nodes that are online."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages, and return their identifiers."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that have arrived to these messages."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages, and wait for the replies."""
        return self._grid.send_and_receive(messages, timeout=timeout)
