"""The hospital's line to its coordinator: kept up without end, taken up again after every cut."""

import asyncio
import contextlib
import logging
import random
import time
import uuid
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import grpc

from polyclinic.errors import ResourceError, ServerUnreachable
from polyclinic.fleet.protocol import CLIENT_OPTIONS, HANDSHAKE_S
from polyclinic.fleet.wire import fleet_pb2 as wire
from polyclinic.system.processes import pause_s
from polyclinic.system.text import clean
from polyclinic_client.fleet.anchors import Anchors
from polyclinic_client.fleet.jobs import Jobs
from polyclinic_client.fleet.session import LineCut, Session, Sessions, was_cancelled
from polyclinic_client.network.connection import Connection, Say
from polyclinic_client.network.introduction import Introduction, Welcome, fleet_stub, refused

SHORTEST_S, LONGEST_S = 0.5, 15.0  # pauses between two tries
FAREWELL_S = 2.0
NOTICE_CHARACTERS = 1000
log = logging.getLogger("polyclinic.line")


class Line:
    """The line.

    Args:
        connection: The coordinator, and what this hospital is called there.
        sessions: Told of every line that stands.
        jobs: Told of work.
        anchors: Told of the newest lines of the coordinator's journals.
        say: Told what happens.
        doing: Returns what the worker does, and on which machine, as it may leave the hospital.
        connected: Told whether the line stands.
    """

    def __init__(
        self,
        connection: Connection,
        sessions: Sessions,
        jobs: Jobs,
        anchors: Anchors,
        say: Say,
        doing: Callable[[], wire.Doing] = wire.Doing,
        connected: Callable[[bool], None] = lambda _stands: None,
    ) -> None:
        self._connection, self._sessions, self._jobs = connection, sessions, jobs
        self._anchors, self._say, self._doing, self._connected = anchors, say, doing, connected
        self._client = uuid.uuid4().hex
        self._session: Session | None = None
        self._down_since: float | None = None  # None before the first line, and while one stands
        self._admitted = False
        self._left = asyncio.Event()

    async def run(self) -> None:
        """Keep the line up until `leave`.

        Raises:
            AdmissionRefused: One of the two does not want the other.
        """
        while not self._left.is_set():
            try:
                reason = await self._attend()
            except ServerUnreachable as error:
                reason = error.problem
            except ResourceError as error:  # the journal of what left cannot be written
                reason = f"nothing leaves: {error}"
            if self._left.is_set():
                return
            await self._pause(reason)

    async def leave(self, reason: str) -> None:
        """Say goodbye, and let `run` end."""
        self._left.set()
        session = self._session
        if session is None or session.closed:
            return
        with contextlib.suppress(LineCut, TimeoutError, ResourceError):
            async with asyncio.timeout(FAREWELL_S):
                await session.send(wire.FromHospital(goodbye=wire.Goodbye(reason=reason)))
                await session.finish()
                await session.wait_closed()

    async def _attend(self) -> str:
        """Take up the line and keep it as long as it holds; return why it was cut."""
        introduction = await asyncio.to_thread(self._connection.introduction)
        channel = self._connection.open_channel(CLIENT_OPTIONS, grpc.aio)
        stub = fleet_stub(channel)
        call = stub.Attend()
        welcome = None
        try:
            welcome = await self._introduce(call, introduction)
            return await self._serve(Session(stub, call, welcome))
        except grpc.RpcError as error:
            found = await self._explained(error, look=welcome is None)
            if isinstance(found, ServerUnreachable):
                return found.problem
            raise found from error
        except TimeoutError:
            return "no answer in time"
        except asyncio.CancelledError:
            if was_cancelled():
                raise
            return "nothing was heard of it"
        finally:
            self._connected(False)
            call.cancel()
            await channel.close()

    async def _introduce(self, call: Any, introduction: Introduction) -> Welcome:
        """Say hello and prove the key; each step has a limit."""

        async def step(frame: wire.FromHospital) -> wire.FromCoordinator:
            async with asyncio.timeout(HANDSHAKE_S):
                await call.write(frame)
                answer = await call.read()
            if answer == grpc.aio.EOF:
                raise ServerUnreachable(self._connection.server, "it closed the connection")
            assert isinstance(answer, wire.FromCoordinator)
            return answer

        hello = introduction.hello(self._client, self._jobs.instance, self._jobs.holding)
        return introduction.welcome(await step(introduction.prove(await step(hello))))

    async def _serve(self, session: Session) -> str:
        """Serve while the line holds; return why it was cut."""
        if self._down_since is not None:
            self._say("the coordinator answers; joining again")
        self._admitted, self._down_since = True, None
        self._jobs.belong_to(session.welcome.instance)
        await self._keep(session.welcome.anchors)
        self._session = session
        self._connected(True)
        await self._sessions.begin(session)
        beats = asyncio.create_task(self._beat(session))
        try:
            while (frame := await session.read()) is not None:
                await self._obey(session, frame)
            return "it closed the connection"
        finally:
            session.close()
            beats.cancel()
            await asyncio.gather(beats, return_exceptions=True)

    async def _beat(self, session: Session) -> None:
        """Send heartbeats, and what the worker does if that is news; cut a line that is dead."""
        told, number = wire.Doing(), 0
        with contextlib.suppress(LineCut, ResourceError):
            while not session.silent and not session.closed:
                await asyncio.sleep(session.welcome.beat_s)
                if self._connection.door.allows_more():
                    await self._begin_anew(session)
                number += 1
                beat = wire.FromHospital(heartbeat=wire.Heartbeat(number=number))
                await session.send(beat)
                doing = self._doing()
                if doing != told:
                    with contextlib.suppress(ResourceError):  # it stays untold
                        await session.send(wire.FromHospital(doing=doing))
                        told = doing
        session.cut()

    async def _begin_anew(self, session: Session) -> None:
        """Leave and come back as another client, which the coordinator greets again."""
        self._say("somebody decided, or changed the policy: joining anew")
        self._client = uuid.uuid4().hex
        await session.send(wire.FromHospital(goodbye=wire.Goodbye(reason="it joins anew")))
        await session.finish()
        await session.wait_closed(FAREWELL_S)

    async def _obey(self, session: Session, frame: wire.FromCoordinator) -> None:
        """Do what a frame asks for."""
        kind = frame.WhichOneof("frame")
        if kind == "work":
            message_id = frame.work.envelope.message_id
            self._jobs.take(frame.work.envelope)
            received = wire.Received(message_id=message_id)
            with contextlib.suppress(LineCut):
                await session.send(wire.FromHospital(received=received))
        elif kind == "taken":
            self._jobs.forget(frame.taken.message_id)
            await self._keep(frame.taken.anchors)
        elif kind == "notice":
            self._say(f"the coordinator says: {clean(frame.notice.text)[:NOTICE_CHARACTERS]}")
        elif kind == "refusal":
            raise refused(self._connection.server, frame.refusal.reason)

    async def _keep(self, anchors: Iterable[wire.Anchor]) -> None:
        """Keep the newest lines of the coordinator's journals."""
        for anchor in anchors:
            warning = await asyncio.to_thread(self._anchors.keep, anchor)
            if warning:
                self._say(warning)

    async def _explained(self, error: grpc.RpcError, *, look: bool) -> Exception:
        """Find out why a call failed; TLS faults are named by a handshake of Python's."""
        explain = partial(self._connection.explain, error, HANDSHAKE_S, look=look)
        return await asyncio.to_thread(explain)

    async def _pause(self, reason: str) -> None:
        """Wait before the next try; say once why."""
        moment = time.monotonic()
        if self._down_since is None:
            self._down_since = moment
            self._say(
                f"the coordinator is not there any more ({reason}). Joining again as soon as it "
                "answers."
                if self._admitted
                else f"not joined yet ({reason}). Trying again."
            )
        longest = pause_s(moment - self._down_since, SHORTEST_S, LONGEST_S)
        await asyncio.sleep(longest * random.uniform(0.8, 1.2))  # not all hospitals at once
