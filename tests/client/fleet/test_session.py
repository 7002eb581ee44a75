"""Frames on one line, written by several tasks, of which some are cancelled."""

import asyncio
from typing import Any

import pytest

from polyclinic.fleet.wire import fleet_pb2 as wire
from polyclinic_client.fleet.session import LineCut, Session
from polyclinic_client.network.introduction import Welcome

WELCOME = Welcome("st-mary", "0.1.0", 0.0, "one")


class SlowCall:
    """A stream whose writes take until they are let go; to cancel one ends it, as gRPC's."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.written: list[int] = []
        self.ended = False

    async def write(self, frame: Any) -> None:
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            self.ended = True
            raise
        if self.ended:
            raise asyncio.InvalidStateError
        self.written.append(frame.heartbeat.number)

    def cancel(self) -> None:
        self.ended = True


def beat(number: int) -> wire.FromHospital:
    return wire.FromHospital(heartbeat=wire.Heartbeat(number=number))


def line(call: SlowCall) -> Session:
    return Session(None, call, WELCOME)


async def _taken_while_it_is_sent() -> SlowCall:
    call = SlowCall()
    session = line(call)
    tasks = [asyncio.create_task(session.send(beat(number))) for number in (1, 2)]
    await asyncio.sleep(0.01)
    tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    call.let_go.set()
    await tasks[1]
    return call


def test_a_reply_that_is_taken_while_it_is_sent_does_not_end_the_line() -> None:
    call = asyncio.run(asyncio.wait_for(_taken_while_it_is_sent(), 20))
    assert call.written == [1, 2] and not call.ended


async def _cut_while_it_is_sent() -> None:
    call = SlowCall()
    session = line(call)
    sending = asyncio.create_task(session.send(beat(1)))
    await asyncio.sleep(0.01)
    session.cut()
    session.close()
    call.let_go.set()
    await sending


def test_a_frame_on_a_line_that_is_cut_is_said_so() -> None:
    with pytest.raises(LineCut):
        asyncio.run(asyncio.wait_for(_cut_while_it_is_sent(), 20))
