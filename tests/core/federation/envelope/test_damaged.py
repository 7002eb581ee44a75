"""Envelopes that lie."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from polyclinic.errors import FrameInvalid
from polyclinic.federation.envelope import decode, encode, make_message
from polyclinic.fleet.blobs import BlobStore
from polyclinic.fleet.wire import fleet_pb2 as wire

SMALL, LARGE = np.arange(10, dtype=np.float32), np.arange(50_000, dtype=np.float32)


def envelope(store: BlobStore) -> wire.Envelope:
    content = RecordDict(
        {
            "arrays": ArrayRecord({"small": Array(SMALL), "large": Array(LARGE)}),
            "metrics": MetricRecord({"loss": 1.0}),
            "config": ConfigRecord({"file": b"0" * 100_000, "a": 1}),
        }
    )
    return encode(make_message(content, 7, "train", message_id="m"), store)


def arrays(sent: wire.Envelope) -> wire.Arrays:
    return sent.content.records[0].arrays


def shape(sent: wire.Envelope, entry: int, *lengths: int) -> None:
    del arrays(sent).entries[entry].shape[:]
    arrays(sent).entries[entry].shape.extend(lengths)


def inline(data: bytes) -> Callable[[wire.Envelope], object]:
    return lambda sent: setattr(arrays(sent).entries[0], "inline", data)


def value(sent: wire.Envelope, number: int) -> wire.NamedValue:
    return sent.content.records[2].config.entries[number]


HUGE = (
    np.lib.format.magic(1, 0)
    + b"v\0"
    + (
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 1099511627776), }"
    ).ljust(117)
    + b"\n"
)
PICKLED = (
    np.lib.format.magic(1, 0)
    + b"v\0"
    + (b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }").ljust(117)
    + b"\n"
    + b"0" * 8
)

LIES: dict[str, Callable[[wire.Envelope], object]] = {
    "no body": lambda sent: sent.ClearField("content"),
    "time that is no number": lambda sent: setattr(sent, "ttl_s", float("nan")),
    "time below zero": lambda sent: setattr(sent, "ttl_s", -1.0),
    "long identifier": lambda sent: setattr(sent, "group", "g" * 5000),
    "another shape": lambda sent: shape(sent, 0, 5, 2),
    "another shape of a blob": lambda sent: shape(sent, 1, 25_000, 2),
    "many axes": lambda sent: shape(sent, 0, *[1] * 40),
    "another type": lambda sent: setattr(arrays(sent).entries[0], "dtype", "float64"),
    "a pickle": lambda sent: setattr(arrays(sent).entries[0], "stype", "pickle"),
    "an object": inline(PICKLED),
    "a shape without end": inline(HUGE),
    "a cut array": inline(Array(SMALL).data[:-1]),
    "more than an array": inline(Array(SMALL).data + b"0"),
    "no array": inline(b"PK\x03\x04"),
    "no bytes": lambda sent: arrays(sent).entries[0].ClearField("payload"),
    "a path": lambda sent: setattr(arrays(sent).entries[1].blob, "digest", "../../etc/passwd"),
    "no such blob": lambda sent: setattr(arrays(sent).entries[1].blob, "digest", "0" * 64),
    "another size": lambda sent: setattr(arrays(sent).entries[1].blob, "size", 5),
    "a name twice": lambda sent: setattr(sent.content.records[1], "name", "arrays"),
    "an entry twice": lambda sent: setattr(arrays(sent).entries[1], "name", "small"),
    "a value twice": lambda sent: setattr(value(sent, 1), "name", "file"),
    "no value": lambda sent: value(sent, 1).ClearField("value"),
    "a text as a metric": lambda sent: setattr(
        sent.content.records[1].metrics.entries[0], "text", "x"
    ),
    "a record of no kind": lambda sent: sent.content.records.add(name="x"),
    "long value": lambda sent: setattr(value(sent, 0).blob, "size", 2**40),
    "many records": lambda sent: [
        sent.content.records.add(name=str(number), config=wire.Values()) for number in range(300)
    ],
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_lie_is_refused(lie: Callable[[wire.Envelope], object], tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    sent = envelope(store)
    decode(sent, store)
    lie(sent)

    with pytest.raises(FrameInvalid):
        decode(sent, store)
