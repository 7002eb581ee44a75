"""Work that hospitals were asked for and whose replies nobody has read yet.

The grid's threads and the server's event loop share it.
"""

import shutil
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from polyclinic.fleet.blobs import BlobRefused, BlobStore
from polyclinic.fleet.contents import named_blobs
from polyclinic.fleet.wire.fleet_pb2 import Blob, Envelope
from polyclinic.system.durable import DIGEST
from polyclinic_server.fleet.replies import NoRoom, NotWanted, QuotaExceeded, checked

QUOTA_BYTES = 64 << 20  # a reply may have so many bytes in any case
QUOTA_TIMES = 4  # and so many times the bytes of the question
MOST_BLOBS = 20_000  # of one reply
SPARE_DISK_BYTES = 256 << 20  # stay free while replies arrive


@dataclass(eq=False)
class Asked:
    """A piece of work.

    Attributes:
        envelope: The question.
        site: The hospital that is asked.
        run: Name of the run that asks.
        blobs: Sizes of the question's blobs, by digest.
        quota: Bytes that the reply's blobs may have together.
        deadline: When it is forgotten, on the monotonic clock.
        sent: Session that it was last sent in; empty before.
        offered: Sizes of the reply's blobs, by digest.
        offered_bytes: Their sum.
        reply: The answer, once it is there.
    """

    envelope: Envelope
    site: str
    run: str
    blobs: dict[str, int]
    quota: int
    deadline: float
    sent: bytes = b""
    offered: dict[str, int] = field(default_factory=dict)
    offered_bytes: int = 0
    reply: Envelope | None = None


def replies_folder(blobs: Path, site: str) -> Path:
    """Return where the blobs of a site's replies lie, in the folder of all blobs."""
    return blobs / f"replies-of-{site}"


