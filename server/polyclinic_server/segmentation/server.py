"""`polyclinic-server segment-service`: the process of the segmentation service."""

import asyncio
import contextlib
import secrets
import signal
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health

from polyclinic.errors import ConfigError, PortTaken
from polyclinic.security.keys import authority_digest
from polyclinic.system.listening import claim_port, join_address
from polyclinic_server.enrolment.authority import Authority
from polyclinic_server.enrolment.endpoint import CHANNEL_OPTIONS, Endpoint, announced
from polyclinic_server.enrolment.registry import Registry
from polyclinic_server.fleet.door import Door
from polyclinic_server.segmentation.model import SegmentationModel
from polyclinic_server.segmentation.node_auth import KeyInterceptor
from polyclinic_server.segmentation.service import Limits, SegmentationService
from polyclinic_strategies.proxy.wire.arrays import MESSAGE_BYTES
from polyclinic_strategies.proxy.wire.segmentation_pb2 import DESCRIPTOR
from polyclinic_strategies.proxy.wire.segmentation_pb2_grpc import (
    add_SegmentationServicer_to_server,
)

NAME = DESCRIPTOR.services_by_name["Segmentation"].full_name
CALLS = 512  # largest number of calls at the same time, including those that wait
LAST_WORDS_S = 5.0  # time for answers that are being sent when the service stops
# gRPC's bit mask of allowed algorithms: a message of a megabyte must not expand to a gigabyte
UNCOMPRESSED = 1
OPTIONS = [
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.compression_enabled_algorithms_bitset", UNCOMPRESSED),
    *CHANNEL_OPTIONS,
]


class SegmentationServer:
    """The service on its port; lives in one event loop.

    Args:
        model: The model that computes.
        place: Endpoint of the service.
        limits: Bounds.
        tell: Called with a line for every request.
        reflection: Whether tools may ask which calls there are.
    """

    def __init__(
        self,
        model: SegmentationModel,
        place: Endpoint,
        limits: Limits,
        tell: Callable[[str], None],
        *,
        reflection: bool = False,
    ) -> None:
        self._place = place
        self._stack = contextlib.ExitStack()
        self.registry = Registry(place.authority.folder) if place.authority else None
        if self.registry is not None:
            self._stack.callback(self.registry.close)
        self.service = SegmentationService(model, limits, tell)
        digest = authority_digest(place.authority.ca()) if place.authority else b""
        interceptor = KeyInterceptor(self.registry, secrets.token_hex(8), digest)
        self._grpc = grpc.aio.server(
            interceptors=[interceptor], options=OPTIONS, maximum_concurrent_rpcs=CALLS
        )
        self._health = health.HealthServicer()
        add_SegmentationServicer_to_server(self.service, self._grpc)  # type: ignore[no-untyped-call]  # generated
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        if reflection:
            _reflect(self._grpc)

    def callers(self) -> list[str]:
        """Return the sites that may call; empty if everybody may."""
        if self.registry is None:
            return []
        return [key.site for key in self.registry.everybody() if key.active]

    async def start(self) -> int:
        """Listen, and return the port once hospitals can connect.

        Raises:
            BindFailed: Nothing can listen there; the subclass says why.
        """
        place = self._place
        port = claim_port(place.host, place.port, "--port")
        try:
            if place.authority is None or self.registry is None:
                self._grpc.add_insecure_port(join_address(place.host, port))
                await self._grpc.start()
            else:
                folder = tempfile.TemporaryDirectory(prefix="polyclinic-")  # only for this user
                inner = Path(self._stack.enter_context(folder)) / "segmentation"
                self._grpc.add_insecure_port(f"unix:{inner}")
                await self._grpc.start()
                Door(place.host, port, place.authority, inner, self.registry.note).open()
        except (OSError, RuntimeError) as error:
            raise PortTaken(place.host, port, "--port") from error
        for name in ("", NAME):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return port

    async def stop(self) -> None:
        """Refuse new requests, finish what is being computed, and close."""
        await self._health.enter_graceful_shutdown()
        await self.service.stop()
        await self._grpc.stop(LAST_WORDS_S)
        self._stack.close()


async def serve(
    server: SegmentationServer,
    authority: Authority | None,
    tell: Callable[[str], None],
    greet: Callable[[int], None],
) -> None:
    """Serve until SIGTERM or Ctrl-C; a second one ends the process at once.

    Args:
        server: The server, not yet started.
        authority: Authority whose refusals are announced.
        tell: Called with lines about what happens.
        greet: Called with the port.
    """
    leaving = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leaving.set)
    greet(await server.start())
    with announced(authority, tell):
        await leaving.wait()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        tell("stopping: requests that are being computed are finished, new ones are refused")
        await server.stop()
    tell("stopped")


def _reflect(server: Any) -> None:
    """Let tools such as grpcurl list the calls; they need a key."""
    try:
        reflection = import_module("grpc_reflection.v1alpha.reflection")
    except ImportError as error:
        raise ConfigError(
            "--reflection needs the package grpcio-reflection. "
            "Run: pip install 'polyclinic[reflection]'"
        ) from error
    health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
    reflection.enable_server_reflection((NAME, health_name, reflection.SERVICE_NAME), server)
