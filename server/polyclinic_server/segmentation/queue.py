"""Queue of the requests of a segmentation service, from their header to their answer.

From its header on, a request holds a place, and the bytes of its volume and of its answer. Within a
site, requests are computed in the order in which they are complete. Among sites, the next is the
one whose last turn is longest ago. When no place is left, the site with the most places loses its
newest one, if it holds more than the newcomer's site: thirty requests of one hospital do not block
another.
"""

import asyncio
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_SITES = 10_000  # largest number of sites whose last turn is remembered
FIRST_GUESS_S = 5.0  # time for a volume, before one was computed


class Refusal(Exception):
    """A request gets no answer.

    Args:
        code: Name of a gRPC status.
        sentence: What is wrong, and what to do.
        retry_s: Seconds after which to ask again; None if asking again does not help.
    """

    def __init__(self, code: str, sentence: str, retry_s: float | None = None) -> None:
        super().__init__(sentence)
        self.code, self.sentence, self.retry_s = code, sentence, retry_s


@dataclass(eq=False)
class Place:
    """Place of one request. Only the event loop's thread uses it, except for `gone`."""

    site: str
    number: int  # number of the request, since the start of the service
    kind: int  # kind of the answer
    size: int  # bytes reserved
    owner: asyncio.Task[Any]  # cancelled when the place is lost
    answer: asyncio.Future[NDArray[np.uint8]]
    # set when nobody waits for the answer any more
    gone: threading.Event = field(default_factory=threading.Event)
    volume: NDArray[Any] | None = None
    refusal: Refusal | None = None  # set when the place is lost
    complete_at: float = 0.0
    waited_s: float = 0.0
    computed_s: float = 0.0
    computing: bool = False


class Queue:
    """Places for requests, bounded in number and in bytes.

    Args:
        places: Largest number of waiting requests, including those that are being uploaded.
        memory: Bytes for volumes and answers of requests that wait or are being computed.
        workers: Number of workers that take requests.
    """

    def __init__(self, places: int, memory: int, workers: int) -> None:
        self._places, self._memory, self._workers = places, memory, workers
        self._waiting: dict[Place, None] = {}  # in the order of their headers
        self._busy: set[Place] = set()  # being computed, or answered
        self._lines: dict[str, deque[Place]] = {}  # for each site: complete and not yet taken
        self._turns: dict[str, int] = {}
        self._turn = 0
        self._filled = asyncio.Event()
        self._left = asyncio.Event()
        self._closed: Refusal | None = None
        self.reserved = 0
        self.mean_s = FIRST_GUESS_S

    @property
    def waiting(self) -> int:
        """Number of requests that wait or are being uploaded."""
        return len(self._waiting)

    def enter(self, site: str, number: int, kind: int, size: int) -> Place:
        """Reserve a place for the request that the current task serves.

        Raises:
            Refusal: There is no place.
        """
        if self._closed:
            raise self._closed
        if size > self._memory:
            raise Refusal(
                "RESOURCE_EXHAUSTED",
                f"A request needs {size / 2**20:,.1f} MiB, this service has "
                f"{self._memory / 2**20:,.1f} MiB for all requests. "
                "Have it started with a larger --memory-gb.",
            )
        while len(self._waiting) >= self._places or self.reserved + size > self._memory:
            loser = self._loser(site)
            if loser is None:
                raise self._full()
            self._evict(loser, self._full())
        owner = asyncio.current_task()
        assert owner is not None
        place = Place(site, number, kind, size, owner, asyncio.get_running_loop().create_future())
        self._waiting[place] = None
        self.reserved += size
        return place

    def complete(self, place: Place, volume: NDArray[Any]) -> None:
        """Let a request, whose volume has arrived, wait for its turn."""
        place.volume, place.complete_at = volume, time.monotonic()
        self._lines.setdefault(place.site, deque()).append(place)
        self._filled.set()

    async def take(self) -> Place:
        """Wait for the next request to compute, and return it; call `computed` afterwards."""
        while not self._lines:
            self._filled.clear()
            await self._filled.wait()
        site = min(self._lines, key=lambda name: self._turns.get(name, 0))
        place = self._lines[site].popleft()
        if not self._lines[site]:
            del self._lines[site]
        if len(self._turns) >= MOST_SITES:
            self._turns.clear()
        self._turn += 1
        self._turns[site] = self._turn
        del self._waiting[place]
        self._busy.add(place)
        place.computing = True
        place.waited_s = time.monotonic() - place.complete_at
        return place

    def computed(self, place: Place, seconds: float) -> None:
        """Record the end of a computation, with or without success."""
        place.computing, place.volume, place.computed_s = False, None, seconds
        if place.gone.is_set():
            self._release(place)
        else:
            self.mean_s += 0.3 * (seconds - self.mean_s)

    def leave(self, place: Place) -> None:
        """End a request in any state; safe to call twice."""
        place.gone.set()
        if not place.computing:
            self._release(place)

    def close(self, refusal: Refusal) -> None:
        """Refuse new and waiting requests; those that are being computed go on."""
        self._closed = refusal
        for place in list(self._waiting):
            self._evict(place, refusal)

    async def drained(self) -> None:
        """Return once nothing is being computed or answered."""
        while self._busy:
            self._left.clear()
            await self._left.wait()

    def _evict(self, place: Place, refusal: Refusal) -> None:
        place.refusal = refusal
        self.leave(place)
        place.owner.cancel()

    def _release(self, place: Place) -> None:
        if place in self._busy:
            self._busy.discard(place)
        elif place in self._waiting:
            del self._waiting[place]
            line = self._lines.get(place.site, deque())
            if place in line:
                line.remove(place)
                if not line:
                    del self._lines[place.site]
        else:
            return
        self.reserved -= place.size
        place.volume = None
        self._left.set()

    def _loser(self, newcomer: str) -> Place | None:
        """Return the newest place of the site that holds most, or None.

        That site must hold at least two more than the newcomer's.
        """
        held: dict[str, list[Place]] = {}
        for place in self._waiting:
            held.setdefault(place.site, []).append(place)
        most = max(held.values(), key=len, default=[])
        return most[-1] if len(most) > len(held.get(newcomer, [])) + 1 else None

    def _full(self) -> Refusal:
        retry_s = max(1.0, self.mean_s * (1 + len(self._waiting) / (2 * self._workers)))
        return Refusal(
            "RESOURCE_EXHAUSTED",
            f"{len(self._waiting)} requests wait already, and no place is left. "
            f"Ask again in {retry_s:.0f} s.",
            retry_s,
        )
