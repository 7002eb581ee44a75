"""A gRPC channel that lets nothing out but through the door.

It has the calls that generated stubs ask of a channel. A message is turned into bytes here; the
door writes them into the journal; and exactly these bytes are given to gRPC.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import grpc

from polyclinic.errors import PolyclinicError, ResourceError
from polyclinic_client.sent.door import Door

Serializer = Callable[[Any], bytes] | None


class Guarded:
    """A channel behind the door.

    Args:
        channel: Of grpc, or of grpc.aio.
        door: Told of everything that is about to leave.

    Attributes:
        kept_back: Why something did not leave, where gRPC's thread that sent it cannot say so.
    """

    def __init__(self, channel: Any, door: Door) -> None:
        self._channel, self._door = channel, door
        self._waits = isinstance(channel, grpc.aio.Channel)
        self.kept_back: PolyclinicError | None = None

    def close(self) -> Any:
        """Close the channel; awaitable where the channel is grpc.aio's."""
        with contextlib.suppress(ResourceError):  # heartbeats alone, which hold nothing
            self._door.end_line()
        return self._channel.close()

    def unary_unary(self, method: str, request_serializer: Serializer = None, **made: Any) -> Any:
        """Make a call of one message and one answer."""
        return self._single(self._channel.unary_unary(method, **_answers(made)), request_serializer)

    def unary_stream(self, method: str, request_serializer: Serializer = None, **made: Any) -> Any:
        """Make a call of one message and many answers."""
        return self._single(
            self._channel.unary_stream(method, **_answers(made)), request_serializer
        )

    def stream_unary(self, method: str, request_serializer: Serializer = None, **made: Any) -> Any:
        """Make a call of many messages and one answer."""
        return self._many(self._channel.stream_unary(method, **_answers(made)), request_serializer)

    def stream_stream(self, method: str, request_serializer: Serializer = None, **made: Any) -> Any:
        """Make a call of many messages and many answers."""
        return self._many(self._channel.stream_stream(method, **_answers(made)), request_serializer)

    def _single(self, inner: Any, serializer: Serializer) -> Any:
        def call(message: Any, **options: Any) -> Any:
            self._door.let_out_metadata(options.get("metadata"))
            return inner(self._let_out(message, serializer), **options)

        return call

    def _many(self, inner: Any, serializer: Serializer) -> Any:
        def call(messages: Any = None, **options: Any) -> Any:
            self._door.let_out_metadata(options.get("metadata"))
            if messages is None:
                return GuardedCall(inner(**options), self._door, serializer)
            if isinstance(messages, Parts):
                pieces = [_bytes(each, serializer) for each in messages.parts]
                self._door.let_out_all(messages.kind, pieces, messages.note)
                return inner(_each(pieces) if self._waits else iter(pieces), **options)
            if self._waits:
                return inner(self._let_out_slowly(messages, serializer), **options)
            return inner(self._let_out_each(messages, serializer), **options)

        return call

    def _let_out(self, message: Any, serializer: Serializer) -> bytes:
        data = _bytes(message, serializer)
        self._door.let_out(message, data)
        return data

    def _let_out_each(self, messages: Iterable[Any], serializer: Serializer) -> Iterator[bytes]:
        try:
            for message in messages:
                yield self._let_out(message, serializer)
        except PolyclinicError as error:
            self.kept_back = error
            raise

    async def _let_out_slowly(
        self, messages: AsyncIterable[Any], serializer: Serializer
    ) -> AsyncIterator[bytes]:
        async for message in messages:
            yield self._let_out(message, serializer)


class Parts:
    """A message of several parts, which the journal tells of as one.

    Args:
        kind: What it is, see `polyclinic_client.sent.kinds`.
        parts: All of its parts.
        note: What the journal tells of it besides.
    """

    def __init__(self, kind: str, parts: Iterable[Any], note: str = "") -> None:
        self.kind, self.parts, self.note = kind, list(parts), note


class GuardedCall:
    """A stream of grpc.aio's that is written to and read from by turns.

    Args:
        call: The stream.
        door: Told of everything that is about to leave, and of what arrives.
        serializer: Turns a message into bytes.
    """

    def __init__(self, call: Any, door: Door, serializer: Serializer) -> None:
        self._call, self._door, self._serializer = call, door, serializer

    async def write(self, message: Any) -> None:
        """Send a message, after the journal has it."""
        data = _bytes(message, self._serializer)
        await asyncio.to_thread(self._door.let_out, message, data)
        try:
            await self._call.write(data)
        except asyncio.InvalidStateError:
            await self._call.read()  # raises why the stream ended while the journal was written
            raise

    async def read(self) -> Any:
        """Wait for a message."""
        message = await self._call.read()
        self._door.hear(message)
        return message

    async def done_writing(self) -> None:
        """Send nothing more."""
        await self._call.done_writing()

    def cancel(self) -> bool:
        """End the stream."""
        return bool(self._call.cancel())


def _answers(made: dict[str, Any]) -> dict[str, Any]:
    """Return how a call is made, without its serializer: what is sent are bytes already."""
    return {name: value for name, value in made.items() if name != "request_serializer"}


def _bytes(message: Any, serializer: Serializer) -> bytes:
    return bytes(message) if serializer is None else serializer(message)


async def _each(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
