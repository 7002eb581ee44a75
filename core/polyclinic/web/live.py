"""Server-sent events: an open page is told that something changed, and fetches what it shows."""

import asyncio
from collections.abc import AsyncIterator, Callable

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

LOOK_S = 0.5  # between two looks at the version
ALIVE_S = 15.0  # without news, so that a lost line is noticed
MOST_STREAMS = 50


class Changes:
    """The stream of a page's versions.

    Args:
        version: Returns what changes with everything that the page shows.

    Attributes:
        over: Whether the page ends, and its streams with it.
    """

    def __init__(self, version: Callable[[], str]) -> None:
        self._version = version
        self._open = 0
        self.over = False

    async def respond(self, request: Request) -> Response:
        """Answer with the stream, or refuse if too many are open."""
        if self._open >= MOST_STREAMS:
            return PlainTextResponse("too many pages are open", 503)
        return StreamingResponse(self._lines(request), media_type="text/event-stream")

    async def _lines(self, request: Request) -> AsyncIterator[str]:
        self._open += 1
        try:
            told, silent_s = "", 0.0
            while not self.over and not await request.is_disconnected():
                if (version := self._version()) != told:
                    told, silent_s = version, 0.0
                    yield f"event: change\ndata: {version}\n\n"
                elif silent_s >= ALIVE_S:
                    silent_s = 0.0
                    yield "event: alive\ndata: \n\n"
                await asyncio.sleep(LOOK_S)
                silent_s += LOOK_S
        finally:
            self._open -= 1
