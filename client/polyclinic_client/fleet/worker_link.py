"""The hospital's worker, as its client sees it: a process that is asked, and started again."""

import asyncio
import json
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from polyclinic.errors import ProcessDied
from polyclinic.fleet.protocol import WORKER_ENDED
from polyclinic.fleet.wire.fleet_pb2 import Envelope
from polyclinic.system.machine import thread_settings
from polyclinic.system.processes import Child, how_it_ended, pause_s, python_module
from polyclinic_client.fleet.frames import LENGTH, check_length, pack
from polyclinic_client.network.connection import Say

NAME = "the hospital's worker"
STEADY_S = 60.0  # a process that lived so long has started well
DEATHS = 5  # in a row, each sooner than that: then something is wrong here
MODULE = "polyclinic_client.fleet.worker"


class WorkerEnded(Exception):
    """The worker ended while it worked; the text may leave the hospital."""


class WorkerLink:
    """Starts the worker, again if it dies, and asks it one thing at a time.

    Args:
        state: Folder of its log.
        blobs: Folder of what is large.
        node_config: What the ClientApp is told about this hospital; stays on this machine.
        say: Told what happens.
        module: Python module to run.
    """

    def __init__(
        self,
        state: Path,
        blobs: Path,
        node_config: Mapping[str, str],
        say: Say,
        module: str = MODULE,
    ) -> None:
        self._log, self._say, self._module = state / "worker.log", say, module
        self._arguments = [str(blobs), json.dumps(dict(node_config))]
        self.child: Child | None = None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._up, self._down = asyncio.Event(), asyncio.Event()
        self.turn = asyncio.Lock()  # of whoever asks
        self._falls = 0
        self._replaced = self._leaving = False
        self._status = 0  # how the last one ended

    async def keep(self) -> None:
        """Start the worker, and again whenever it ends, until `stop`.

        Raises:
            ProcessDied: It dies again and again.
        """
        while not self._leaving:
            started = time.monotonic()
            child = await self._start()
            await asyncio.to_thread(child.wait)
            self._status = child.status() or 0
            self._up.clear()
            self._down.set()
            self._close()
            if self._replaced or self._leaving:
                self._replaced = False
                continue
            await self._fall(child, time.monotonic() - started)

    async def ask(self, question: Envelope) -> Envelope:
        """Hand over a question and wait for the answer; the caller has `turn`.

        Raises:
            WorkerEnded: It died meanwhile.
        """
        await self._up.wait()
        assert self._streams is not None
        reader, writer = self._streams
        try:
            writer.write(pack(question))
            await writer.drain()
            (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
            answer: Envelope = Envelope.FromString(await reader.readexactly(check_length(length)))
            return answer
        except (OSError, asyncio.IncompleteReadError) as error:
            await self._down.wait()  # the process ends a moment after its socket
            raise WorkerEnded(how_it_ended(self._status, WORKER_ENDED)) from error

    @property
    def busy(self) -> bool:
        """Whether the worker works."""
        return self.turn.locked()

    def last_words(self) -> str:
        """Return the last line of the worker's log."""
        return "" if self.child is None else self.child.last_words()

    def replace(self) -> None:
        """End the worker, whose work nobody wants any more, and start another."""
        if self.child is not None and self.child.status() is None:
            self._replaced = True
            self.child.signal(signal.SIGTERM)

    def forgive(self) -> None:
        """Forget how often it died."""
        self._falls = 0

    def stop(self, patience_s: float = 4.0) -> None:
        """End the worker for good."""
        self._leaving = True
        if self.child is not None:
            self.child.stop(patience_s)

    async def _start(self) -> Child:
        ours, theirs = socket.socketpair()
        with theirs:
            command = python_module(self._module, str(theirs.fileno()), *self._arguments)
            self.child = Child(NAME, command, self._log, thread_settings())
            self.child.start(pass_fds=[theirs.fileno()])
        self._streams = await asyncio.open_connection(sock=ours)
        self._down.clear()
        self._up.set()
        return self.child

    def _close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _fall(self, child: Child, lived_s: float) -> None:
        """Say how it ended, and wait before the next start."""
        words = child.last_words()
        self._falls = 1 if lived_s > STEADY_S else self._falls + 1
        if self._falls >= DEATHS:
            raise ProcessDied(NAME, self._status, words)
        self._say(f"{how_it_ended(self._status, WORKER_ENDED)}: {words}. It is started again.")
        await asyncio.sleep(pause_s(20.0 * 2**self._falls, 0.1, 30.0))
