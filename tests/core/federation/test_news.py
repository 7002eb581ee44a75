"""Loops that wait wake at once where the grid tells news, and look again where it does not."""

from dataclasses import replace

from flwr.app import Message, MetricRecord, RecordDict

from polyclinic.config.compose import load_config
from polyclinic.federation.attendance import Attendance
from polyclinic.federation.envelope import make_message
from polyclinic.federation.grids.passing import PassingGrid
from polyclinic.federation.grids.reliable_grid import ReliableGrid
from polyclinic.federation.grids.traffic import CountingGrid
from polyclinic.federation.news import pause, tells_news
from polyclinic.federation.records import Hello, Order, hello_reply, order_to_config
from polyclinic.simulation.grid import MemoryGrid, MemoryNode
from polyclinic.system.clock import SkippingClock, use_clock
from polyclinic_strategies.merging.mailbox import Mailbox
from tests.fakes import make_reply

ORDER = Order("run", "arm", 0, 3, "none", "0", {"model": "unet"})
NEVER_S = 3600.0


class TellingGrid(MemoryGrid):
    """Answers when it is waited for, and counts how often that was."""

    def __init__(self, hospitals: int) -> None:
        super().__init__([MemoryNode(number, self._answer_of) for number in range(hospitals)])
        self.waits: list[float] = []
        self.ready = False

    def wait_for_news(self, timeout_s: float) -> None:
        self.waits.append(timeout_s)
        self.ready = True

    def _answer_of(self, message: Message) -> Message | None:
        if message.metadata.message_type == "query.hello":
            site = f"site-{message.metadata.dst_node_id}"
            return hello_reply(message, Hello(site, "0", {"training": 1}))
        if not self.ready:
            return None
        return make_reply(message, {"metrics": MetricRecord({"num-examples": 1, "loss": 0.5})})


class NoSleep:
    """A clock that must not be slept by."""

    def monotonic(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        raise AssertionError(f"slept for {seconds} s")


def test_an_exchange_waits_for_news_alone() -> None:
    inner = TellingGrid(3)
    grid = CountingGrid(inner)
    attendance = Attendance(grid, ORDER, lambda _event: None)
    reliable = ReliableGrid(
        grid, attendance, replace(load_config().deployment, min_hospitals=3), lambda _event: None
    )
    content = RecordDict({"config": order_to_config(ORDER)})
    with use_clock(NoSleep()):
        nodes = list(reliable.get_node_ids())
        inner.ready = False
        inner.waits.clear()
        replies = reliable.send_and_receive(
            [make_message(content, node, "train") for node in nodes]
        )

    assert len(list(replies)) == 3
    assert len(inner.waits) == 1


def test_a_mailbox_looks_at_once_where_news_are_told() -> None:
    inner = TellingGrid(2)
    mailbox: Mailbox[str] = Mailbox(inner, Attendance(inner, ORDER, lambda _event: None))
    content = RecordDict({"config": order_to_config(ORDER)})
    with use_clock(NoSleep()):
        mailbox.refresh()
        mailbox.refresh()
        for site in mailbox.idle():
            mailbox.ask(site, lambda node: make_message(content, node, "train"), "why")
        assert mailbox.collect() == []
        mailbox.wait(NEVER_S)

        assert [(site, why) for site, why, _ in mailbox.collect()] == [
            ("site-0", "why"),
            ("site-1", "why"),
        ]


def test_a_grid_behind_others_tells_its_news() -> None:
    inner = TellingGrid(1)
    outer = CountingGrid(PassingGrid(inner))
    pause(outer, NEVER_S)

    assert tells_news(outer)
    assert inner.waits == [NEVER_S]


def test_a_grid_that_tells_nothing_is_slept_for() -> None:
    grid = CountingGrid(MemoryGrid([]))
    clock = SkippingClock()
    with use_clock(clock):
        pause(grid, 5.0)
        grid.wait_for_news(5.0)

    assert not tells_news(grid)
    assert clock.monotonic() >= 10.0
