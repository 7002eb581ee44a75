"""A hospital's line, jobs and worker in the event loop of a test."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from polyclinic.fleet.blobs import BlobStore
from polyclinic_client.fleet.anchors import Anchors
from polyclinic_client.fleet.jobs import Jobs
from polyclinic_client.fleet.line import Line
from polyclinic_client.fleet.session import Sessions
from polyclinic_client.fleet.worker_link import WorkerLink
from polyclinic_client.network.connection import Connection

SMALL_WORKER = "tests.client.fleet.small_worker"


class HospitalLine:
    """What a supervisor keeps, without its thread."""

    def __init__(self, connection: Connection, state: Path) -> None:
        self.said: list[str] = []
        self.state = state
        self.store = BlobStore(state / "fleet" / "blobs", 1 << 30)
        config = {"site": connection.site}
        self.worker = WorkerLink(state, self.store.folder, config, self.said.append, SMALL_WORKER)
        sessions = Sessions()
        self.jobs = Jobs(self.store, self.worker, sessions, self.said.append)
        self.welcomed = asyncio.Event()  # the line has stood at least once
        self.line = Line(
            connection,
            sessions,
            self.jobs,
            Anchors(state),
            self.said.append,
            connected=lambda stands: self.welcomed.set() if stands else None,
        )
        self.parts: list[asyncio.Task[None]] = []

    @property
    def computed(self) -> list[str]:
        path = self.state / "fleet" / "computed"
        return path.read_text().split() if path.exists() else []

    async def ended(self) -> None:
        """Wait for the line's end, and raise what ended it."""
        async with asyncio.timeout(20.0):
            await self.parts[0]


@contextlib.asynccontextmanager
async def hospital(connection: Connection, state: Path) -> AsyncIterator[HospitalLine]:
    one = HospitalLine(connection, state)
    one.parts = [asyncio.create_task(one.line.run()), asyncio.create_task(one.worker.keep())]
    try:
        yield one
    finally:
        await one.line.leave("the test is over")
        await asyncio.to_thread(one.worker.stop)
        await one.jobs.close()
        for part in one.parts:
            part.cancel()
        await asyncio.gather(*one.parts, return_exceptions=True)
