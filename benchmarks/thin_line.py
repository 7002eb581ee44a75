"""A hospital's end of the fleet's wire, for hospitals without an inside: many fit in one process.

Everything on the wire is real: a connection of its own, TLS, the key's proof, heartbeats, contents
beside the line. What is left out is resuming after a cut: a line that is cut is begun anew.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Iterable

import grpc

from polyclinic.fleet.contents import named_blobs
from polyclinic.fleet.protocol import CLIENT_OPTIONS, HANDSHAKE_S, SESSION_HEADER
from polyclinic.fleet.wire import fleet_pb2 as wire
from polyclinic_client.network.connection import Connection
from polyclinic_client.network.introduction import Introduction, Welcome, fleet_stub

PAUSE_S = 1.0  # between two tries


class ThinLine:
    """A hospital's line; a subclass answers.

    Args:
        connection: How it connects.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._client = secrets.token_hex(8)
        self.counts: Counter[str] = Counter()  # of what it did
        self._tasks: set[asyncio.Task[None]] = set()
        self._writing = asyncio.Lock()

    async def answer(self, question: wire.Envelope) -> wire.Envelope:
        """Answer a question; what is large was offered before."""
        raise NotImplementedError

    def welcomed(self) -> None:
        """Do what is to be done when the line stands."""

    async def live(self, *, once: bool = False) -> None:
        """Attend until cancelled.

        Args:
            once: End with the first line.
        """
        introduction = self._connection.introduction()
        while True:
            channel = self._connection.open_channel(CLIENT_OPTIONS, grpc.aio)
            try:
                await self._attend(channel, introduction)
            except (grpc.RpcError, TimeoutError, EOFError) as error:
                code = error.code().name if isinstance(error, grpc.RpcError) else type(error)
                self.counts[f"cut: {code}"] += 1
            finally:
                await channel.close()
            if once:
                return
            await asyncio.sleep(PAUSE_S)

    async def fetch(self, digest: str) -> list[bytes]:
        """Fetch a content, in its chunks."""
        self.counts["fetched"] += 1
        call = self._stub.Fetch(wire.FetchRequest(digest=digest), metadata=self._metadata)
        return [chunk.data async for chunk in call]

    async def store(self, message_id: str, blob: wire.Blob, chunks: Iterable[bytes]) -> None:
        """Offer a content of an answer, and send it if the coordinator has not got it."""
        self.counts["stored"] += 1
        offer = wire.OfferRequest(message_id=message_id, blob=blob)
        there = await self._stub.Offer(offer, metadata=self._metadata)
        if there.offset < blob.size:
            assert not there.offset
            await self._stub.Store(_chunks(blob.digest, chunks), metadata=self._metadata)

    async def _attend(self, channel: object, introduction: Introduction) -> None:
        self._stub = fleet_stub(channel)
        self._line = self._stub.Attend()
        async with asyncio.timeout(HANDSHAKE_S):
            await self._write(introduction.hello(client=self._client))
            await self._write(introduction.prove(await self._read()))
            welcome = introduction.welcome(await self._read())
        self._metadata = [(SESSION_HEADER, welcome.session)]
        self.welcomed()
        beating = asyncio.create_task(self._beat(welcome))
        try:
            while True:
                frame = await self._read()
                self.counts["frames"] += 1
                if frame.WhichOneof("frame") == "work":
                    task = asyncio.create_task(self._work(frame.work.envelope))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
        finally:
            beating.cancel()

    async def _write(self, frame: wire.FromHospital) -> None:
        async with self._writing:  # gRPC takes one at a time
            await self._line.write(frame)

    async def _read(self) -> wire.FromCoordinator:
        frame = await self._line.read()
        if frame == grpc.aio.EOF:
            raise EOFError
        assert isinstance(frame, wire.FromCoordinator)
        return frame

    async def _beat(self, welcome: Welcome) -> None:
        while True:
            await asyncio.sleep(welcome.beat_s)
            await self._write(wire.FromHospital(heartbeat=wire.Heartbeat()))

    async def _work(self, question: wire.Envelope) -> None:
        received = wire.Received(message_id=question.message_id)
        await self._write(wire.FromHospital(received=received))
        line = self._line
        try:
            reply = await self.answer(question)
            reply.reply_to = question.message_id
            if line is self._line:  # not another one, where nobody asked it
                await self._write(wire.FromHospital(reply=wire.Reply(envelope=reply)))
        except (grpc.RpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
            self.counts["lost"] += 1  # the line was cut: it is asked again


class Echo(ThinLine):
    """A hospital that answers at once with what it was sent.

    Args:
        connection: How it connects.
    """

    ONLY_FETCH = "only-fetch"  # a question in this group: the large content is not sent back

    async def answer(self, question: wire.Envelope) -> wire.Envelope:
        """Fetch everything, and send it back."""
        reply = wire.Envelope()
        for digest, size in named_blobs(question).items():
            chunks = await self.fetch(digest)
            if question.group != self.ONLY_FETCH:
                blob = wire.Blob(digest=digest, size=size)
                await self.store(question.message_id, blob, chunks)
        if question.group == self.ONLY_FETCH:
            reply.content.SetInParent()
        else:
            reply.content.CopyFrom(question.content)
        return reply


async def _chunks(digest: str, parts: Iterable[bytes]) -> AsyncIterator[wire.Chunk]:
    for number, data in enumerate(parts):
        yield wire.Chunk(digest="" if number else digest, data=data)
