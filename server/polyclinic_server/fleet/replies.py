"""What a coordinator takes of a hospital's reply, and why it refuses the rest."""

from collections.abc import Mapping

from polyclinic.errors import LinkError
from polyclinic.fleet.blobs import BlobStore
from polyclinic.fleet.contents import answer_to, named_blobs
from polyclinic.fleet.protocol import FaultCode
from polyclinic.fleet.wire.fleet_pb2 import Envelope, Fault
from polyclinic.system.text import clean

REASON_CHARACTERS = 4_000  # of a fault


class NotWanted(LinkError):
    """A hospital answers what it was not asked, or what is not awaited any more."""

    def __init__(self, message_id: str) -> None:
        super().__init__(f"Nobody waits here for an answer to {clean(message_id)[:80]}: drop it.")


class QuotaExceeded(LinkError):
    """A reply is larger than the question allows."""

    def __init__(self, size: int, quota: int) -> None:
        super().__init__(
            f"The reply has {size:,} bytes in its large contents; to this question at most "
            f"{quota:,} are taken."
        )


class NoRoom(LinkError):
    """The coordinator's disk has no room for a reply at this moment."""

    def __init__(self) -> None:
        super().__init__("The coordinator's disk is full: try again later.")


def checked(
    question: Envelope, reply: Envelope, offered: Mapping[str, int], store: BlobStore
) -> Envelope:
    """Return a reply with its question's metadata; a fault if its blobs are not all here.

    Args:
        question: What was asked.
        reply: As the hospital sent it.
        offered: Sizes of the blobs that it offered, by digest.
        store: Has what it sent.
    """
    taken = answer_to(question, reply.message_id[:80])
    if reply.HasField("fault"):
        reason = clean(reply.fault.reason)[:REASON_CHARACTERS]
        taken.fault.CopyFrom(Fault(code=reply.fault.code, reason=reason))
    elif problem := _problem(reply, offered, store):
        taken.fault.CopyFrom(Fault(code=FaultCode.REPLY_INVALID, reason=problem))
    else:
        taken.content.CopyFrom(reply.content)
    return taken


def _problem(reply: Envelope, offered: Mapping[str, int], store: BlobStore) -> str:
    """Return what is wrong with a reply's blobs; empty if nothing is."""
    try:
        blobs = named_blobs(reply)
    except ValueError as error:
        return f"the reply cannot be read: {clean(error)}"
    for digest, size in blobs.items():
        if offered.get(digest) != size or not store.has(digest):
            return f"the reply's content {clean(digest)[:12]} was not sent"
    return ""
