"""What an envelope says of the blobs beside it."""

from collections.abc import Iterator

from polyclinic.fleet.wire.fleet_pb2 import Blob, Envelope, Record


def named_blobs(envelope: Envelope) -> dict[str, int]:
    """Return the sizes of the blobs that an envelope names, by digest.

    Raises:
        ValueError: One digest comes with two sizes.
    """
    found: dict[str, int] = {}
    for record in envelope.content.records:
        for blob in _blobs(record):
            if found.setdefault(blob.digest, blob.size) != blob.size:
                raise ValueError(f"the blob {blob.digest[:12]} has two sizes")
    return found


def _blobs(record: Record) -> Iterator[Blob]:
    for array in record.arrays.entries:
        if array.HasField("blob"):
            yield array.blob
    for values in (record.metrics, record.config):
        for value in values.entries:
            if value.HasField("blob"):
                yield value.blob
