"""From an envelope to a message of Flower's: everything that it claims is bounded and checked."""

from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    Metadata,
    MetricRecord,
    RecordDict,
)

from polyclinic.errors import FrameInvalid, LinkError
from polyclinic.federation.envelope.addressing import COORDINATOR, wrap
from polyclinic.federation.envelope.mapped_array import NUMPY, MappedArray, OpenFile, check_array
from polyclinic.federation.envelope.store import Store
from polyclinic.fleet.wire import fleet_pb2 as wire
from polyclinic.system.durable import DIGEST
from polyclinic.system.text import first_line

RECORDS, ENTRIES, DIMENSIONS = 256, 100_000, 32  # most records, entries of all, axes of an array
NAME_CHARACTERS = 1000
VALUE_BYTES = 256 * 2**20  # longest single value; arrays may be longer, and stay in their files
LONGEST_TTL_S = 10 * 365 * 86_400.0
_LISTS = frozenset({"integers", "reals", "truths", "texts", "datas"})
_METRICS = frozenset({"integer", "real", "integers", "reals"})


def decode(envelope: wire.Envelope, store: Store) -> Message:
    """Turn an envelope into a message; large arrays stay in the files of their blobs.

    Args:
        envelope: From the other side.
        store: Has the envelope's blobs.

    Raises:
        FrameInvalid: It is damaged, is beyond a limit, or names a blob that is not there.
    """
    if not 0 <= envelope.ttl_s <= LONGEST_TTL_S:  # NaN is neither
        raise FrameInvalid("its time to live is no number of seconds")
    for text in (envelope.message_id, envelope.reply_to, envelope.type, envelope.group):
        if len(text) > NAME_CHARACTERS:
            raise FrameInvalid("an identifier is too long")
    body = _body(envelope, store)
    try:
        return wrap(body, _metadata(envelope))
    except ValueError as error:  # Flower knows no such type of message
        raise FrameInvalid(f"it is no message of Flower's ({first_line(error)})") from error


def _metadata(envelope: wire.Envelope) -> Metadata:
    answers = bool(envelope.reply_to)
    node = int(envelope.node)
    return Metadata(
        run_id=int(envelope.run),
        message_id=envelope.message_id,
        src_node_id=node if answers else COORDINATOR,
        dst_node_id=COORDINATOR if answers else node,
        reply_to_message_id=envelope.reply_to,
        group_id=envelope.group,
        created_at=envelope.created,
        ttl=envelope.ttl_s,
        message_type=envelope.type,
    )


def _body(envelope: wire.Envelope, store: Store) -> RecordDict | Error:
    kind = envelope.WhichOneof("body")
    if kind == "fault":
        return Error(int(envelope.fault.code), envelope.fault.reason)
    if kind != "content":
        raise FrameInvalid("it is empty")
    return decode_content(envelope.content, store)


def decode_content(content: wire.Content, store: Store) -> RecordDict:
    """Read an envelope's records, in their order.

    Raises:
        FrameInvalid: They are damaged, beyond a limit, or name a blob that is not there.
    """
    if len(content.records) > RECORDS:
        raise FrameInvalid(f"it has {len(content.records)} records, the limit is {RECORDS}")
    sizes = [_size(record) for record in content.records]
    if sum(sizes) > ENTRIES:
        raise FrameInvalid(f"it has {sum(sizes)} entries, the limit is {ENTRIES}")
    _check_names(record.name for record in content.records)
    files = _Files(store)
    return RecordDict({record.name: _record(record, files) for record in content.records})


def _size(record: wire.Record) -> int:
    kind = record.WhichOneof("kind")
    if kind is None:
        raise FrameInvalid("a record is of an unknown kind")
    return len(getattr(record, kind).entries)


def _check_names(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen or len(name) > NAME_CHARACTERS:
            raise FrameInvalid(f"the name '{name[:80]}' comes twice or is too long")
        seen.add(name)


def _record(record: wire.Record, files: "_Files") -> ArrayRecord | MetricRecord | ConfigRecord:
    kind = record.WhichOneof("kind")
    if kind == "arrays":
        _check_names(entry.name for entry in record.arrays.entries)
        arrays = ArrayRecord()  # given a dictionary, it would read each file
        for each in record.arrays.entries:
            arrays[each.name] = _array(each, files)
        return arrays
    values = record.metrics if kind == "metrics" else record.config
    _check_names(entry.name for entry in values.entries)
    make: Callable[[Any], Any] = MetricRecord if kind == "metrics" else ConfigRecord
    found = {entry.name: _value(entry, kind == "metrics", files) for entry in values.entries}
    made = make(found)
    assert isinstance(made, MetricRecord | ConfigRecord)
    return made


def _array(entry: wire.ArrayEntry, files: "_Files") -> Array:
    if entry.stype != NUMPY or len(entry.shape) > DIMENSIONS or len(entry.dtype) > 20:
        raise FrameInvalid(f"the array '{entry.name[:80]}' is of an unknown kind")
    shape = tuple(int(length) for length in entry.shape)
    kind = entry.WhichOneof("payload")
    if kind == "inline":
        check_array(entry.dtype, shape, memoryview(entry.inline))
        return Array(entry.dtype, shape, NUMPY, entry.inline)
    if kind != "blob":
        raise FrameInvalid(f"the array '{entry.name[:80]}' has no bytes")
    file = files.open(entry.blob)
    check_array(entry.dtype, shape, file.view())
    return MappedArray(entry.dtype, shape, file)


def _value(entry: wire.NamedValue, metric: bool, files: "_Files") -> Any:
    kind = entry.WhichOneof("value")
    empty = kind == "texts" and not entry.texts.items  # a list without items has no type
    if kind is None or (metric and kind not in _METRICS and not empty):
        raise FrameInvalid(f"the value '{entry.name[:80]}' is of an unknown kind")
    if kind in _LISTS:
        return list(getattr(entry, kind).items)
    if kind != "blob":
        return getattr(entry, kind)
    if entry.blob.size > VALUE_BYTES:
        raise FrameInvalid(f"the value '{entry.name[:80]}' is longer than {VALUE_BYTES} bytes")
    return bytes(files.open(entry.blob).view())


class _Files:
    """The files of one envelope's blobs, each opened once.

    Args:
        store: Has them.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: dict[str, OpenFile] = {}

    def open(self, blob: wire.Blob) -> OpenFile:
        """Open a blob's file.

        Raises:
            FrameInvalid: It is not there, or has another size.
        """
        if not DIGEST.fullmatch(blob.digest):
            raise FrameInvalid("a blob's name is no digest")
        if blob.digest not in self._open:
            try:
                self._open[blob.digest] = OpenFile(self._store.path(blob.digest))
            except (OSError, LinkError) as error:
                raise FrameInvalid(f"the blob {blob.digest} is not here") from error
        file = self._open[blob.digest]
        if file.size != blob.size or not file.size:
            raise FrameInvalid(f"the blob {blob.digest} has {file.size} bytes, not {blob.size}")
        return file
