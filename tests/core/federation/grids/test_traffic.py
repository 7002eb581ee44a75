"""Bytes by node and type, both ways; the counts are added up by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from polyclinic.federation.envelope import MappedArray, decode, encode, make_message
from polyclinic.federation.grids.traffic import CountingGrid, size_of
from polyclinic.fleet.blobs import BlobStore
from tests.fakes import FakeGrid, FakeNode, make_error, make_reply


def config(**values: Any) -> RecordDict:
    return RecordDict({"config": ConfigRecord(values)})


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (b"12345", 5),
        ("12345", 5),
        ("Zürich", 7),  # bytes, not characters
        ("", 0),
        (7, 8),
        (7.5, 8),
        (True, 8),
        ([1, 2, 3], 24),
        (["ab", "c"], 3),
        ([b"abc", b""], 3),
        ([], 0),
    ],
)
def test_a_scalar_counts_with_its_name(value: Any, size: int) -> None:
    assert size_of(config(key=value)) == len("key") + size


def test_arrays_count_as_they_travel() -> None:
    array = Array(np.zeros(1000, dtype=np.float32))
    content = RecordDict({"arrays": ArrayRecord({"one": array, "two": array})})
    assert size_of(content) == 2 * len(array.data)
    assert 4000 <= len(array.data) < 4200


def test_everything_in_a_message_is_added_up() -> None:
    array = Array(np.zeros(10, dtype=np.float32))
    arrays, config = ArrayRecord({"w": array}), ConfigRecord({"a": "xy"})
    metrics = MetricRecord({"loss": 0.5, "n": [1, 2]})
    content = RecordDict({"arrays": arrays, "config": config, "metrics": metrics})
    assert size_of(content) == len(array.data) + (1 + 2) + (4 + 8) + (1 + 16)
    assert size_of(RecordDict()) == 0


class Blocking(FakeGrid):
    """A grid whose `send_and_receive` calls its own `push_messages`, as Flower's does."""

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Message]:
        return self.pull_messages(self.push_messages(messages))


@pytest.fixture
def grid() -> CountingGrid:
    def answer(message: Message) -> Message:
        return make_reply(message, {"config": ConfigRecord({"answer": b"1" * 94})})

    def fail(message: Message) -> Message:
        return make_error(message, "a long reason that is no content")

    return CountingGrid(Blocking([FakeNode(1, answer), FakeNode(2, fail)]))  # type: ignore[arg-type]


def question(node: int, kind: str, size: int) -> Message:
    return make_message(config(ask=b"0" * (size - 3)), node, kind)


def test_both_directions_are_counted_by_node_and_type(grid: CountingGrid) -> None:
    identifiers = list(
        grid.push_messages([question(1, "query.describe", 10), question(2, "query.describe", 20)])
    )
    assert grid.total() == {1: {"query.describe": 10}, 2: {"query.describe": 20}}
    assert len(list(grid.pull_messages(identifiers))) == 2
    assert grid.total() == {1: {"query.describe": 110}, 2: {"query.describe": 20}}
    grid.push_messages(iter([question(1, "query.refined", 1000), question(1, "query.describe", 5)]))
    assert grid.total() == {
        1: {"query.describe": 115, "query.refined": 1000},
        2: {"query.describe": 20},
    }


def test_asking_and_waiting_in_one_call_counts_as_well(grid: CountingGrid) -> None:
    replies = list(grid.send_and_receive(iter([question(1, "train", 10)])))
    assert len(replies) == 1 and grid.total() == {1: {"train": 110}}


def test_a_total_does_not_grow_afterwards(grid: CountingGrid) -> None:
    grid.push_messages([question(1, "train", 10)])
    before = grid.total()
    grid.push_messages([question(1, "train", 10), question(2, "train", 10)])
    assert before == {1: {"train": 10}}
    assert grid.total() == {1: {"train": 20}, 2: {"train": 10}}


def test_what_has_not_arrived_does_not_count(grid: CountingGrid) -> None:
    assert list(grid.pull_messages(["unknown"])) == []
    assert grid.total() == {}


def test_the_rest_is_the_grids_own(grid: CountingGrid) -> None:
    grid.set_run("a run")
    assert grid.run == "a run"
    assert list(grid.get_node_ids()) == [node.node_id for node in grid.get_nodes()] == [1, 2]
    made = grid.create_message(config(a=1), "train", 2, "group", 5.0)
    metadata = made.metadata
    assert (metadata.dst_node_id, metadata.message_type, metadata.ttl) == (2, "train", 5.0)
    assert grid.total() == {}


def test_a_mapped_array_is_counted_without_reading_it(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    array = Array(np.zeros(100_000, dtype=np.float32))
    sent = make_message(RecordDict({"arrays": ArrayRecord({"w": array})}), 1, "train")
    mapped = decode(encode(sent, store), store).content

    class Unread(MappedArray):
        data = property(lambda self: pytest.fail("it was read"))

    mapped["arrays"]["w"].__class__ = Unread
    assert size_of(mapped) == size_of(sent.content)
