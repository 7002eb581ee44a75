"""From a message of Flower's to an envelope."""

from collections.abc import Mapping
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from polyclinic.errors import FrameInvalid
from polyclinic.federation.envelope.mapped_array import NUMPY, array_buffers, array_bytes
from polyclinic.federation.envelope.store import ENVELOPE_BYTES, Room, Store
from polyclinic.fleet.wire import fleet_pb2 as wire

REASON_CHARACTERS = 4000  # a fault's reason is cut here


def encode(message: Message, store: Store) -> wire.Envelope:
    """Turn a message into an envelope; what is large goes into the store.

    Args:
        message: A question of the coordinator's, or the answer to one.
        store: Gets each large array, and each long value, as a blob.

    Raises:
        FrameInvalid: It holds something that cannot travel.
    """
    metadata = message.metadata
    answers = bool(metadata.reply_to_message_id)
    envelope = wire.Envelope(
        message_id=metadata.message_id,
        reply_to=metadata.reply_to_message_id,
        type=metadata.message_type,
        group=metadata.group_id,
        created=metadata.created_at,
        ttl_s=metadata.ttl,
        node=metadata.src_node_id if answers else metadata.dst_node_id,
        run=metadata.run_id,
    )
    if message.has_error():
        reason = str(message.error.reason or "")[:REASON_CHARACTERS]
        envelope.fault.CopyFrom(wire.Fault(code=message.error.code, reason=reason))
    else:
        envelope.content.CopyFrom(encode_content(message.content, store))
    return envelope


def encode_content(content: RecordDict, store: Store) -> wire.Content:
    """Turn records into what an envelope holds; the same for each hospital that gets them.

    Raises:
        FrameInvalid: It holds something that cannot travel.
    """
    writer = _Writer(store)
    written = wire.Content(records=[writer.record(name, kept) for name, kept in content.items()])
    if written.ByteSize() > ENVELOPE_BYTES:
        raise FrameInvalid(
            f"its names, numbers and texts take {written.ByteSize()} bytes, the limit is "
            f"{ENVELOPE_BYTES}: send arrays, or bytes"
        )
    return written


class _Writer:
    """Writes one envelope's records.

    Args:
        store: Gets what is large.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._room = Room()

    def record(self, name: str, record: object) -> wire.Record:
        """Write a record."""
        if isinstance(record, ArrayRecord):
            entries = [self._array(key, array) for key, array in record.items()]
            return wire.Record(name=name, arrays=wire.Arrays(entries=entries))
        if isinstance(record, MetricRecord):
            return wire.Record(name=name, metrics=self._values(name, record))
        if isinstance(record, ConfigRecord):
            return wire.Record(name=name, config=self._values(name, record))
        raise FrameInvalid(f"the record '{name}' is a {type(record).__name__}")

    def _array(self, name: str, array: Array) -> wire.ArrayEntry:
        if array.stype != NUMPY:
            raise FrameInvalid(f"the array '{name}' is serialized as {array.stype!r}")
        entry = wire.ArrayEntry(name=name, dtype=array.dtype, shape=array.shape, stype=array.stype)
        if self._room.take(array_bytes(array)):
            entry.inline = array.data
        else:
            entry.blob.CopyFrom(self._stored(array_buffers(array)))
        return entry

    def _values(self, record: str, values: Mapping[str, Any]) -> wire.Values:
        return wire.Values(
            entries=[self._value(record, key, value) for key, value in values.items()]
        )

    def _value(self, record: str, name: str, value: object) -> wire.NamedValue:
        try:
            if isinstance(value, bytes) and not self._room.take(len(value)):
                return wire.NamedValue(name=name, blob=self._stored([memoryview(value)]))
            if isinstance(value, list):
                return _listed(name, value)
            return _single(name, value)
        except (ValueError, TypeError) as error:  # an integer of more than 64 bits, or no Unicode
            raise FrameInvalid(
                f"the value '{name}' of '{record}' cannot travel ({error})"
            ) from error

    def _stored(self, buffers: list[memoryview]) -> wire.Blob:
        blob = self._store.put(buffers)
        return wire.Blob(digest=blob.digest, size=blob.size)


def _single(name: str, value: object) -> wire.NamedValue:
    if isinstance(value, bool):
        return wire.NamedValue(name=name, truth=value)
    if isinstance(value, int):
        return wire.NamedValue(name=name, integer=value)
    if isinstance(value, float):
        return wire.NamedValue(name=name, real=value)
    if isinstance(value, str):
        return wire.NamedValue(name=name, text=value)
    if isinstance(value, bytes):
        return wire.NamedValue(name=name, data=value)
    raise TypeError(type(value).__name__)


def _listed(name: str, items: list[Any]) -> wire.NamedValue:
    first = items[0] if items else ""
    if isinstance(first, bool):
        return wire.NamedValue(name=name, truths=wire.Truths(items=items))
    if isinstance(first, int):
        return wire.NamedValue(name=name, integers=wire.Integers(items=items))
    if isinstance(first, float):
        return wire.NamedValue(name=name, reals=wire.Reals(items=items))
    if isinstance(first, str):
        return wire.NamedValue(name=name, texts=wire.Texts(items=items))
    return wire.NamedValue(name=name, datas=wire.Datas(items=items))
