"""A relay between a hospital and its coordinator that keeps every message and what goes along."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc

from polyclinic.fleet.protocol import LARGEST_BYTES

OPTIONS = [
    ("grpc.max_send_message_length", LARGEST_BYTES),
    ("grpc.max_receive_message_length", LARGEST_BYTES),
]


class Recorder(grpc.GenericRpcHandler):
    """Carries every call of gRPC's, whatever it is, as bytes.

    Attributes:
        sent: Calls of the hospital: method, messages, and metadata that the client chose.
    """

    def __init__(self, coordinator: str) -> None:
        self._coordinator = coordinator
        self.sent: list[tuple[str, list[bytes], dict[str, Any]]] = []
        self.port = 0

    def service(self, details: Any) -> Any:
        async def relay(messages: Any, context: Any) -> AsyncIterator[bytes]:
            async for answer in self._relay(details.method, messages, context):
                yield answer

        return grpc.stream_stream_rpc_method_handler(relay)

    async def _relay(self, method: str, messages: Any, context: Any) -> AsyncIterator[bytes]:
        metadata = dict(context.invocation_metadata())
        kept: list[bytes] = []
        self.sent.append((method, kept, metadata))
        passed = [pair for pair in metadata.items() if pair[0] != "user-agent"]
        call = self._channel.stream_stream(method)(metadata=passed)

        async def up() -> None:
            with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
                async for message in messages:
                    kept.append(message)
                    await call.write(message)
                await call.done_writing()

        rising = asyncio.create_task(up())
        try:
            async for answer in call:
                yield answer
        except grpc.RpcError as error:
            await context.abort(error.code(), error.details())
        finally:
            rising.cancel()
            call.cancel()

    async def run(self, ready: threading.Event, end: asyncio.Event) -> None:
        server = grpc.aio.server(options=OPTIONS)
        server.add_generic_rpc_handlers((self,))
        self.port = server.add_insecure_port("127.0.0.1:0")
        async with grpc.aio.insecure_channel(self._coordinator, OPTIONS) as channel:
            self._channel = channel
            await server.start()
            ready.set()
            await end.wait()
            await server.stop(0)


@contextlib.contextmanager
def recording(coordinator: str, number: int) -> Iterator[list[Recorder]]:
    """Keep so many relays to one coordinator."""
    recorders = [Recorder(coordinator) for _ in range(number)]
    ready = [threading.Event() for _ in recorders]
    made: list[Any] = []

    async def serve() -> None:
        end = asyncio.Event()
        made.extend([asyncio.get_running_loop(), end])
        await asyncio.gather(
            *(each.run(event, end) for each, event in zip(recorders, ready, strict=True))
        )

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert all(event.wait(30) for event in ready)
    try:
        yield recorders
    finally:
        made[0].call_soon_threadsafe(made[1].set)
        thread.join(30)
