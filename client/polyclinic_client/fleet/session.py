"""A hospital's line while it stands, and the waiting for the next one."""

import asyncio
import contextlib
import time
from typing import Any

import grpc

from polyclinic.fleet.protocol import SESSION_HEADER, SILENT_BEATS
from polyclinic.fleet.wire import fleet_pb2 as wire
from polyclinic_client.network.introduction import Welcome


class LineCut(Exception):
    """The line was cut; another one will come."""


def was_cancelled() -> bool:
    """Return whether this task was cancelled, rather than the call that it waits for."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


class Session:
    """One line, from the welcome until it is cut.

    Args:
        stub: Calls on the same connection.
        call: The stream.
        welcome: What the coordinator said.
    """

    def __init__(self, stub: Any, call: Any, welcome: Welcome) -> None:
        self.stub, self.welcome = stub, welcome
        self.metadata = ((SESSION_HEADER, welcome.session),)
        self._call = call
        self._turn = asyncio.Lock()
        self._writing: set[asyncio.Task[None]] = set()
        self._closed = asyncio.Event()
        self._heard = time.monotonic()

    async def send(self, frame: wire.FromHospital) -> None:
        """Send a frame; whoever is cancelled in the meantime leaves it to go out.

        A write that is cancelled would end the whole line. So happens to a reply that is taken
        before gRPC has told that it went out.

        Raises:
            LineCut: It did not go out.
        """
        writing = asyncio.create_task(self._write(frame))
        self._writing.add(writing)
        writing.add_done_callback(self._written)
        await asyncio.shield(writing)

    def _written(self, writing: asyncio.Task[None]) -> None:
        self._writing.discard(writing)
        if not writing.cancelled():
            writing.exception()  # nobody else may be left who would look

    async def _write(self, frame: wire.FromHospital) -> None:
        async with self._turn:
            try:
                await self._call.write(frame)
            except (grpc.RpcError, grpc.aio.UsageError, asyncio.InvalidStateError) as error:
                await self.wait_closed()
                raise LineCut from error
            except asyncio.CancelledError as error:
                if was_cancelled():
                    raise
                await self.wait_closed()
                raise LineCut from error

    async def read(self) -> wire.FromCoordinator | None:
        """Wait for the next frame; None when the coordinator has ended the line.

        Raises:
            grpc.RpcError: The line is cut.
            asyncio.CancelledError: `cut` was called.
        """
        frame = await self._call.read()
        self.heard()
        if frame == grpc.aio.EOF:
            return None
        assert isinstance(frame, wire.FromCoordinator)
        return frame

    def cut(self) -> None:
        """Cut the line: nothing is heard any more."""
        self._call.cancel()

    async def finish(self) -> None:
        """Send nothing more."""
        async with self._turn:
            await self._call.done_writing()

    def heard(self) -> None:
        """Note that the coordinator is there."""
        self._heard = time.monotonic()

    @property
    def silent(self) -> bool:
        """Whether nothing was heard for so long that the line must be dead."""
        return time.monotonic() - self._heard > SILENT_BEATS * self.welcome.beat_s

    def close(self) -> None:
        """Tell everybody that the line is cut."""
        self._closed.set()

    @property
    def closed(self) -> bool:
        """Whether the line is cut."""
        return self._closed.is_set()

    async def wait_closed(self, timeout_s: float | None = None) -> None:
        """Wait until the line is cut, for so long at most."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), timeout_s)


class Sessions:
    """The sessions of one line, one after the other."""

    def __init__(self) -> None:
        self._present: Session | None = None
        self._changed = asyncio.Condition()

    async def begin(self, session: Session) -> None:
        """Let everybody go on who waits for the line."""
        async with self._changed:
            self._present = session
            self._changed.notify_all()

    async def present(self) -> Session:
        """Return the session that stands; wait for it if the line is cut."""
        async with self._changed:
            while self._present is None or self._present.closed:
                await self._changed.wait()
            return self._present
