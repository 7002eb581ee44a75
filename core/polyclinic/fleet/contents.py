"""What an envelope says of the blobs beside it, and the envelope that answers another."""

import time
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


def answer_to(question: Envelope, message_id: str) -> Envelope:
    """Return the envelope of an answer, whose body is still missing."""
    return Envelope(
        message_id=message_id,
        reply_to=question.message_id,
        type=question.type,
        group=question.group,
        created=time.time(),
        ttl_s=question.ttl_s,
        node=question.node,
        run=question.run,
    )


def _blobs(record: Record) -> Iterator[Blob]:
    for array in record.arrays.entries:
        if array.HasField("blob"):
            yield array.blob
    for values in (record.metrics, record.config):
        for value in values.entries:
            if value.HasField("blob"):
                yield value.blob
