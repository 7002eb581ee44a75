"""The blobs beside a hospital's line: fetched, offered and stored, each from an offset on."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import IO, Any, NoReturn

import grpc

from polyclinic.errors import DiskFull, LinkError
from polyclinic.fleet.blobs import BlobDamaged, BlobMissing, BlobRefused, BlobStore
from polyclinic.fleet.protocol import CHUNK_BYTES, SESSION_HEADER
from polyclinic.fleet.wire.fleet_pb2 import Chunk, FetchRequest, OfferRequest, Progress
from polyclinic.fleet.wire.fleet_pb2_grpc import FleetServicer
from polyclinic_server.fleet.open_work import OpenWork
from polyclinic_server.fleet.replies import NoRoom, NotWanted, QuotaExceeded
from polyclinic_server.fleet.sessions import Session, Sessions

STATUS: dict[type[Exception], grpc.StatusCode] = {  # what a hospital is told, by what went wrong
    NotWanted: grpc.StatusCode.FAILED_PRECONDITION,  # drop the reply
    QuotaExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,  # answer with a fault instead
    NoRoom: grpc.StatusCode.UNAVAILABLE,  # try again later
    BlobRefused: grpc.StatusCode.INVALID_ARGUMENT,
    BlobDamaged: grpc.StatusCode.DATA_LOSS,  # send it again from its start
    BlobMissing: grpc.StatusCode.NOT_FOUND,
}
NO_SESSION = "no line is open with this session: attend first"


class Bulk(FleetServicer):
    """The calls about blobs; a session's header comes with each.

    Args:
        sessions: Who is connected.
        work: What is asked, and so which blobs may travel.
        proved: Called with the peer of a connection that showed a session.
    """

    def __init__(self, sessions: Sessions, work: OpenWork, proved: Callable[[str], None]) -> None:
        self._sessions = sessions
        self._work = work
        self._proved = proved

    async def Fetch(  # noqa: N802  # gRPC's name
        self, request: FetchRequest, context: Any
    ) -> AsyncIterator[Chunk]:
        """Send a blob that the hospital's open work names, from an offset on."""
        session = await self._session(context)
        if not self._work.allows(session.site, request.digest):
            await context.abort(grpc.StatusCode.NOT_FOUND, "no open work needs this content")
        try:
            path = self._work.questions.path(request.digest)
        except LinkError as error:
            await _abort(context, error)
        async with session.bulk:
            with path.open("rb", buffering=0) as file:
                file.seek(request.offset)
                async for data in _blocks(file):
                    session.hear()
                    session.traffic.sent += len(data)
                    yield Chunk(data=data)

    async def Offer(self, request: OfferRequest, context: Any) -> Progress:  # noqa: N802
        """Tell how much of a reply's blob is here, and allow the rest."""
        session = await self._session(context)
        session.hear()
        blob = request.blob
        try:
            store = self._work.offer(session.site, request.message_id, blob)
            return Progress(offset=await _finished(store, blob.digest, blob.size))
        except (LinkError, DiskFull) as error:
            await _abort(context, error)

    async def Store(self, requests: AsyncIterator[Chunk], context: Any) -> Progress:  # noqa: N802
        """Take the rest of an offered blob."""
        session = await self._session(context)
        first = await anext(aiter(requests), Chunk())
        size = self._work.promised(session.site, first.digest)
        if size is None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "offer this content first")
        assert size is not None
        store = self._work.replies(session.site)
        try:
            async with session.bulk:
                await _append_all(store, first, requests, size, session)
                return Progress(offset=await _finished(store, first.digest, size))
        except (LinkError, DiskFull) as error:
            await _abort(context, error)

    async def _session(self, context: Any) -> Session:
        """Return the session that a call shows; nothing of its body was read before."""
        shown = dict(context.invocation_metadata() or ()).get(SESSION_HEADER, b"")
        session = self._sessions.find(shown)
        if session is None or session.over.is_set():
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, NO_SESSION)
        assert session is not None
        self._proved(context.peer())
        return session


async def _append_all(
    store: BlobStore, first: Chunk, rest: AsyncIterator[Chunk], size: int, session: Session
) -> None:
    """Write chunks one after the other, while the next one arrives."""
    offset = first.offset
    writing: asyncio.Future[int] | None = None
    chunk: Chunk | None = first
    try:
        while chunk is not None:
            session.hear()
            session.traffic.received += len(chunk.data)
            if offset + len(chunk.data) > size or session.over.is_set():
                raise BlobRefused(f"The content {first.digest[:12]} is longer than was offered.")
            if writing is not None:
                await writing
            writing = asyncio.ensure_future(
                asyncio.to_thread(store.append, first.digest, offset, chunk.data)
            )
            offset += len(chunk.data)
            chunk = await anext(rest, None)
    finally:
        if writing is not None:
            await writing


async def _finished(store: BlobStore, digest: str, size: int) -> int:
    """Return how much of a blob is here, after it was verified if that is everything."""
    offset = store.offset(digest)
    if offset == size and not store.has(digest):
        await asyncio.to_thread(store.finish, digest)
    return offset


async def _blocks(file: IO[bytes]) -> AsyncIterator[bytes]:
    """Read a file to its end, always one block ahead."""

    def read() -> asyncio.Future[bytes]:
        return asyncio.ensure_future(asyncio.to_thread(file.read, CHUNK_BYTES))

    reading = read()
    try:
        while data := await reading:
            reading = read()
            yield data
    finally:
        await asyncio.wait([reading])  # before the file is closed


async def _abort(context: Any, error: Exception) -> NoReturn:
    said = NoRoom() if isinstance(error, DiskFull) else error  # no paths leave the coordinator
    await context.abort(STATUS.get(type(said), grpc.StatusCode.INTERNAL), str(said))
    raise AssertionError  # abort raises
