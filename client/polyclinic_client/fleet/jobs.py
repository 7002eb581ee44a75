"""The work that a hospital holds: from the coordinator's question until its answer is taken.

It outlives cuts of the line. Nothing is computed twice while coordinator and client live.
"""

import asyncio
import logging
import time
import uuid
from dataclasses import dataclass, field

from polyclinic.errors import ConfigError, PolyclinicError, ResourceError
from polyclinic.fleet.blobs import BlobStore
from polyclinic.fleet.contents import answer_to
from polyclinic.fleet.protocol import FaultCode
from polyclinic.fleet.wire import fleet_pb2 as wire
from polyclinic.system.faults import shareable
from polyclinic_client.fleet.bulk import Bulk, ContentRefused, NotWanted, blobs_of
from polyclinic_client.fleet.session import LineCut, Sessions
from polyclinic_client.fleet.worker_link import WorkerEnded, WorkerLink
from polyclinic_client.network.connection import Say

MOST = 1000  # pieces of work that one coordinator may have open here
RETRY_S = 10.0  # after the journal of what left could not be written
log = logging.getLogger("polyclinic.jobs")


@dataclass
class Job:
    """One piece of work.

    Attributes:
        question: From the coordinator.
        computing: Whether the worker has it.
        held: Digests that its question and its reply need.
        task: Does it.
    """

    question: wire.Envelope
    computing: bool = False
    held: list[str] = field(default_factory=list)
    task: asyncio.Task[None] | None = None


class Jobs:
    """All work that the coordinator asked for, and has not taken yet.

    Args:
        store: The hospital's blobs.
        worker: Does the work.
        sessions: The line as it comes and goes.
        say: Told of work that could not be done for a reason that lies here.
    """

    def __init__(self, store: BlobStore, worker: WorkerLink, sessions: Sessions, say: Say) -> None:
        self._store, self._worker, self._sessions, self._say = store, worker, sessions, say
        self._bulk = Bulk(store, sessions)
        self._open: dict[str, Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._unused: list[str] = []  # digests to release once the worker rests
        self.instance = ""  # the coordinator whose work this is
        self.failures: dict[str, str] = {}  # by kind of question; they stay on this machine

    @property
    def holding(self) -> list[str]:
        """Identifiers of the work that is here."""
        return list(self._open)

    def belong_to(self, instance: str) -> None:
        """Drop the work of another coordinator than this one."""
        if self.instance not in ("", instance):
            if any(job.computing for job in self._open.values()):
                self._worker.replace()
            self._worker.forgive()
            for message_id in self.holding:
                self.forget(message_id)
        self.instance = instance

    def take(self, question: wire.Envelope) -> None:
        """Begin a piece of work, unless it is here already."""
        message_id = question.message_id
        if message_id in self._open or len(self._open) >= MOST:
            return
        job = self._open[message_id] = Job(question)
        job.task = asyncio.create_task(self._work(job))
        self._tasks.add(job.task)
        job.task.add_done_callback(self._tasks.discard)

    def forget(self, message_id: str) -> None:
        """Forget work whose answer was taken, or that nobody wants any more."""
        job = self._open.pop(message_id, None)
        if job is not None and job.task is not None and not job.computing:
            job.task.cancel()

    async def settle(self) -> None:
        """Wait until all work that is open now was taken."""
        if self._tasks:
            await asyncio.wait(list(self._tasks))

    async def close(self) -> None:
        """Stop all work."""
        self._open.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, job: Job) -> None:
        """Fetch, compute, hand over."""
        question = job.question
        message_id, arrived = question.message_id, time.monotonic()
        try:
            reply = await self._answer(job)
            while self._open.get(message_id) is job:
                if question.ttl_s and time.monotonic() - arrived > question.ttl_s:
                    log.info("%s was not taken in its time", message_id)
                    return
                reply = await self._hand_over(job, reply)
        finally:
            if self._open.get(message_id) is job:
                del self._open[message_id]
            self._release(job)

    async def _answer(self, job: Job) -> wire.Envelope:
        """Return the worker's answer, or a fault."""
        question = job.question
        try:
            self._hold(job, question)
            for blob in blobs_of(question):
                await self._bulk.fetch(blob)
        except (PolyclinicError, ContentRefused, ValueError) as error:
            self._say(f"{question.type}: its content cannot be had: {error}")
            reason = f"the question's content cannot be had ({shareable(error)})"
            return fault(question, FaultCode.WORK_INVALID, reason)
        try:
            reply = await self._computed(job)
        except WorkerEnded as error:
            return fault(question, FaultCode.WORKER_ENDED, str(error))
        except Exception as error:
            log.exception("%s failed", question.type)
            return fault(question, FaultCode.UNKNOWN, shareable(error))
        self._hold(job, reply)
        return reply

    async def _computed(self, job: Job) -> wire.Envelope:
        """Let the worker work; once it has begun, it goes on to its end."""
        async with self._worker.turn:
            job.computing = True
            try:
                reply = await self._worker.ask(job.question)
                self._note(job.question.type, reply)
                return reply
            finally:
                job.computing = False

    def _note(self, kind: str, reply: wire.Envelope) -> None:
        """Say what the worker could not do, with the words of its log."""
        self.failures.pop(kind, None)
        if reply.HasField("fault"):
            why = self._worker.last_words()
            self.failures[kind] = f"this hospital could not answer {kind}: {why}"
            self._say(self.failures[kind])

    async def _hand_over(self, job: Job, reply: wire.Envelope) -> wire.Envelope:
        """Bring the reply to the coordinator, and wait until it is taken or the line is cut."""
        question = job.question
        try:
            for blob in blobs_of(reply):
                await self._bulk.store(question.message_id, blob)
            session = await self._sessions.present()
            await session.send(wire.FromHospital(reply=wire.Reply(envelope=reply)))
            await session.wait_closed()
        except ContentRefused as error:
            self._say(f"{question.type}: the coordinator did not take the answer: {error}")
            reason = f"the coordinator did not take the answer's content: {error}"
            return fault(question, FaultCode.REPLY_INVALID, reason)
        except ConfigError as error:  # the policy changed while the worker worked
            self._say(f"{question.type}: the answer stays here: {error}")
            return fault(question, FaultCode.APP_FAILED, shareable(error))
        except ResourceError as error:
            self._say(f"{question.type}: the answer stays here for now: {error}")
            await asyncio.sleep(RETRY_S)
        except NotWanted:
            self.forget(question.message_id)
        except LineCut:
            pass
        return reply

    def _hold(self, job: Job, envelope: wire.Envelope) -> None:
        digests = [blob.digest for blob in blobs_of(envelope)]
        self._store.hold(digests)
        job.held += digests

    def _release(self, job: Job) -> None:
        """Give blobs free; but not while the worker writes others, which would be evicted."""
        self._unused += job.held
        if not self._worker.busy:
            unused, self._unused = self._unused, []
            self._store.release(unused)


def fault(question: wire.Envelope, code: FaultCode, reason: str) -> wire.Envelope:
    """Make the answer to work that could not be done."""
    answer = answer_to(question, uuid.uuid4().hex)
    answer.fault.CopyFrom(wire.Fault(code=code, reason=reason[:1000]))
    return answer
