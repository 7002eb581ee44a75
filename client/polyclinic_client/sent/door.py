"""The one door out of the client: everything that leaves is written into the journal first.

Every channel that the client opens passes its messages through here, as the bytes that leave: see
`polyclinic_client.sent.channel`. An answer that the policy does not allow any more stays.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from polyclinic.errors import ConfigError, LinkError, NotAllowed
from polyclinic.fleet.protocol import SESSION_HEADER
from polyclinic.fleet.wire import fleet_pb2 as wire
from polyclinic_client.policy.asked import Asked, read_asked, scalars_of
from polyclinic_client.policy.decisions import decided_at
from polyclinic_client.policy.gate import leave
from polyclinic_client.sent.epsilon import epsilon_of
from polyclinic_client.sent.journal import FILE, Journal, Leaving
from polyclinic_client.sent.kinds import FAULT, REFUSAL, kind_of_frame, kind_of_reply

MOST_QUESTIONS = 2000  # that are remembered; a coordinator may have 1000 open
MOST_OFFERED = 10_000


class NotWritten(LinkError):
    """Something was about to leave that no entry of the journal tells of."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} was about to leave without an entry in the journal, and was kept back. "
            "Please report this."
        )


@dataclass(frozen=True)
class Question:
    """What is remembered of a coordinator's question.

    Attributes:
        type: Of its message.
        asked: What it asks for; None where that cannot be read.
    """

    type: str = ""
    asked: Asked | None = None


