"""A gRPC stream over TLS between two processes, without hashes, files or keys: the yardstick.

    with BareStream(authority, data) as bare:
        down, up = bare.seconds()

Run as a program, it is the other end.
"""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import grpc

from polyclinic.fleet.protocol import CHUNK_BYTES, CLIENT_OPTIONS, SERVER_OPTIONS
from polyclinic.system.processes import end_with_parent, free_port
from polyclinic_server.enrolment.authority import Authority

NAME = "/bare.Stream/"
LIMIT_S = 600.0


class BareStream:
    """One end, in a thread; the other one is a process that it starts.

    Args:
        authority: Whose certificate is shown.
        data: What travels.
    """

    def __init__(self, authority: Authority, data: bytes) -> None:
        self._authority, self._data = authority, data
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._address = f"127.0.0.1:{free_port()}"
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(LIMIT_S)
        trusted = str(self._authority.folder / "ca.crt")
        self._child = subprocess.Popen([sys.executable, __file__, self._address, trusted])
        return self

    def __exit__(self, *_: object) -> None:
        assert self._child is not None
        self._child.kill()
        self._child.wait()
        asyncio.run_coroutine_threadsafe(self._server.stop(0), self._loop).result(LIMIT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def seconds(self) -> tuple[float, float]:
        """Return the seconds of one transfer down and one up."""
        return asyncio.run_coroutine_threadsafe(self._transfer(), self._loop).result(LIMIT_S)

    async def _open(self) -> None:
        self._go: asyncio.Queue[bytes] = asyncio.Queue()
        self._done: asyncio.Queue[float] = asyncio.Queue()
        folder = self._authority.folder
        pair = ((folder / "server.key").read_bytes(), (folder / "server.crt").read_bytes())
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        calls = {
            "Wait": grpc.unary_unary_rpc_method_handler(self._wait),
            "Down": grpc.unary_stream_rpc_method_handler(self._down),
            "Up": grpc.stream_unary_rpc_method_handler(self._up),
        }
        handler = grpc.method_handlers_generic_handler(NAME.strip("/"), calls)
        self._server.add_generic_rpc_handlers((handler,))
        self._server.add_secure_port(self._address, grpc.ssl_server_credentials([pair]))
        await self._server.start()

    async def _transfer(self) -> tuple[float, float]:
        found = []
        for _ in range(2):
            await self._go.put(b"go")
            began = await self._done.get()
            found.append(await self._done.get() - began)
        return found[0], found[1]

    async def _wait(self, _request: bytes, _context: Any) -> bytes:
        return await self._go.get()

    async def _down(self, _request: bytes, _context: Any) -> AsyncIterator[bytes]:
        await self._done.put(time.perf_counter())
        view = memoryview(self._data)
        for start in range(0, len(view), CHUNK_BYTES):
            yield bytes(view[start : start + CHUNK_BYTES])
        await self._done.put(time.perf_counter())

    async def _up(self, requests: AsyncIterator[bytes], _context: Any) -> bytes:
        await self._done.put(time.perf_counter())
        async for _ in requests:
            pass
        await self._done.put(time.perf_counter())
        return b""


async def play(address: str, trusted: Path) -> None:
    """Fetch what the stream has, and send it back, as often as told."""
    credentials = grpc.ssl_channel_credentials(trusted.read_bytes())
    async with grpc.aio.secure_channel(address, credentials, CLIENT_OPTIONS) as channel:
        wait = channel.unary_unary(f"{NAME}Wait")
        while True:
            await wait(b"", wait_for_ready=True)
            kept = [data async for data in channel.unary_stream(f"{NAME}Down")(b"")]
            await wait(b"")
            await channel.stream_unary(f"{NAME}Up")(_again(kept))


async def _again(parts: list[bytes]) -> AsyncIterator[bytes]:
    for data in parts:
        yield data


if __name__ == "__main__":
    end_with_parent()
    asyncio.run(play(sys.argv[1], Path(sys.argv[2])))
