"""A TCP connection on loopback that can be cut, at once or after so many bytes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Wire:
    """Carries connections to a port; counts bytes either way."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._links: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.up_bytes = self.down_bytes = 0  # to the coordinator, and from it
        self.cut_after_up: int | None = None  # of all bytes; once
        self.cut_after_down: int | None = None
        self.open = True
        self.cuts = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Cut all connections."""
        self.cuts += 1
        for link in list(self._links):
            link.transport.abort()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.open:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            writer.transport.abort()
            return
        self._links |= {writer, far_writer}
        await asyncio.gather(
            self._pour(reader, far_writer, up=True), self._pour(far_reader, writer, up=False)
        )
        for link in (writer, far_writer):
            self._links.discard(link)
            link.transport.abort()

    async def _pour(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(1 << 16):
                self._count(len(piece), up=up)
                writer.write(piece)
                await writer.drain()
        writer.transport.abort()

    def _count(self, count: int, *, up: bool) -> None:
        if up:
            self.up_bytes += count
            if self.cut_after_up is not None and self.up_bytes > self.cut_after_up:
                self.cut_after_up = None
                self.cut()
        else:
            self.down_bytes += count
            if self.cut_after_down is not None and self.down_bytes > self.cut_after_down:
                self.cut_after_down = None
                self.cut()


@contextlib.asynccontextmanager
async def wire_to(port: int) -> AsyncIterator[Wire]:
    wire = Wire(port)
    server = await asyncio.start_server(wire.carry, "127.0.0.1", 0)
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        server.close()
        wire.cut()
        await server.wait_closed()
