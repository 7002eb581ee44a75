"""TLS at the door: every byte passes, both ways, and what breaks it is told."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from polyclinic.system.processes import free_port
from polyclinic_demos.local_pki import local_authority
from polyclinic_server.enrolment.authority import Authority
from polyclinic_server.fleet.pipe import Pipe
from polyclinic_server.fleet.tls_pipe import RECORD_BYTES, TlsPipe

HOST = "127.0.0.1"
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return local_authority(tmp_path_factory.mktemp("security"), free_port())


class World:
    """An echo behind a door, in this event loop."""

    def __init__(self, authority: Authority) -> None:
        self.theirs = ssl.create_default_context(cafile=authority.folder / "ca.crt")
        self._context = authority.context()
        self.pipes: list[TlsPipe] = []
        self.errors: list[BaseException] = []
        self.port = 0

    async def play(self, talk: Callable[["World"], Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()
        echo = await asyncio.start_server(_echo, HOST, 0)
        inner_port = echo.sockets[0].getsockname()[1]

        async def serve(pipe: TlsPipe) -> None:
            try:
                await pipe.shake_hands(5.0)
            except (ssl.SSLError, ConnectionError) as error:
                self.errors.append(error)
                return
            _, inner = await loop.create_connection(Pipe, HOST, inner_port)
            pipe.join(inner)
            await pipe.ended()

        tasks = []

        def made() -> TlsPipe:
            self.pipes.append(TlsPipe(self._context))
            tasks.append(loop.create_task(serve(self.pipes[-1])))
            return self.pipes[-1]

        async with await loop.create_server(made, HOST, 0) as door:
            self.port = door.sockets[0].getsockname()[1]
            await asyncio.wait_for(talk(self), 30.0)
            await asyncio.wait_for(asyncio.gather(*tasks), 10.0)
        echo.close()

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(HOST, self.port, ssl=self.theirs)


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(2**16):
        writer.write(data)
        await writer.drain()
    writer.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_every_byte_passes_both_ways(authority: Authority, version: ssl.TLSVersion) -> None:
    sizes = [1, RECORD_BYTES - 1, RECORD_BYTES, RECORD_BYTES + 1, 5 * RECORD_BYTES, 3_000_000]
    parts = [Random(size).randbytes(size) for size in sizes]

    async def talk(world: World) -> None:
        world.theirs.maximum_version = version
        reader, writer = await world.dial()

        async def send() -> None:
            for part in parts:
                writer.write(part)
                await writer.drain()

        sending = asyncio.create_task(send())
        assert await reader.readexactly(sum(sizes)) == b"".join(parts)
        await sending
        writer.close()
        await writer.wait_closed()

    world = World(authority)
    asyncio.run(world.play(talk))
    assert not world.errors


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "HTTP_REQUEST"),
        (b"no record of TLS", "WRONG_VERSION_NUMBER"),
    ],
)
def test_who_speaks_no_tls_is_refused(authority: Authority, words: bytes, reason: str) -> None:
    async def talk(world: World) -> None:
        reader, writer = await asyncio.open_connection(HOST, world.port)
        writer.write(words)
        assert await reader.read() == b""
        writer.close()

    world = World(authority)
    asyncio.run(world.play(talk))
    (error,) = world.errors
    assert isinstance(error, ssl.SSLError) and error.reason == reason


def test_who_leaves_in_the_handshake_fails_it_alone(authority: Authority) -> None:
    async def talk(world: World) -> None:
        _, writer = await asyncio.open_connection(HOST, world.port)
        writer.close()
        await writer.wait_closed()
        reader, writer = await world.dial()
        writer.write(b"here")
        assert await reader.readexactly(4) == b"here"
        writer.close()

    world = World(authority)
    asyncio.run(world.play(talk))
    (error,) = world.errors
    assert isinstance(error, ConnectionError)


def test_garbage_after_the_handshake_ends_the_connection(authority: Authority) -> None:
    async def talk(world: World) -> None:
        reader, writer = await world.dial()
        writer.write(b"here")
        assert await reader.readexactly(4) == b"here"
        world.pipes[0].data_received(b"no record of TLS at all")
        with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
            await reader.read()
        writer.close()

    world = World(authority)
    asyncio.run(world.play(talk))
    assert not world.errors