class OpenWork:
    """Questions and replies.

    Args:
        folder: For blobs; whatever an earlier coordinator left there is removed.
    """

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self.questions = BlobStore(folder / "questions")  # blobs of questions
        self._folder = folder
        self._lock = threading.RLock()
        self._asked: dict[str, Asked] = {}
        self._replies: dict[str, BlobStore] = {}  # of each site: nobody profits from another's
        self._asking = 0
        self._unused: set[str] = set()
        self._offered_bytes = 0  # of all that is awaited

    def close(self) -> None:
        """Forget everything."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def replies(self, site: str) -> BlobStore:
        """Return the store of a site's replies."""
        with self._lock:
            if site not in self._replies:
                self._replies[site] = BlobStore(replies_folder(self._folder, site))
            return self._replies[site]

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Keep the questions' blobs that are written meanwhile, until their work is open."""
        with self._lock:
            self._asking += 1
        try:
            yield
        finally:
            with self._lock:
                self._asking -= 1
            self.sweep()

    def ask(self, envelope: Envelope, site: str, run: str = "") -> None:
        """Open a piece of a run's work; its blobs are in `questions`, and `asking` is on."""
        blobs = named_blobs(envelope)
        size = envelope.ByteSize() + sum(blobs.values())
        quota = max(QUOTA_BYTES, QUOTA_TIMES * size)
        deadline = time.monotonic() + envelope.ttl_s
        self.questions.hold(blobs)
        with self._lock:
            self._asked[envelope.message_id] = Asked(envelope, site, run, blobs, quota, deadline)

    def give_up(self, envelope: Envelope) -> None:
        """Remove the blobs of a question that is not asked, unless others need them."""
        with self._lock:
            self._unused.update(named_blobs(envelope))

    def unsent(self, site: str, session: bytes) -> list[Envelope]:
        """Return the questions to a site that its session has not got, as sent from now on."""
        with self._lock:
            found = [each for each in self._awaited(site) if each.sent != session]
            for each in found:
                each.sent = session
            return [each.envelope for each in found]

    def resume(self, site: str, session: bytes, holding: Collection[str]) -> list[str]:
        """Note what a hospital that came back has, and return what of it is not awaited."""
        with self._lock:
            awaited = {each.envelope.message_id: each for each in self._awaited(site)}
            for identifier in awaited.keys() & set(holding):
                awaited[identifier].sent = session
            return [identifier for identifier in holding if identifier not in awaited]

    def allows(self, site: str, digest: str) -> bool:
        """Return whether a site may fetch a blob: its open work needs it."""
        with self._lock:
            return any(digest in each.blobs for each in self._awaited(site))

    def offer(self, site: str, message_id: str, blob: Blob) -> BlobStore:
        """Allow a reply's blob, and return where it belongs.

        Raises:
            NotWanted: The site was not asked, or has answered already.
            QuotaExceeded: The reply would be too large.
            BlobRefused: The blob is none.
            NoRoom: The disk is full.
        """
        store = self.replies(site)
        with self._lock:
            asked = self._asked.get(message_id)
            if asked is None or asked.site != site or asked.reply is not None:
                raise NotWanted(message_id)
            known = asked.offered.get(blob.digest)
            if known is None:
                self._admit(asked, blob, store)
            elif known != blob.size:
                raise BlobRefused(f"The content {blob.digest[:12]} was offered with another size.")
            return store

    def _admit(self, asked: Asked, blob: Blob, store: BlobStore) -> None:
        if not DIGEST.fullmatch(blob.digest) or not blob.size:
            raise BlobRefused("A content that was offered is empty, or named by no digest.")
        total = asked.offered_bytes + blob.size
        if total > asked.quota or len(asked.offered) >= MOST_BLOBS:
            raise QuotaExceeded(total, asked.quota)
        needed = blob.size + SPARE_DISK_BYTES
        free = shutil.disk_usage(store.folder).free
        if free < needed + self._offered_bytes and free < needed + self._expected():
            raise NoRoom
        store.hold([blob.digest])
        asked.offered[blob.digest] = blob.size
        asked.offered_bytes = total
        self._offered_bytes += blob.size

    def promised(self, site: str, digest: str) -> int | None:
        """Return the size of a blob that a site may send; None if it may not."""
        with self._lock:
            sizes = [each.offered.get(digest) for each in self._awaited(site)]
            return max((size for size in sizes if size is not None), default=None)

    def answer(self, site: str, reply: Envelope) -> bool:
        """Take a reply; return whether it was awaited.

        Whatever it says of itself beside its content is that of the question.
        """
        with self._lock:
            asked = self._asked.get(reply.reply_to)
            if asked is None or asked.site != site:
                return False
            if asked.reply is None:
                store = self.replies(site)
                asked.reply = checked(asked.envelope, reply, asked.offered, store)
                self._no_longer_awaited(asked)
            return True

    def take(self, message_ids: Iterable[str], run: str = "") -> list[Asked]:
        """Return the run's work among these that is answered, and close it; then call `done`."""
        with self._lock:
            found = [self._asked.get(identifier) for identifier in dict.fromkeys(message_ids)]
            asked = [each for each in found if each is not None and each.run == run]
            answered = [each for each in asked if each.reply is not None]
            for each in answered:
                del self._asked[each.envelope.message_id]
            return answered

    def done(self, asked: Asked) -> None:
        """Remove the blobs of a reply that was taken and read."""
        store = self.replies(asked.site)
        store.release(asked.offered)
        store.drop(asked.offered)

    def is_open(self, message_id: str) -> bool:
        """Return whether a piece of work is neither read nor forgotten."""
        with self._lock:
            return message_id in self._asked

    def unanswered(self, site: str) -> list[str]:
        """Return the identifiers of the work that a site has not answered."""
        with self._lock:
            return [each.envelope.message_id for each in self._awaited(site)]

    def forget(self, site: str) -> None:
        """Forget what a site has not answered: the client that it was sent to is gone."""
        with self._lock:
            self._close(self._awaited(site))

    def close_run(self, run: str) -> dict[str, list[str]]:
        """Forget all work of a run; return by site what was not answered."""
        unanswered: dict[str, list[str]] = {}
        with self._lock:
            closed = [each for each in self._asked.values() if each.run == run]
            for each in closed:
                if each.reply is None:
                    unanswered.setdefault(each.site, []).append(each.envelope.message_id)
            self._close(closed)
        self.sweep()
        return unanswered

    def runs_of(self, site: str) -> list[str]:
        """Return the run of each piece of work that a site has not answered."""
        with self._lock:
            return [each.run for each in self._awaited(site)]

    def sweep(self) -> bool:
        """Forget what is too old, and remove the questions' blobs that no work needs.

        Returns:
            Whether something was too old.
        """
        moment = time.monotonic()
        with self._lock:
            late = [each for each in self._asked.values() if each.deadline < moment]
            self._close(late)
            if not self._asking:  # else a blob that is written at this moment may be one of these
                self.questions.drop(self._unused)
                self._unused.clear()
        return bool(late)

    def _awaited(self, site: str) -> list[Asked]:
        return [each for each in self._asked.values() if each.site == site and each.reply is None]

    def _close(self, closed: list[Asked]) -> None:
        for each in closed:
            del self._asked[each.envelope.message_id]
            if each.reply is None:
                self._no_longer_awaited(each)
            self.done(each)

    def _no_longer_awaited(self, asked: Asked) -> None:
        self.questions.release(asked.blobs)
        self._unused.update(asked.blobs)
        self._offered_bytes -= asked.offered_bytes

    def _expected(self) -> int:
        """Return the bytes that hospitals may still send, by a look at their files."""
        open_work = [each for each in self._asked.values() if each.reply is None]
        return sum(
            max(0, size - self.replies(each.site).offset(digest))
            for each in open_work
            for digest, size in each.offered.items()
        )
