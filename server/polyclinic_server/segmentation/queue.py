"""Who is next: the requests of a segmentation service, from their header to their answer.

A request holds a place from its header on, and with it the bytes of its volume and of its answer.
Within a site the first that is complete is the first that is computed; among sites it is the turn
of the one that has waited longest since its last turn. When no place is left, the site that holds
most of them gives up its newest one, if it holds more than the newcomer's site: thirty requests of
one hospital do not shut another one out.
"""

import asyncio
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_SITES = 10_000  # whose last turn is remembered
FIRST_GUESS_S = 5.0  # one volume, before one was computed


class Refusal(Exception):
    """Why a request gets no answer.

    Args:
        code: The name of a gRPC status.
        sentence: What is wrong, and what to do.
        retry_s: When to ask again; None: not at all.
    """

    def __init__(self, code: str, sentence: str, retry_s: float | None = None) -> None:
        super().__init__(sentence)
        self.code, self.sentence, self.retry_s = code, sentence, retry_s


@dataclass(eq=False)
class Place:
    """One request's place. All of it but `gone` belongs to the event loop's thread."""

    site: str
    number: int  # of the request, since the service was started
    kind: int  # of the answer
    size: int  # bytes reserved
    owner: asyncio.Task[Any]  # who is told when the place is lost
    answer: asyncio.Future[NDArray[np.uint8]]
    # nobody waits for the answer any more
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
        places: Requests that may wait, those that are being uploaded included.
        memory: Bytes of volumes and answers, of those that wait and those that are being computed.
        workers: That take from it.
    """

    def __init__(self, places: int, memory: int, workers: int) -> None:
        self._places, self._memory, self._workers = places, memory, workers
        self._waiting: dict[Place, None] = {}  # in the order of their headers
        self._busy: set[Place] = set()  # being computed, or answered
        self._lines: dict[str, deque[Place]] = {}  # of each site, complete and not yet taken
        self._turns: dict[str, int] = {}
        self._turn = 0
        self._filled = asyncio.Event()
        self._left = asyncio.Event()
        self._closed: Refusal | None = None
        self.reserved = 0
        self.mean_s = FIRST_GUESS_S

    @property
    def waiting(self) -> int:
        """Requests that wait or are being uploaded."""
        return len(self._waiting)

    def enter(self, site: str, number: int, kind: int, size: int) -> Place:
        """A place for the request that the current task serves.

        Raises:
            Refusal: There is none.
        """
        if self._closed:
            raise self._closed
        if size > self._memory:
            raise Refusal(
                "RESOURCE_EXHAUSTED",
                f"A request needs {size / 2**20:,.1f} MiB, this service has "
                f"{self._memory / 2**20:,.1f} MiB for all. Have it started with "
                "a larger --memory-gb.",
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
        """The volume has arrived: from now on it waits for its turn."""
        place.volume, place.complete_at = volume, time.monotonic()
        self._lines.setdefault(place.site, deque()).append(place)
        self._filled.set()

    async def take(self) -> Place:
        """The next one to compute; say `computed` when it is done."""
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
        """It is done, or failed, or nobody waited for it any more."""
        place.computing, place.volume, place.computed_s = False, None, seconds
        if place.gone.is_set():
            self._release(place)
        else:
            self.mean_s += 0.3 * (seconds - self.mean_s)

    def leave(self, place: Place) -> None:
        """The request has ended in one way or another; safe to repeat."""
        place.gone.set()
        if not place.computing:
            self._release(place)

    def close(self, refusal: Refusal) -> None:
        """Let nobody in any more, and send away those that wait; what is being computed goes on."""
        self._closed = refusal
        for place in list(self._waiting):
            self._evict(place, refusal)

    async def drained(self) -> None:
        """Returns once nothing is being computed or answered."""
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
        """The newest place of the site that holds most, if that is at least two more than the newcomer's."""
        held: dict[str, list[Place]] = {}
        for place in self._waiting:
            held.setdefault(place.site, []).append(place)
        most = max(held.values(), key=len, default=[])
        return most[-1] if len(most) > len(held.get(newcomer, [])) + 1 else None

    def _full(self) -> Refusal:
        retry_s = max(1.0, self.mean_s * (1 + len(self._waiting) / (2 * self._workers)))
        return Refusal(
            "RESOURCE_EXHAUSTED",
            f"{len(self._waiting)} requests wait already, and no place is left. Ask again in "
            f"{retry_s:.0f} s.",
            retry_s,
        )
