"""A TCP relay on loopback that stands for the network: it can be slow, silent, or cut.

with Relay("127.0.0.1:9092", bits_per_s=1_000_000, latency_s=0.05) as relay:
    ...                      # a hospital dials relay.address
    relay.cut("silent")      # or "reset"
    relay.mend()
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from polyclinic.system.processes import parse_address

CHUNK = 4096  # bytes; at 1 Mbit/s one takes 33 ms
# largest number of chunks on their way, in each direction of a connection: then the sender has to
# wait, as with TCP
QUEUE = 64
Cut = Literal["silent", "reset"]


@dataclass
class Lane:
    """One direction of a link; all of its connections share it."""

    bits_per_s: float  # 0 for no limit
    free_at: float = 0.0
    passed: int = 0

    def occupy(self, size: int, now: float) -> float:
        """Return when this many bytes have been sent, if they start as soon as the lane is free."""
        self.passed += size
        self.free_at = max(now, self.free_at) + (
            8 * size / self.bits_per_s if self.bits_per_s else 0.0
        )
        return self.free_at


class Relay:
    """A relay in a thread of its own.

    Args:
        target: HOST:PORT; need not answer yet.
        bits_per_s: Rate of each direction; 0 for no limit.
        latency_s: Latency of each direction.
        down_bits_per_s: Rate to the hospital, if it is another one.
    """

    def __init__(
        self,
        target: str,
        bits_per_s: float = 0.0,
        latency_s: float = 0.0,
        down_bits_per_s: float | None = None,
    ) -> None:
        self._target = parse_address(target)
        self._latency_s = latency_s
        down = bits_per_s if down_bits_per_s is None else down_bits_per_s
        self._lanes = Lane(bits_per_s), Lane(down)  # from the hospital, to the hospital
        self._cut: Cut | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        # ends of connections through which nothing passes any more
        self._silenced: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)
        self.connections = 0
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._serve, "127.0.0.1", 0))
        assert self._server is not None
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)
        self._loop.close()

    @property
    def address(self) -> str:
        """Address that a hospital dials."""
        return f"127.0.0.1:{self.port}"

    def passed(self) -> int:
        """Return the number of bytes so far, both ways."""
        return sum(lane.passed for lane in self._lanes)

    def sent(self) -> int:
        """Return the number of bytes that came from the hospital so far."""
        return self._lanes[0].passed

    def cut(self, how: Cut) -> None:
        """Cut every connection, and those that are tried until `mend`.

        Args:
            how: `silent`: they stay open and nothing passes, then or later, as when a firewall has
                forgotten them; `reset`: they are closed by RST.
        """
        self._do(self._apply(how))

    def mend(self) -> None:
        """Let new connections pass."""
        self._do(self._apply(None))

    def _do(self, what: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(10.0)

    async def _apply(self, how: Cut | None) -> None:
        self._cut = how
        if how == "silent":
            self._silenced |= self._ends
        elif how == "reset":
            for end in list(self._ends):
                _reset(end)

    async def _end(self) -> None:
        """Stop listening, and end all connections."""
        assert self._server is not None
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection, until either side ends it."""
        self.connections += 1
        if self._cut == "reset":
            _reset(writer)
            return
        ends = [writer]
        self._ends.add(writer)
        if self._cut == "silent":
            self._silenced.add(writer)
        try:
            if writer not in self._silenced:
                outer_reader, outer_writer = await asyncio.open_connection(*self._target)
                ends.append(outer_writer)
                self._ends.add(outer_writer)
                pumps = [
                    self._pump(reader, outer_writer, self._lanes[0]),
                    self._pump(outer_reader, writer, self._lanes[1]),
                ]
                tasks = [asyncio.ensure_future(pump) for pump in pumps]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    task.cancel()
            if writer in self._silenced:
                while await reader.read(CHUNK):  # taken, and lost
                    continue
        except (OSError, asyncio.CancelledError):
            pass  # nobody answers there, it was reset, or the relay ends
        finally:
            for end in ends:
                self._ends.discard(end)
                self._silenced.discard(end)
                end.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lane: Lane
    ) -> None:
        """Pass on one direction, and its end, at the link's pace."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUE)
        delivery = asyncio.ensure_future(self._deliver(queue, writer))
        try:
            while data := await reader.read(CHUNK):
                now = self._loop.time()
                sent_at = lane.occupy(len(data), now)
                await queue.put((sent_at + self._latency_s, data))
                await asyncio.sleep(sent_at - now)
            await queue.put((self._loop.time() + self._latency_s, b""))
            await delivery
        except OSError:
            pass
        finally:
            delivery.cancel()

    async def _deliver(
        self, queue: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        while True:
            moment, data = await queue.get()
            await asyncio.sleep(moment - self._loop.time())
            if writer in self._silenced:
                await asyncio.Event().wait()  # for ever: whoever sends has to wait, too
            if not data:
                return
            writer.write(data)
            await writer.drain()


def _reset(end: asyncio.StreamWriter) -> None:
    """Close a connection with RST, as a broken link does."""
    found = end.get_extra_info("socket")
    if found is not None:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.transport.abort()
