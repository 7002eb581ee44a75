"""Messages that become envelopes and messages again."""

import math
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from polyclinic.errors import FrameInvalid
from polyclinic.federation.envelope import MappedArray, array_bytes, decode, encode, make_message
from polyclinic.federation.envelope.store import FULL_BYTES
from polyclinic.fleet.blobs import BlobStore
from polyclinic.fleet.protocol import FRAME_BYTES
from polyclinic.fleet.wire import fleet_pb2 as wire

LARGE = np.arange(50_000, dtype=np.float32)


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path)


def blobs(store: BlobStore) -> list[Path]:
    return [path for path in store.folder.iterdir() if len(path.name) == 64]


def there_and_back(message: Message, store: BlobStore) -> Message:
    sent = encode(message, store).SerializeToString()
    assert len(sent) < FRAME_BYTES
    return decode(wire.Envelope.FromString(sent), store)


def question(**records: ArrayRecord | MetricRecord | ConfigRecord) -> Message:
    return make_message(RecordDict(dict(records)), 7, "train", ttl=60.0, group="3", message_id="m1")


def test_a_question_keeps_its_frame(store: BlobStore) -> None:
    back = there_and_back(question(config=ConfigRecord({"a": 1})), store).metadata

    assert (back.message_id, back.src_node_id, back.dst_node_id) == ("m1", 1, 7)
    assert (back.message_type, back.group_id, back.ttl) == ("train", "3", 60.0)
    assert back.reply_to_message_id == ""


def test_an_answer_comes_from_the_hospital(store: BlobStore) -> None:
    asked = question(config=ConfigRecord({"a": 1}))
    back = there_and_back(Message(RecordDict(), reply_to=asked), store)

    assert (back.metadata.src_node_id, back.metadata.dst_node_id) == (7, 1)
    assert back.metadata.reply_to_message_id == "m1"
    assert back.has_content()


def test_an_error_is_a_fault(store: BlobStore) -> None:
    asked = question(config=ConfigRecord({"a": 1}))
    back = there_and_back(Message(Error(2, "x" * 10_000), reply_to=asked), store)

    assert (back.error.code, back.error.reason) == (2, "x" * 4000)


def test_records_and_entries_keep_their_order_and_types(store: BlobStore) -> None:
    config = {
        "z": 1,
        "truth": True,
        "real": 0.5,
        "text": "Köln",
        "bytes": b"\0\xff",
        "none": [],
        "integers": [1, -(2**62)],
        "truths": [True, False],
        "reals": [0.5, math.inf],
        "texts": ["", "b"],
        "datas": [b"", b"c"],
        "a": 2,
    }
    content = RecordDict(
        {
            "z": MetricRecord({"loss": 0.1, "n": 3, "list": [1.5], "none": []}),
            "config": ConfigRecord(config),
            "a": ArrayRecord(),
        }
    )
    back = there_and_back(make_message(content, 7, "query"), store).content

    assert list(back) == ["z", "config", "a"]
    assert list(back["config"].items()) == list(config.items())
    assert [type(value) for value in back["config"].values()] == [*map(type, config.values())]
    assert dict(back["z"]) == {"loss": 0.1, "n": 3, "list": [1.5], "none": []}


@pytest.mark.parametrize(
    "array",
    [
        LARGE,
        LARGE[:10],
        np.array(3.5),
        np.zeros((0, 3), dtype=np.int8),
        np.asfortranarray(LARGE.reshape(100, 500)),
        LARGE.astype(">f8"),
        np.ones((300, 300), dtype=bool),
        LARGE.astype(np.complex64),
    ],
    ids=str,
)
def test_arrays_come_back_bit_for_bit(array: np.ndarray, store: BlobStore) -> None:
    back = there_and_back(question(arrays=ArrayRecord({"w": Array(array)})), store)
    found = back.content["arrays"]["w"]

    assert found.data == Array(array).data
    assert found.numpy().dtype == array.dtype
    np.testing.assert_array_equal(found.numpy(), array)


def test_a_large_array_stays_in_its_file(store: BlobStore) -> None:
    back = there_and_back(question(arrays=ArrayRecord({"w": Array(LARGE)})), store)
    found = back.content["arrays"]["w"]
    (blob,) = blobs(store)
    before = blob.read_bytes()
    blob.unlink()  # the store may forget it: what was read keeps it open

    assert isinstance(found, MappedArray)
    assert array_bytes(found) == len(before)
    one, other = found.numpy(), found.numpy()
    one += 1
    np.testing.assert_array_equal(other, LARGE)
    np.testing.assert_array_equal(one, LARGE + 1)


def test_a_mapped_array_travels_on(store: BlobStore) -> None:
    once = there_and_back(question(arrays=ArrayRecord({"w": Array(LARGE)})), store)
    twice = there_and_back(once, store)

    np.testing.assert_array_equal(twice.content["arrays"]["w"].numpy(), LARGE)
    assert len(blobs(store)) == 1


def test_flower_can_copy_a_mapped_array(store: BlobStore) -> None:
    found = there_and_back(question(arrays=ArrayRecord({"w": Array(LARGE)})), store)
    record = found.content["arrays"]

    assert record.to_torch_state_dict()["w"].numpy().tolist() == LARGE.tolist()
    assert Array.inflate(record["w"].deflate(), record["w"].children).data == Array(LARGE).data


def test_long_bytes_travel_beside(store: BlobStore) -> None:
    data = bytes(range(256)) * 4000
    back = there_and_back(question(config=ConfigRecord({"file": data})), store)

    assert len(blobs(store)) == 1
    assert back.content["config"]["file"] == data


def test_many_small_arrays_do_not_burst_a_frame(store: BlobStore) -> None:
    arrays = {f"w{number}": Array(LARGE[:15_000]) for number in range(200)}  # 12 MB
    back = there_and_back(question(arrays=ArrayRecord(arrays)), store)

    assert list(back.content["arrays"]) == list(arrays)
    np.testing.assert_array_equal(back.content["arrays"]["w199"].numpy(), LARGE[:15_000])


@pytest.mark.parametrize("values", [250, 1000])
def test_an_envelope_stays_small_whatever_its_arrays_are(values: int, store: BlobStore) -> None:
    """It holds up heartbeats: a line of 1 Mbit/s must carry it within some seconds."""
    arrays = {f"w{number}": Array(LARGE[:values]) for number in range(2_000)}
    sent = encode(question(arrays=ArrayRecord(arrays)), store)
    assert sent.ByteSize() < FULL_BYTES + 2_000 * 200  # names, and what names a blob


@pytest.mark.parametrize(
    "record",
    [
        ConfigRecord({"x": 2**70}),
        ConfigRecord({"x": "\ud800"}),
        ConfigRecord({"x": "y" * FRAME_BYTES}),
        ArrayRecord({"x": Array("float32", (1,), "pickle", b"0")}),
    ],
    ids=["integer", "text", "long", "pickle"],
)
def test_what_cannot_travel_is_named(record: ConfigRecord, store: BlobStore) -> None:
    with pytest.raises(FrameInvalid, match=r"cannot travel|take \d+ bytes|serialized as"):
        encode(question(record=record), store)
