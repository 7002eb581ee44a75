"""Two connections joined into one: what either receives, the other sends, and neither hoards."""

import asyncio
from typing import cast

UNPROVED_BYTES = 64 * 1024  # of a connection that has not shown who it is; the rest has to wait
FULL_BYTES = 512 * 1024  # not sent yet: the other side is not read until there is room again
LAST_WORDS_S = 5.0  # for what is on its way when the other end has closed


class Pipe(asyncio.Protocol):
    """One end of a joined connection; lives in an event loop.

    Args:
        trusted: Whether it may send at once as much as it likes; see `trust`.
    """

    def __init__(self, *, trusted: bool = True) -> None:
        loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._other: Pipe | None = None
        self._early: list[bytes] = []
        self._received = 0
        self._trusted = trusted
        self._holds: set[str] = set()  # reasons not to read
        self._begun = loop.create_future()
        self._lost = loop.create_future()

    async def begun(self) -> None:
        """Wait for the first bytes.

        Raises:
            ConnectionError: The connection ended before.
        """
        await asyncio.wait([self._begun, self._lost], return_when=asyncio.FIRST_COMPLETED)
        if not self._begun.done():
            raise ConnectionError("closed before the first byte")

    async def ended(self) -> None:
        """Wait until both ends are closed; some seconds, when the first one is."""
        assert self._other is not None
        ends = [self._lost, self._other._lost]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait(ends, timeout=LAST_WORDS_S)

    def trust(self) -> None:
        """Let it send as much as it likes from now on."""
        self._trusted = True
        self._free("untrusted")

    def join(self, other: "Pipe") -> None:
        """Pass on what has arrived, and all that arrives, both ways."""
        self._other, other._other = other, self
        for end in (self, other):
            early, end._early = end._early, []
            for data in early:
                end._pass_on(data)
            end._free("alone")
        for end in (self, other):
            if end._lost.done():
                end._close_other()

    def send(self, data: bytes) -> None:
        """Send to whoever is outside."""
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """Close once all is sent; calling this twice does no harm."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once; calling this twice does no harm."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio's interface."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=FULL_BYTES)

    def data_received(self, data: bytes) -> None:
        """Part of asyncio's interface."""
        if not self._begun.done():
            self._begun.set_result(None)
        if not self._trusted:
            self._received += len(data)
            if self._received >= UNPROVED_BYTES:
                self._hold("untrusted")
        if self._other is None:
            self._early.append(data)
            self._hold("alone")
        else:
            self._pass_on(data)

    def eof_received(self) -> bool:
        """Part of asyncio's interface: nobody here ends one direction alone."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio's interface."""
        del exc
        if not self._lost.done():
            self._lost.set_result(None)
        self._close_other()

    def pause_writing(self) -> None:
        """Part of asyncio's interface: what we send piles up."""
        if self._other is not None:
            self._other._hold("full")

    def resume_writing(self) -> None:
        """Part of asyncio's interface."""
        if self._other is not None:
            self._other._free("full")

    def _pass_on(self, data: bytes) -> None:
        assert self._other is not None
        if self._other._is_open():
            self._other.send(data)

    def _close_other(self) -> None:
        if self._other is not None:
            self._other.close()

    def _is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def _hold(self, reason: str) -> None:
        if self._transport is not None and not self._holds:
            self._transport.pause_reading()
        self._holds.add(reason)

    def _free(self, reason: str) -> None:
        if reason in self._holds:
            self._holds.discard(reason)
            if self._transport is not None and not self._holds and not self._lost.done():
                self._transport.resume_reading()
