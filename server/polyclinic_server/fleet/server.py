"""The coordinator's end of the fleet: a thread that hospitals connect to, and the grid to them."""

import asyncio
import resource
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from polyclinic.errors import BindFailed, PortTaken
from polyclinic.fleet.protocol import HEARTBEAT_MS, SERVER_OPTIONS
from polyclinic.fleet.wire.fleet_pb2 import Anchor
from polyclinic.fleet.wire.fleet_pb2_grpc import add_FleetServicer_to_server
from polyclinic.security.keys import authority_digest
from polyclinic.system.listening import claim_port, join_address
from polyclinic_server.enrolment.endpoint import Endpoint
from polyclinic_server.enrolment.registry import Registry
from polyclinic_server.fleet.door import Door
from polyclinic_server.fleet.grid import FleetGrid
from polyclinic_server.fleet.news import News
from polyclinic_server.fleet.open_work import OpenWork
from polyclinic_server.fleet.service import FleetService, House, Keys
from polyclinic_server.fleet.sessions import Line, Sessions

PORT_SETTING = "deployment.port=NUMBER"
GOODBYE_S = 1.0  # for what is being sent when the server stops
STOP_S = 5.0
MOST_FILES = 16_384  # that this process may have open
THREADS = 16  # that read and write files, and look into the registry


class FleetServer:
    """Where hospitals connect; leaves nothing behind when left.

    Args:
        place: Where to listen, and with which keys.
        folder: Its subfolder `blobs` holds large contents that travel, and is emptied.
        on_event: Told about what happens, as (kind, text).
        heartbeat_ms: How often either side gives a sign of life.
        anchors: Returns the newest lines of the journals that hospitals keep; may block.

    Raises:
        BindFailed: Nothing can listen there; the subclass says why.
    """

    def __init__(
        self,
        place: Endpoint,
        folder: Path,
        on_event: Callable[[str, str], None] = lambda _kind, _text: None,
        *,
        heartbeat_ms: int = HEARTBEAT_MS,
        anchors: Callable[[], Sequence[Anchor]] = tuple,
    ) -> None:
        self._place = place
        self._port = claim_port(place.host, place.port, PORT_SETTING)
        self._on_event = on_event
        self._anchors = anchors
        self._news = News()
        self._work = OpenWork(folder / "blobs")
        self._sessions = Sessions(heartbeat_ms / 1000, self._news, self._work.forget)
        self.grid = FleetGrid(self._work, self._sessions, self._news, self._deliver)
        self._thread = threading.Thread(target=self._live, name="fleet", daemon=True)
        self._started: Future[None] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leaving = asyncio.Event()
        self._service: FleetService | None = None
        self.instance = secrets.token_hex(8)

    @property
    def address(self) -> str:
        """HOST:PORT for the hospitals."""
        return join_address(self._place.host, self._port)

    def hospitals(self) -> list[Line]:
        """Return the line of every hospital that ever came, by name; from any thread."""
        return self._sessions.lines()

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._started.result()
        except BindFailed:
            self._thread.join(STOP_S)
            raise
        except (OSError, RuntimeError) as error:  # gRPC raises the second
            self._thread.join(STOP_S)
            raise PortTaken(self._place.host, self._port, PORT_SETTING) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._leaving.set)
            self._thread.join(STOP_S)
        self._work.close()

    def _deliver(self, sites: Iterable[str]) -> None:
        """Queue new work for hospitals; from any thread."""
        loop, service = self._loop, self._service
        if loop is not None and service is not None and self._thread.is_alive():
            loop.call_soon_threadsafe(service.deliver_all, list(dict.fromkeys(sites)))

    def _live(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _serve(self) -> None:
        """Serve until told to leave."""
        self._loop = asyncio.get_running_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(THREADS, "fleet-files"))
        _allow_many_files()
        async with AsyncExitStack() as stack:
            authority = self._place.authority
            server: Any = grpc.aio.server(options=SERVER_OPTIONS)
            keys, door = None, None
            if authority is None:
                server.add_insecure_port(self.address)
            else:
                registry = Registry(authority.folder)
                stack.callback(registry.close)
                keys = Keys(registry, authority_digest(authority.ca()))
                # only this user may enter; a socket's path must be short
                sockets = stack.enter_context(
                    tempfile.TemporaryDirectory(prefix="polyclinic-", ignore_cleanup_errors=True)
                )
                inner = Path(sockets) / "grpc"
                server.add_insecure_port(f"unix:{inner}")
                host = self._place.host
                door = Door(
                    host,
                    self._port,
                    authority,
                    inner,
                    registry.note,
                    proving=True,
                    setting=PORT_SETTING,
                )
            self._service = self._make_service(keys, door)
            add_FleetServicer_to_server(self._service, server)  # type: ignore[no-untyped-call]
            await server.start()
            stack.push_async_callback(server.stop, GOODBYE_S)
            if door is not None:
                stack.push_async_callback(asyncio.to_thread, door.close)
                door.open()
            watching = asyncio.create_task(self._service.watch())
            self._started.set_result(None)
            await self._leaving.wait()
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await server.stop(GOODBYE_S)

    def _make_service(self, keys: Keys | None, door: Door | None) -> FleetService:
        return FleetService(
            House(
                sessions=self._sessions,
                work=self._work,
                news=self._news,
                keys=keys,
                instance=self.instance,
                proved=door.proved if door else lambda _peer: None,
                tell=lambda text: self._on_event("note", text),
                anchors=self._anchors,
            )
        )


def _allow_many_files() -> None:
    """Each connected hospital takes some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = MOST_FILES if hard == resource.RLIM_INFINITY else min(MOST_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
