"""Line and worker of a hospital, in a thread beside whoever started them."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Mapping
from pathlib import Path

from polyclinic.fleet.blobs import BlobStore
from polyclinic.fleet.wire.fleet_pb2 import Doing
from polyclinic.system.processes import Child
from polyclinic_client.fleet.anchors import Anchors
from polyclinic_client.fleet.jobs import Jobs
from polyclinic_client.fleet.line import Line
from polyclinic_client.fleet.session import Sessions
from polyclinic_client.fleet.worker_link import MODULE, WorkerLink
from polyclinic_client.network.connection import Connection, Say
from polyclinic_client.policy.policy import PolicyDamaged, read_policy
from polyclinic_client.sent.ways import BY_LINE, LEAVES
from polyclinic_client.site.status import (
    CONNECTED,
    CONNECTION,
    LOST,
    WORKER,
    Machine,
    StatusFile,
    StatusNews,
    read_machine,
    worker_news,
)

BLOBS_BYTES = 2 << 30  # of contents that may be needed again
LOOK_S = 0.05


class Supervisor:
    """Takes part in a federation: keeps the line up and the worker alive.

    Args:
        connection: The coordinator.
        data: Folder with dataset.json.
        state: Folder of logs, blobs and status.
        say: Told what happens, and what the worker does.
        mode: train or describe, see `polyclinic_client.site.site.Site`.
        module: Python module of the worker.
    """

    def __init__(
        self,
        connection: Connection,
        data: Path,
        state: Path,
        say: Say,
        mode: str = "train",
        module: str = MODULE,
    ) -> None:
        self._say = say
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._news = StatusNews(state / WORKER, worker_news, say)
        self._state = state
        self._status = StatusFile(state / WORKER)
        self._connection = StatusFile(state / CONNECTION)
        self._connected(False)
        node_config = {
            "site": connection.site,
            "data": str(data),
            "state": str(state),
            "mode": mode,
            **connection.signing(),
            LEAVES: BY_LINE,
        }
        blobs = state / "fleet" / "blobs"
        store = _clean_store(blobs)
        sessions = Sessions()
        self._worker = WorkerLink(state, blobs, node_config, self._lines.put, module)
        self._jobs = Jobs(store, self._worker, sessions, self._lines.put)
        self._line = Line(
            connection,
            sessions,
            self._jobs,
            Anchors(state, connection.kit.ca if connection.kit else ""),
            self._lines.put,
            self._doing,
            self._connected,
        )
        self._thread = threading.Thread(target=self._run, name="fleet", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: BaseException | None = None
        self._ready = threading.Event()  # the thread can be told to leave

    def start(self) -> None:
        """Start the worker and take up the line."""
        self._thread.start()

    def tend(self) -> None:
        """Say what has happened.

        Raises:
            AdmissionRefused: The coordinator does not let this hospital in any more.
            ProcessDied: The worker dies again and again.
        """
        self._news.tend()
        with contextlib.suppress(queue.Empty):
            while True:
                self._say(self._lines.get_nowait())
        if self._ended is not None:
            raise self._ended

    @property
    def failures(self) -> Mapping[str, str]:
        """What the worker could not do when it was last asked, and why, by kind of question."""
        return dict(self._jobs.failures)

    @property
    def children(self) -> list[Child]:
        """The processes that were started."""
        return [] if self._worker.child is None else [self._worker.child]

    def settle(self, timeout_s: float) -> None:
        """Wait until the coordinator has taken every answer, for so long at most."""
        if self._loop is not None and self._thread.is_alive():
            with contextlib.suppress(TimeoutError, RuntimeError):
                asyncio.run_coroutine_threadsafe(self._jobs.settle(), self._loop).result(timeout_s)

    def leave(self) -> None:
        """Say goodbye to the coordinator, and end the worker."""
        if not self._thread.is_alive():
            return
        self._ready.wait()
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended meanwhile
                self._loop.call_soon_threadsafe(self._leaving.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._ended = error
        finally:
            self._ready.set()
            self._connected(False)

    async def _serve(self) -> None:
        self._loop, self._leaving = asyncio.get_running_loop(), asyncio.Event()
        self._ready.set()
        parts = [asyncio.create_task(self._line.run()), asyncio.create_task(self._worker.keep())]
        leaving = asyncio.create_task(self._leaving.wait())
        try:
            done, _ = await asyncio.wait([*parts, leaving], return_when=asyncio.FIRST_COMPLETED)
            for part in done - {leaving}:
                part.result()
        finally:
            await self._line.leave("the hospital's client ends")
            await asyncio.to_thread(self._worker.stop)
            await self._jobs.close()
            for part in [*parts, leaving]:
                part.cancel()
            await asyncio.gather(*parts, leaving, return_exceptions=True)

    def _doing(self) -> Doing:
        """Say what the worker does, and on which machine, without anything about data."""
        status = self._status.read()
        percent = "" if status.percent is None else f" {status.percent} %"
        text = f"{status.doing[:40]}{percent}"
        try:
            hidden = read_policy(self._state).hide_machine
        except PolicyDamaged:
            hidden = True
        machine = Machine() if hidden else read_machine(self._state)
        return Doing(text=text, device=machine.device, memory_bytes=machine.memory_bytes)

    def _connected(self, stands: bool) -> None:
        self._connection.write(CONNECTED if stands else LOST, {}, force=True)


def _clean_store(blobs: Path) -> BlobStore:
    """Open the blobs while nobody else uses them, without what a crash left."""
    store = BlobStore(blobs, BLOBS_BYTES)
    for path in blobs.glob(".*.partial"):
        path.unlink(missing_ok=True)
    store.evict()
    return store
