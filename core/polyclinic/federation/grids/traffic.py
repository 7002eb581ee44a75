"""Count of the bytes that cross the wire, by node and by type of message."""

from collections import Counter
from collections.abc import Iterable, Mapping

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from polyclinic.federation.envelope import array_bytes
from polyclinic.federation.grids.passing import PassingGrid

Count = Mapping[int, Mapping[str, int]]  # node -> type of message -> bytes


class CountingGrid(PassingGrid):
    """Flower's Grid, with a count of the bytes in every message.

    Names, numbers and weights count; Flower's metadata does not.

    Args:
        grid: Flower's grid.
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        self._bytes: dict[int, Counter[str]] = {}
        self._sent: Counter[int] = Counter()
        self._received: Counter[int] = Counter()

    def total(self) -> Count:
        """Return the bytes so far, both ways together, by node and by type of message."""
        return {node: dict(found) for node, found in self._bytes.items()}

    def both_ways(self) -> dict[int, tuple[int, int]]:
        """Return the bytes so far by node: sent to it, and received from it."""
        return {node: (self._sent[node], self._received[node]) for node in self._bytes}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages and count their bytes."""
        sent = list(messages)
        for message in sent:
            self._count(message.metadata.dst_node_id, message, self._sent)
        return self._grid.push_messages(sent)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Receive replies and count their bytes."""
        received = list(self._grid.pull_messages(message_ids))
        for message in received:
            self._count(message.metadata.src_node_id, message, self._received)
        return received

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages, wait for the replies, and count the bytes of both."""
        sent = list(messages)
        for message in sent:
            self._count(message.metadata.dst_node_id, message, self._sent)
        received = list(self._grid.send_and_receive(sent, timeout=timeout))
        for message in received:
            self._count(message.metadata.src_node_id, message, self._received)
        return received

    def _count(self, node: int, message: Message, way: Counter[int]) -> None:
        size = size_of(message.content) if message.has_content() else 0
        way[node] += size
        self._bytes.setdefault(node, Counter())[message.metadata.message_type] += size


def size_of(content: RecordDict) -> int:
    """Return the number of bytes in a message's content."""
    arrays = sum(
        array_bytes(array) for record in content.array_records.values() for array in record.values()
    )
    configs = sum(
        _size(key) + _size(value)
        for record in content.config_records.values()
        for key, value in record.items()
    )
    metrics = sum(
        _size(key) + _size(value)
        for record in content.metric_records.values()
        for key, value in record.items()
    )
    return arrays + configs + metrics


def _size(value: object) -> int:
    if isinstance(value, bytes | str):
        return len(value.encode() if isinstance(value, str) else value)
    return sum(_size(item) for item in value) if isinstance(value, list) else 8
