"""The grid in memory behaves as Flower's does."""

import pytest
from flwr.app import Message, RecordDict

from polyclinic.federation.envelope import make_message
from polyclinic.simulation.grid import MemoryGrid, MemoryNode
from polyclinic.system.clock import SkippingClock, use_clock
from tests.fakes import make_reply


def question(node: int) -> Message:
    return make_message(RecordDict(), node, "query")


def echo(asked: list[int]) -> list[MemoryNode]:
    def answer(message: Message) -> Message:
        asked.append(message.metadata.dst_node_id)
        return make_reply(message, {})

    return [MemoryNode(number, answer) for number in (1, 2, 3)]


def test_hospitals_answer_one_after_another_in_the_order_of_the_questions() -> None:
    asked: list[int] = []
    grid = MemoryGrid(echo(asked), at_once=1)
    identifiers = grid.push_messages([question(node) for node in (3, 1, 2)])
    assert len(set(identifiers)) == 3 and not asked
    (reply,) = grid.pull_messages(identifiers)
    assert asked == [3]
    assert reply.metadata.reply_to_message_id == identifiers[0]
    assert reply.metadata.src_node_id == 3
    assert len(grid.pull_messages(identifiers)) == len(grid.pull_messages(identifiers)) == 1
    assert asked == [3, 1, 2]
    assert not grid.pull_messages(identifiers)  # nobody answers twice


def test_all_answers_can_be_had_at_once() -> None:
    grid = MemoryGrid(echo([]))
    replies = grid.send_and_receive([question(node) for node in (1, 2, 3)])
    assert [reply.metadata.src_node_id for reply in replies] == [1, 2, 3]


def test_an_offline_hospital_is_not_listed_and_its_question_is_lost() -> None:
    asked: list[int] = []
    nodes = echo(asked)
    grid = MemoryGrid(nodes)
    identifiers = grid.push_messages([question(1)])
    nodes[0].leave()
    assert grid.get_node_ids() == [2, 3]
    (reply,) = grid.pull_messages(identifiers)
    assert reply.has_error() and "Unavailable" in str(reply.error.reason) and not asked
    before = nodes[0].last_activated_at
    nodes[0].come_back()
    assert grid.get_node_ids() == [1, 2, 3] and nodes[0].last_activated_at != before


def test_waiting_for_an_answer_ends_at_the_time_out() -> None:
    grid = MemoryGrid([MemoryNode(1, lambda _message: None)])
    clock = SkippingClock()
    with use_clock(clock):
        assert grid.send_and_receive([question(1)], timeout=30.0) == []
    assert clock.monotonic() == pytest.approx(30.0, abs=5.0)
