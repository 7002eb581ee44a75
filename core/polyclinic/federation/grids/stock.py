"""The grid that `flwr run` gives, as polyclinic expects a grid to be."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from flwr.app import Message

from polyclinic.federation.grids.passing import PassingGrid


@dataclass(frozen=True)
class StockNode:
    """A SuperNode that is online.

    Attributes:
        node_id: Flower's identifier.
        online_until: End of its lease, in seconds since 1970.
        last_activated_at: Time at which it last came online.
        name: What the SuperLink's operator registered it as; empty if that is not known.
    """

    node_id: int
    online_until: float
    last_activated_at: str
    name: str


class StockGrid(PassingGrid):
    """Flower's own grid: each message is made by it, and nodes may be numbers alone.

    Args:
        grid: The grid of a ServerApp.
    """

    def get_nodes(self) -> Iterable[StockNode]:  # type: ignore[override]
        """Return the nodes that are online.

        What a grid does not tell of a node, which then has but a number, is assumed: that it stays.
        """
        return [_known(node) for node in self._grid.get_nodes()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages, each with the run's number and the sender's."""
        return self._grid.push_messages([self._made(message) for message in messages])

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages, each with the run's number and the sender's; wait for the replies."""
        made = [self._made(message) for message in messages]
        return self._grid.send_and_receive(made, timeout=timeout)

    def _made(self, message: Message) -> Message:
        sent = message.metadata
        return self._grid.create_message(
            message.content, sent.message_type, sent.dst_node_id, sent.group_id, sent.ttl
        )


def _known(node: Any) -> StockNode:
    return StockNode(
        int(node.node_id),
        float(getattr(node, "online_until", 0.0) or math.inf),
        str(getattr(node, "last_activated_at", "")),
        str(getattr(node, "name", "")),
    )
