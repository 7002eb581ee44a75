"""What is large, beside a hospital's line: fetched and stored in chunks that resume after a cut."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc

from polyclinic.fleet.blobs import BlobDamaged, BlobStore
from polyclinic.fleet.contents import named_blobs
from polyclinic.fleet.protocol import CHUNK_BYTES
from polyclinic.fleet.wire import fleet_pb2 as wire
from polyclinic.system.text import clean
from polyclinic_client.fleet.session import Session, Sessions, was_cancelled

DAMAGED = 3  # times that a blob may arrive damaged
STALLED_S = 600.0  # without a chunk, while the line itself is alive
PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
Code = grpc.StatusCode
# where trying again is of no use
FINAL = {
    Code.NOT_FOUND,
    Code.INVALID_ARGUMENT,
    Code.PERMISSION_DENIED,
    Code.RESOURCE_EXHAUSTED,
    Code.UNIMPLEMENTED,
}
log = logging.getLogger("polyclinic.bulk")


class ContentRefused(Exception):
    """The coordinator does not give, or take, a content."""


class NotWanted(Exception):
    """The coordinator does not want an answer any more."""


def blobs_of(envelope: wire.Envelope) -> list[wire.Blob]:
    """Return every blob that an envelope names, each once.

    Raises:
        ValueError: One comes with two sizes.
    """
    named = named_blobs(envelope)
    return [wire.Blob(digest=digest, size=size) for digest, size in named.items()]


class Bulk:
    """Carries blobs in either direction.

    Args:
        store: The hospital's blobs.
        sessions: The line as it comes and goes.
    """

    def __init__(self, store: BlobStore, sessions: Sessions) -> None:
        self._store, self._sessions = store, sessions

    async def fetch(self, blob: wire.Blob) -> None:
        """Bring a blob here, through as many cuts as there are.

        Raises:
            ContentRefused: The coordinator does not have it.
            BlobDamaged: It arrives damaged again and again.
            DiskFull: No room.
        """
        for attempt in range(1, DAMAGED + 1):
            while self._store.offset(blob.digest) < blob.size:
                await self._persist(lambda session: self._fetch(session, blob))
            try:
                await asyncio.to_thread(self._store.finish, blob.digest)
                return
            except BlobDamaged:
                if attempt == DAMAGED:
                    raise

    async def store(self, message_id: str, blob: wire.Blob) -> None:
        """Bring a blob of a reply to the coordinator, through as many cuts as there are.

        Raises:
            ContentRefused: The coordinator does not take it.
            NotWanted: It does not want the reply at all.
        """
        arrived = -1
        while arrived < blob.size:
            arrived = await self._persist(lambda session: self._offer(session, message_id, blob))

    async def _persist(self, step: Callable[[Session], Awaitable[int]]) -> int:
        """Take one step; try again after a cut."""
        pause_s, damaged = PAUSE_S, 0
        while True:
            session = await self._sessions.present()
            try:
                return await step(session)
            except grpc.RpcError as error:
                damaged += error.code() == Code.DATA_LOSS
                if error.code() in FINAL or damaged >= DAMAGED:
                    raise ContentRefused(clean(error.details())[:400]) from error
                if error.code() == Code.FAILED_PRECONDITION:
                    raise NotWanted from error
                log.info("a blob's call was cut: %s", error.code())
            except TimeoutError:
                log.info("a blob's call stood still")
            except asyncio.CancelledError:
                if was_cancelled():
                    raise
            await session.wait_closed(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _fetch(self, session: Session, blob: wire.Blob) -> int:
        offset = self._store.offset(blob.digest)
        call = session.stub.Fetch(
            wire.FetchRequest(digest=blob.digest, offset=offset), metadata=session.metadata
        )
        writing = asyncio.ensure_future(asyncio.sleep(0, offset))
        try:
            while (chunk := await asyncio.wait_for(call.read(), STALLED_S)) != grpc.aio.EOF:
                session.heard()
                if offset + len(chunk.data) > blob.size:
                    raise ContentRefused("it is longer than it was announced")
                await writing  # of the chunk before, while this one arrived
                append = asyncio.to_thread(self._store.append, blob.digest, offset, chunk.data)
                writing = asyncio.ensure_future(append)
                offset += len(chunk.data)
            await writing
        finally:
            call.cancel()
            await asyncio.gather(writing, return_exceptions=True)
        if offset < blob.size:
            raise ContentRefused("it is shorter than it was announced")
        return offset

    async def _offer(self, session: Session, message_id: str, blob: wire.Blob) -> int:
        offer = wire.OfferRequest(message_id=message_id, blob=blob)
        there = await session.stub.Offer(offer, metadata=session.metadata, timeout=STALLED_S)
        session.heard()
        if there.offset >= blob.size:
            return int(there.offset)
        chunks = _chunks(self._store.path(blob.digest), blob.digest, int(there.offset))
        done = await session.stub.Store(chunks, metadata=session.metadata)
        session.heard()
        return int(done.offset)


async def _chunks(path: Path, digest: str, offset: int) -> AsyncIterator[wire.Chunk]:
    """Read a blob from an offset on."""
    first = True
    with path.open("rb", buffering=0) as file:
        while data := await asyncio.to_thread(os.pread, file.fileno(), CHUNK_BYTES, offset):
            chunk = wire.Chunk(data=data)
            if first:
                chunk.digest, chunk.offset = digest, offset
            yield chunk
            first, offset = False, offset + len(data)
