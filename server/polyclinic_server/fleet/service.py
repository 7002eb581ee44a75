"""The hospitals' line: hello, challenge, proof and welcome; then work, replies and heartbeats."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import grpc

from polyclinic.fleet.challenge import new_nonce
from polyclinic.fleet.protocol import HANDSHAKE_S, OLDEST, PROTOCOL
from polyclinic.fleet.wire.fleet_pb2 import (
    Anchor,
    Challenge,
    FromCoordinator,
    FromHospital,
    Heartbeat,
    Hello,
    Refusal,
    Taken,
    Welcome,
    Work,
)
from polyclinic.security.admission_errors import (
    AdmissionRefused,
    KeyInUse,
    KeyRevoked,
    ProtocolRefused,
)
from polyclinic_server.enrolment.admission import Challenged, admit_proof
from polyclinic_server.enrolment.registry import Registry
from polyclinic_server.fleet.bulk import Bulk
from polyclinic_server.fleet.caller import Caller, is_sound, read_doing
from polyclinic_server.fleet.news import News
from polyclinic_server.fleet.open_work import OpenWork
from polyclinic_server.fleet.sessions import Session, Sessions

LAST_WORDS_S = 2.0  # for the frames that are queued when a line ends
MALFORMED = "what came is not what a client of polyclinic sends"


@dataclass(frozen=True)
class Keys:
    """What admission with keys needs: the registry, and `authority_digest` of the authority."""

    registry: Registry
    authority: bytes


@dataclass(frozen=True)
class House:
    """What the calls of one server share.

    Attributes:
        sessions: Who is connected.
        work: What is asked.
        news: Told about replies.
        keys: None admits everybody, by the name that they state (on loopback).
        instance: What tells this server from the one before it.
        proved: Called with the peer of a connection that showed a key.
        tell: Called with a line about what happened.
        anchors: Returns the newest lines of the journals that hospitals keep; may block.
    """

    sessions: Sessions
    work: OpenWork
    news: News
    keys: Keys | None
    instance: str
    proved: Callable[[str], None]
    tell: Callable[[str], None]
    anchors: Callable[[], Sequence[Anchor]]


class FleetService(Bulk):
    """The calls of `fleet.proto`."""

    def __init__(self, house: House) -> None:
        super().__init__(house.sessions, house.work, house.proved)
        self._house = house
        self._version = version("polyclinic")

    async def Attend(self, _requests: Any, context: Any) -> None:  # noqa: N802  # gRPC's name
        """Admit a hospital, and keep its line until either side ends it."""
        # gRPC cancels the call of a hospital that is gone, and would print that as an error
        with contextlib.suppress(asyncio.CancelledError):
            await self._attend(context)

    async def _attend(self, context: Any) -> None:
        try:
            hello, caller = await self._admit(context)
            named = caller.site if caller.mark else ""
            if not caller.client:
                await context.write(await self._welcome(named))
                return
            session = await self._enter(caller)
        except AdmissionRefused as refusal:
            await context.write(FromCoordinator(refusal=Refusal(reason=refusal.pack())))
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, refusal.pack())
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "nothing came in time")
        for_good = False
        try:
            await context.write(await self._welcome(named, session.token))
            self._resume(hello, session)
            for_good = await self._converse(context, session)
        finally:
            self._house.sessions.leave(session, for_good=for_good)
        if session.refusal is not None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, session.refusal.pack())

    def deliver_all(self, sites: Iterable[str]) -> None:
        """Queue the work that connected hospitals have not got yet; in the event loop."""
        for site in sites:
            self._deliver(site)

    def _deliver(self, site: str) -> None:
        session = self._house.sessions.of(site)
        if session is None or session.over.is_set():
            return
        for envelope in self._house.work.unsent(site, session.token):
            session.send(FromCoordinator(work=Work(envelope=envelope)))

    def drop_all(self, unanswered: Mapping[str, Iterable[str]]) -> None:
        """Tell connected hospitals what nobody wants any more, by site; in the event loop."""
        for site, identifiers in unanswered.items():
            if (session := self._house.sessions.of(site)) is not None:
                for identifier in identifiers:
                    session.send(FromCoordinator(taken=Taken(message_id=identifier)))

    async def watch(self) -> None:
        """Cut silent lines, and those whose key was revoked, until cancelled."""
        house = self._house
        while True:
            await asyncio.sleep(house.sessions.heartbeat_s / 2)
            for session in house.sessions.everybody():
                if time.monotonic() - session.heard > house.sessions.silent_s:
                    session.end()
                else:
                    await self._check_key(session)
            if await asyncio.to_thread(house.work.sweep):
                house.news.tell()

    async def _admit(self, context: Any) -> tuple[Hello, Caller]:
        """Speak with a caller until it is admitted; return what it said, and who it is.

        Raises:
            AdmissionRefused: It is not; the type says why.
            TimeoutError: It said nothing for too long.
        """
        house = self._house
        hello = (await self._next(context, "hello")).hello
        if not is_sound(hello):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, MALFORMED)
        if hello.protocol < OLDEST:
            raise await self._noted(
                ProtocolRefused(site=hello.site, client=hello.version, server=self._version), ""
            )
        spoken = min(hello.protocol, PROTOCOL)
        nonce = new_nonce() if house.keys else b""
        challenge = Challenge(nonce=nonce, protocol=spoken, version=self._version)
        await context.write(FromCoordinator(challenge=challenge))
        proof = (await self._next(context, "proof")).proof
        caller = Caller(hello.site, hello.client, version=hello.version)
        if house.keys is not None:
            asked = Challenged(nonce, house.keys.authority, hello.site, spoken)
            admitting = asyncio.to_thread(admit_proof, house.keys.registry, asked, proof)
            enrolled = await asyncio.shield(admitting)  # to its line in the journal
            site, mark, ahead_s = enrolled.site, enrolled.fingerprint, proof.time - time.time()
            caller = replace(caller, site=site, mark=mark, ahead_s=ahead_s)
        house.proved(context.peer())
        return hello, caller

    async def _enter(self, caller: Caller) -> Session:
        """Open a line.

        Raises:
            KeyInUse: Another client of the site is connected.
        """
        try:
            return await self._house.sessions.enter(caller)
        except KeyInUse as refusal:
            raise await self._noted(refusal, caller.mark or caller.site, caller.site) from None

    async def _next(self, context: Any, kind: str) -> FromHospital:
        """Read the next frame, which must be of a kind.

        Raises:
            TimeoutError: Nothing came in time.
        """
        async with asyncio.timeout(HANDSHAKE_S):
            frame = await context.read()
        if frame is grpc.aio.EOF or frame.WhichOneof("frame") != kind:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, MALFORMED)
        assert isinstance(frame, FromHospital)
        return frame

    async def _welcome(self, site: str, token: bytes = b"") -> FromCoordinator:
        welcome = Welcome(
            site=site,
            version=self._version,
            instance=self._house.instance,
            session=token,
            heartbeat_ms=round(1000 * self._house.sessions.heartbeat_s),
            time=time.time(),
            anchors=await asyncio.to_thread(self._house.anchors),
        )
        return FromCoordinator(welcome=welcome)

    def _resume(self, hello: Hello, session: Session) -> None:
        """Tell what is not wanted any more, and send what the hospital has not got."""
        ours = hello.instance == self._house.instance
        unwanted = list(hello.holding)
        if ours:
            unwanted = self._house.work.resume(session.site, session.token, unwanted)
        for identifier in unwanted:
            session.send(FromCoordinator(taken=Taken(message_id=identifier)))
        self._deliver(session.site)

    async def _converse(self, context: Any, session: Session) -> bool:
        """Read and write frames until the line ends; return whether the hospital said goodbye."""
        reading = asyncio.create_task(self._read(context, session))
        writing = asyncio.create_task(self._write(context, session))
        over = asyncio.create_task(session.over.wait())
        try:
            await asyncio.wait({reading, writing, over}, return_when=asyncio.FIRST_COMPLETED)
            if session.over.is_set():
                await asyncio.wait({writing}, timeout=LAST_WORDS_S)
            return reading.done() and not reading.cancelled() and reading.result()
        finally:
            for task in (reading, writing, over):
                task.cancel()
            await asyncio.gather(reading, writing, over, return_exceptions=True)

    async def _read(self, context: Any, session: Session) -> bool:
        while (frame := await context.read()) is not grpc.aio.EOF:
            session.hear()
            kind = frame.WhichOneof("frame")
            if kind == "reply":
                await self._take(session, frame)
            elif kind == "heartbeat":
                await self._check_key(session)
            elif kind == "doing":
                session.told = read_doing(frame.doing)
            elif kind == "goodbye":
                return True
            if session.over.is_set():
                break
        return False

    async def _take(self, session: Session, frame: FromHospital) -> None:
        """Keep a reply, and tell its hospital to drop it; one that nobody awaits is dropped."""
        identifier = frame.reply.envelope.reply_to
        await self._check_key(session)
        if session.over.is_set():
            return
        if self._house.work.answer(session.site, frame.reply.envelope):
            self._house.news.tell()
        anchors = await asyncio.to_thread(self._house.anchors)
        taken = Taken(message_id=identifier[:80], anchors=anchors)
        session.send(FromCoordinator(taken=taken))

    async def _write(self, context: Any, session: Session) -> None:
        beats = 0
        while True:
            try:
                async with asyncio.timeout(self._house.sessions.heartbeat_s):
                    frame = await session.frames.get()
            except TimeoutError:
                beats += 1
                frame = FromCoordinator(heartbeat=Heartbeat(number=beats))
            if frame is None:
                return
            await context.write(frame)

    async def _check_key(self, session: Session) -> None:
        """End the line of a hospital whose key was revoked."""
        if self._house.keys is None or session.over.is_set():
            return
        registry = self._house.keys.registry
        enrolled = await asyncio.to_thread(registry.find, session.mark)
        if enrolled is None or not enrolled.active:
            refusal = KeyRevoked(key=session.mark, site=session.site)
            await self._noted(refusal, session.mark, session.site)
            session.end(refusal)  # last: it cancels whoever reads this line

    async def _noted(self, refusal: AdmissionRefused, who: str, site: str = "") -> AdmissionRefused:
        """Record a refusal: in the journal, which is announced; without one, announce it."""
        if self._house.keys is None:
            self._house.tell(refusal.told())
        else:
            note = asyncio.to_thread(self._house.keys.registry.note, refusal, who, site)
            await asyncio.shield(note)  # a caller that hangs up does not keep its line away
        return refusal
