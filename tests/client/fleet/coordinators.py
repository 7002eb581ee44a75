"""A coordinator that speaks the wire and does what a test tells it; nothing of the server's."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
from blake3 import blake3

from polyclinic.fleet import challenge
from polyclinic.fleet.blobs import BlobStore
from polyclinic.fleet.protocol import CHUNK_BYTES, PROTOCOL, SERVER_OPTIONS, SESSION_HEADER
from polyclinic.fleet.wire import fleet_pb2 as wire
from polyclinic.fleet.wire.fleet_pb2_grpc import FleetServicer, add_FleetServicer_to_server
from polyclinic.security import keys
from polyclinic.security.admission_errors import AdmissionRefused
from polyclinic_server.enrolment.authority import Authority

PATIENCE_S = 20.0


class Coordinator(FleetServicer):
    """Keeps everything that it hears."""

    def __init__(self, folder: Path, authority: Authority | None = None) -> None:
        self.store = BlobStore(folder)
        self.authority = authority
        self.instance = uuid.uuid4().hex
        self.refusal: AdmissionRefused | None = None
        self.protocol = PROTOCOL
        self.beat_ms = 10_000
        self.quiet = False  # sends no heartbeat
        self.take = True  # answers replies with Taken
        self.offer_code: grpc.StatusCode | None = None
        self.anchors: list[wire.Anchor] = []
        self.hellos: list[wire.Hello] = []
        self.proofs: list[wire.Proof] = []
        self.frames: list[wire.FromHospital] = []
        self.replies: list[wire.Envelope] = []
        self.fetched: list[tuple[str, int]] = []  # digest and offset of each Fetch
        self.stored: list[tuple[str, int]] = []  # and of each Store
        self.streams = 0
        self.session = b""
        self.port = 0
        self._out: asyncio.Queue[wire.FromCoordinator | None] | None = None
        self._news = asyncio.Condition()
        self._server: Any = None

    # what tests do

    async def start(self, host: str = "127.0.0.1") -> None:
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        add_FleetServicer_to_server(self, self._server)
        address = f"{host}:{self.port}"
        if self.authority is None:
            self.port = self._server.add_insecure_port(address)
        else:
            folder = self.authority.folder
            pair = (folder / "server.key").read_bytes(), (folder / "server.crt").read_bytes()
            self.port = self._server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(0)

    async def until(self, true: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
        async with asyncio.timeout(patience_s), self._news:
            while not true():
                await self._news.wait()

    async def send(self, **frame: Any) -> None:
        await self.until(lambda: self._out is not None)
        assert self._out is not None
        self._out.put_nowait(wire.FromCoordinator(**frame))

    def question(self, text: str, content: bytes = b"") -> wire.Envelope:
        """Make work for `small_worker`; a long content travels as a blob."""
        value = wire.NamedValue(name="content", data=content)
        if len(content) > 1000:
            value = wire.NamedValue(name="content", blob=self.store.put([content]))
        entries = [wire.NamedValue(name="do", text=text), value]
        record = wire.Record(name="record", config=wire.Values(entries=entries))
        return wire.Envelope(
            message_id=uuid.uuid4().hex,
            type="query.test",
            created=time.time(),
            ttl_s=3600.0,
            node=7,
            run=1,
            content=wire.Content(records=[record]),
        )

    async def ask(self, question: wire.Envelope) -> wire.Envelope:
        await self.send(work=wire.Work(envelope=question))
        return await self.answer(question)

    async def answer(self, question: wire.Envelope) -> wire.Envelope:
        await self.until(lambda: self.answers(question))
        return self.answers(question)[-1]

    def answers(self, question: wire.Envelope) -> list[wire.Envelope]:
        return [each for each in self.replies if each.reply_to == question.message_id]

    def heard(self, kind: str) -> list[Any]:
        return [getattr(each, kind) for each in self.frames if each.WhichOneof("frame") == kind]

    def taken(self, message_id: str) -> None:
        assert self._out is not None
        taken = wire.Taken(message_id=message_id, anchors=self.anchors)
        self._out.put_nowait(wire.FromCoordinator(taken=taken))

    # the wire

    async def Attend(self, frames: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        hello = (await anext(frames)).hello
        self.hellos.append(hello)
        nonce = challenge.new_nonce() if self.authority else b""
        asked = wire.Challenge(nonce=nonce, protocol=self.protocol, version="0.1.0")
        yield wire.FromCoordinator(challenge=asked)
        proof = (await anext(frames)).proof
        self.proofs.append(proof)
        if self.authority is not None:
            known = keys.authority_digest((self.authority.folder / "ca.crt").read_text())
            challenge.verify(proof, nonce, known, hello.site, self.protocol)
        if self.refusal is not None:
            yield wire.FromCoordinator(refusal=wire.Refusal(reason=self.refusal.pack()))
            await self._note()
            return
        welcome = wire.Welcome(
            site=hello.site,
            version="0.1.0",
            instance=self.instance,
            session=uuid.uuid4().bytes,
            heartbeat_ms=self.beat_ms,
            time=time.time(),
            anchors=self.anchors,
        )
        yield wire.FromCoordinator(welcome=welcome)
        if hello.client:
            self.session = welcome.session
            async for frame in self._serve(frames):
                yield frame

    async def _serve(self, frames: Any) -> AsyncIterator[Any]:
        out: asyncio.Queue[wire.FromCoordinator | None] = asyncio.Queue()
        self._out = out
        self.streams += 1
        listening = asyncio.create_task(self._listen(frames, out))
        try:
            await self._note()
            while (frame := await self._next(out)) is not None:
                yield frame
        finally:
            listening.cancel()
            self._out = None if self._out is out else self._out
            self.streams -= 1
            await asyncio.shield(self._note())

    async def _next(self, out: asyncio.Queue[Any]) -> wire.FromCoordinator | None:
        while True:
            try:
                return await asyncio.wait_for(out.get(), self.beat_ms / 1000)
            except TimeoutError:
                if not self.quiet:
                    return wire.FromCoordinator(heartbeat=wire.Heartbeat())

    async def _listen(self, frames: Any, out: asyncio.Queue[Any]) -> None:
        async for frame in frames:
            self.frames.append(frame)
            kind = frame.WhichOneof("frame")
            if kind == "reply":
                self.replies.append(frame.reply.envelope)
                if self.take:
                    self.taken(frame.reply.envelope.reply_to)
            if kind == "goodbye":
                out.put_nowait(None)
            await self._note()
        out.put_nowait(None)

    async def _note(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def _check_session(self, context: Any) -> None:
        if dict(context.invocation_metadata()).get(SESSION_HEADER) != self.session:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "another session")

    async def Fetch(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        await self._check_session(context)
        self.fetched.append((request.digest, request.offset))
        if not self.store.has(request.digest):
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such blob")
        content = self.store.path(request.digest).read_bytes()
        for start in range(request.offset, len(content), CHUNK_BYTES // 8):
            yield wire.Chunk(data=content[start : start + CHUNK_BYTES // 8])

    async def Offer(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._check_session(context)
        if self.offer_code is not None:
            await context.abort(self.offer_code, "the quota is used up")
        return wire.Progress(offset=self.store.offset(request.blob.digest))

    async def Store(self, chunks: Any, context: Any) -> Any:  # noqa: N802
        await self._check_session(context)
        digest, offset = "", 0
        async for chunk in chunks:
            if chunk.digest:
                digest, offset = chunk.digest, chunk.offset
                self.stored.append((digest, offset))
            offset = self.store.append(digest, offset, chunk.data)
        part = self.store.folder / f"{digest}.part"
        if blake3(part.read_bytes()).hexdigest() == digest:
            self.store.finish(digest)
        return wire.Progress(offset=offset)


@contextlib.asynccontextmanager
async def coordinating(
    folder: Path, authority: Authority | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Coordinator]:
    one = Coordinator(folder, authority)
    one.port = authority.port if authority else 0
    await one.start(host)
    try:
        yield one
    finally:
        await one.stop()