class Door:
    """The way out to one address.

    Args:
        state: The hospital's state folder, with its journal and its policy.
        server: The address.
    """

    def __init__(self, state: Path, server: str) -> None:
        self._state, self._server = state, server[:200]
        self.journal = Journal(state / FILE)
        self._questions: OrderedDict[str, Question] = OrderedDict()
        self._offered: OrderedDict[str, None] = OrderedDict()  # digests of contents
        self._beats = _Beats()
        self.refused_at: float | None = None  # when a greeting was last answered by a refusal
        self._turn = threading.RLock()

    def hear(self, frame: Any) -> None:
        """Remember the question in a frame of the coordinator's, to name what answers it."""
        if not isinstance(frame, wire.FromCoordinator) or frame.WhichOneof("frame") != "work":
            return
        envelope = frame.work.envelope
        try:
            asked = read_asked(scalars_of(envelope))
        except ConfigError:
            asked = None
        with self._turn:
            self._questions[envelope.message_id] = Question(envelope.type[:200], asked)
            while len(self._questions) > MOST_QUESTIONS:
                self._questions.popitem(last=False)

    def let_out(self, message: Any, data: bytes) -> None:
        """Write a message into the journal; only then it may be sent.

        Args:
            message: The message, to see what it is.
            data: Its bytes, as they will leave.

        Raises:
            NotAllowed: The policy does not allow that it leaves.
            PolicyDamaged: The policy cannot be read.
            DiskFull, StorageFailed, JournalDamaged: The journal cannot be written.
            NotWritten: A piece of a content that was not written into the journal.
        """
        with self._turn:
            if isinstance(message, wire.FromHospital):
                self._let_out_frame(message, data)
            elif isinstance(message, wire.OfferRequest):
                self._let_out_content(message)
            elif isinstance(message, wire.Chunk):
                self._check_chunk(message)
            elif isinstance(message, wire.FetchRequest):
                self._write("fetch", data)
            else:
                self._write("hello", data)

    def let_out_all(self, kind: str, pieces: list[bytes], note: str = "") -> None:
        """Write a message of several pieces into the journal, as one entry.

        Raises:
            DiskFull, StorageFailed, JournalDamaged: The journal cannot be written.
        """
        data = b"".join(pieces)
        digest = blake3(data).hexdigest()
        self.journal.append(Leaving(kind, len(data), digest, self._server, note=note[:200]))

    def let_out_metadata(self, metadata: Any) -> None:
        """Write what goes along with a call into the journal: a proof of the hospital's key.

        The coordinator's own session, which goes along with contents, is not told.

        Raises:
            DiskFull, StorageFailed, JournalDamaged: The journal cannot be written.
        """
        told = [(key, value) for key, value in metadata or () if key != SESSION_HEADER]
        if told:
            self._write("proof", metadata_bytes(told))

    def allows_more(self) -> bool:
        """Tell, once, whether somebody decided or changed the policy since a greeting was refused.

        The hospital may take part now: it has to be greeted again.
        """
        if self.refused_at is None or decided_at(self._state) <= self.refused_at:
            return False
        self.refused_at = None
        return True

    def end_line(self) -> None:
        """Tell of the heartbeats of a line that has ended."""
        with self._turn:
            beats, self._beats = self._beats, _Beats()
            if beats.bytes:
                digest = beats.digest.hexdigest()
                self.journal.append(Leaving("line", beats.bytes, digest, self._server))

    def _let_out_frame(self, frame: wire.FromHospital, data: bytes) -> None:
        kind = frame.WhichOneof("frame")
        if kind == "heartbeat" and self._beats.count(frame, data):
            return
        if kind != "reply":
            self._write(kind_of_frame(frame), data)
            return
        reply = frame.reply.envelope
        question = self._questions.get(reply.reply_to, Question(reply.type))
        told = kind_of_reply(question.type, reply)
        if told == REFUSAL:
            self.refused_at = time.time()
        if told not in (FAULT, REFUSAL):
            self._check(question)
        self._write(told, data, question)

    def _let_out_content(self, offer: wire.OfferRequest) -> None:
        """Write a large content of an answer into the journal, by its own digest and size."""
        digest = offer.blob.digest
        question = self._questions.get(offer.message_id, Question())
        self._check(question)
        reply = wire.Envelope(content=wire.Content(records=[_ANY_ARRAY]))
        kind = kind_of_reply(question.type, reply)
        self.journal.append(self._leaving(kind, offer.blob.size, digest, question))
        self._offered[digest] = None
        while len(self._offered) > MOST_OFFERED:
            self._offered.popitem(last=False)

    def _check_chunk(self, chunk: wire.Chunk) -> None:
        if chunk.digest and chunk.digest not in self._offered:
            raise NotWritten(f"The content {chunk.digest[:12]}")

    def _check(self, question: Question) -> None:
        if question.asked is None:
            raise NotAllowed("What this hospital answers is not known any more", "Ask again.")
        leave(self._state, question.asked, question.type)

    def _write(self, kind: str, data: bytes, question: Question | None = None) -> None:
        digest = blake3(data).hexdigest()
        self.journal.append(self._leaving(kind, len(data), digest, question))

    def _leaving(self, kind: str, size: int, digest: str, question: Question | None) -> Leaving:
        asked = question.asked if question else None
        if asked is None:
            return Leaving(kind, size, digest, self._server)
        return Leaving(
            kind,
            size,
            digest,
            self._server,
            asked.run,
            asked.strategy,
            asked.round,
            epsilon_of(kind, asked, self._state),
        )


def metadata_bytes(metadata: Iterable[tuple[str, str | bytes]]) -> bytes:
    """Return the bytes of what goes along with a call: names and values, by turns, with lengths."""
    pieces = [
        each.encode() if isinstance(each, str) else each for pair in metadata for each in pair
    ]
    return b"".join(len(each).to_bytes(4, "big") + each for each in pieces)


_ANY_ARRAY = wire.Record(arrays=wire.Arrays(entries=[wire.ArrayEntry()]))


class _Beats:
    """Heartbeats of one line, which hold nothing but their number, one more each time."""

    def __init__(self) -> None:
        self._number, self.bytes, self.digest = 0, 0, blake3()

    def count(self, frame: wire.FromHospital, data: bytes) -> bool:
        """Count a heartbeat; return whether it is one that holds nothing else."""
        expected = wire.FromHospital(heartbeat=wire.Heartbeat(number=self._number + 1))
        if data != expected.SerializeToString():
            return False
        assert frame.heartbeat.number == self._number + 1
        self._number += 1
        self.bytes += len(data)
        self.digest.update(data)
        return True
