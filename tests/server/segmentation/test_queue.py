"""Places, turns and bytes of the queue before a segmentation service."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from polyclinic_server.segmentation.queue import Place, Queue, Refusal

VOLUME = np.zeros(1, np.uint8)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 10.0))


async def a_place(
    queue: Queue, site: str, number: int = 0, size: int = 1, *, complete: bool = True
) -> tuple[Place, asyncio.Task[None]]:
    """Enter in a task of its own, which stays until it is cancelled."""
    entered: asyncio.Future[Place] = asyncio.get_running_loop().create_future()

    async def stay() -> None:
        try:
            entered.set_result(queue.enter(site, number, 1, size))
        except Refusal as refusal:
            entered.set_exception(refusal)
            return
        await asyncio.Event().wait()

    task = asyncio.ensure_future(stay())
    place = await entered
    if complete:
        queue.complete(place, VOLUME)
    return place, task


async def taken(queue: Queue) -> str:
    place = await queue.take()
    queue.computed(place, 0.1)
    queue.leave(place)
    return f"{place.site}{place.number}"


def test_sites_take_turns_and_each_in_its_own_order() -> None:
    async def test() -> None:
        queue = Queue(10, 10, 1)
        for site, number in [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("b", 2), ("c", 1)]:
            await a_place(queue, site, number)
        assert [await taken(queue) for _ in range(6)] == ["a1", "b1", "c1", "a2", "b2", "a3"]
        assert queue.reserved == 0 and queue.waiting == 0

    run(test)


def test_who_had_no_turn_yet_comes_before_who_had() -> None:
    async def test() -> None:
        queue = Queue(10, 10, 1)
        for number in (1, 2, 3):
            await a_place(queue, "a", number)
        assert await taken(queue) == "a1"
        await a_place(queue, "b", 1)
        assert [await taken(queue) for _ in range(3)] == ["b1", "a2", "a3"]

    run(test)


def test_a_newcomer_gets_the_newest_place_of_the_site_that_holds_most() -> None:
    async def test() -> None:
        queue = Queue(3, 100, 1)
        held = [await a_place(queue, "a", number) for number in (1, 2, 3)]
        with pytest.raises(Refusal) as raised:
            await a_place(queue, "a", 4)
        assert (
            raised.value.code == "RESOURCE_EXHAUSTED"
            and raised.value.retry_s
            and raised.value.retry_s >= 1
        )
        await a_place(queue, "b", 1)
        await asyncio.sleep(0)
        assert [task.cancelled() for _, task in held] == [False, False, True]
        assert held[2][0].refusal is not None and held[2][0].gone.is_set()
        with pytest.raises(Refusal):  # two of a, one of b: nobody holds much more than b
            await a_place(queue, "b", 2)
        assert [await taken(queue) for _ in range(3)] == ["a1", "b1", "a2"]

    run(test)


def test_bytes_are_bounded_as_places_are() -> None:
    async def test() -> None:
        queue = Queue(10, 10, 1)
        await a_place(queue, "a", 1, 6)
        with pytest.raises(Refusal) as raised:
            await a_place(queue, "a", 2, 5)
        assert raised.value.retry_s
        with pytest.raises(Refusal, match="memory-gb") as never:
            await a_place(queue, "b", 1, 11)
        assert never.value.retry_s is None
        assert queue.reserved == 6
        await taken(queue)
        await a_place(queue, "a", 2, 10)

    run(test)


def test_bytes_of_who_left_while_computing_are_kept_until_it_is_done() -> None:
    async def test() -> None:
        queue = Queue(10, 10, 1)
        entered, _ = await a_place(queue, "a", 1, 6)
        place = await queue.take()
        assert place is entered and queue.waiting == 0
        queue.leave(place)
        assert place.gone.is_set() and queue.reserved == 6
        queue.computed(place, 1.0)
        assert queue.reserved == 0
        queue.leave(place)
        assert queue.reserved == 0
        await queue.drained()

    run(test)


def test_a_closed_queue_sends_away_who_waits_and_lets_nobody_in() -> None:
    async def test() -> None:
        queue, closed = Queue(10, 10, 1), Refusal("UNAVAILABLE", "closed")
        await a_place(queue, "a", 1)
        busy = await queue.take()
        waiting, task = await a_place(queue, "a", 2)
        uploading, other = await a_place(queue, "b", 1, complete=False)
        queue.close(closed)
        await asyncio.sleep(0)
        assert (
            task.cancelled()
            and other.cancelled()
            and waiting.refusal is uploading.refusal is closed
        )
        with pytest.raises(Refusal, match="closed"):
            await a_place(queue, "c", 1)
        drained = asyncio.ensure_future(queue.drained())
        await asyncio.sleep(0)
        assert not drained.done()
        queue.computed(busy, 1.0)
        queue.leave(busy)
        await drained
        assert queue.reserved == 0

    run(test)
