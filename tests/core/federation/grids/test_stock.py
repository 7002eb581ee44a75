"""A grid as Flower makes it: it tells less of its nodes, and makes its messages itself."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from flwr.app import Message, Metadata, RecordDict

from polyclinic.federation.attendance import Attendance
from polyclinic.federation.envelope import make_message, wrap
from polyclinic.federation.events import Event
from polyclinic.federation.grids.stock import StockGrid
from polyclinic.federation.grids.traffic import CountingGrid
from polyclinic.federation.records import Hello, Order, hello_reply
from polyclinic.simulation.grid import MemoryGrid, MemoryNode

RUN, SENDER = 77, 99
ORDER = Order("run", "arm", 0, 3, "none", "0", {"model": "unet"})


class FlowersGrid(MemoryGrid):
    """Refuses messages that it did not make, as Flower's does."""

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        made = super().create_message(content, message_type, dst_node_id, group_id, ttl)
        sent = made.metadata
        return wrap(
            content,
            Metadata(
                RUN, "", SENDER, dst_node_id, "", group_id, sent.created_at, sent.ttl, message_type
            ),
        )

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        sent = list(messages)
        assert all(each.metadata.run_id == RUN for each in sent)
        assert all(each.metadata.src_node_id == SENDER for each in sent)
        return super().push_messages(sent)


class NumbersGrid(FlowersGrid):
    """Tells only the nodes' numbers."""

    def get_nodes(self) -> Any:
        return [SimpleNamespace(node_id=number, online_until=0.0) for number in self.nodes]


def hospital(message: Message) -> Message:
    return hello_reply(message, Hello("st-mary", "0", {"training": 1}))


def members(grid: MemoryGrid) -> set[str]:
    said: list[Event] = []
    attendance = Attendance(CountingGrid(StockGrid(grid)), ORDER, said.append)
    attendance.refresh()
    return set(attendance.refresh())


def test_hospitals_join_by_numbers_alone() -> None:
    assert members(NumbersGrid([MemoryNode(5, hospital)])) == {"st-mary"}


def test_a_node_that_is_registered_by_name_has_to_use_it() -> None:
    assert members(FlowersGrid([MemoryNode(5, hospital, name="st-mary")])) == {"st-mary"}
    assert members(FlowersGrid([MemoryNode(5, hospital, name="st-john")])) == set()


def test_messages_keep_what_they_say() -> None:
    inner = FlowersGrid([MemoryNode(5, lambda message: Message(RecordDict(), reply_to=message))])
    message = make_message(RecordDict(), 5, "query.collect", ttl=9.0, group="g")
    (reply,) = StockGrid(inner).send_and_receive([message])

    assert (reply.metadata.message_type, reply.metadata.group_id) == ("query.collect", "g")
    assert reply.metadata.ttl <= 9.0
