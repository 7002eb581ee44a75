"""gRPC service of the deformation proxy: segments warped volumes, and keeps nothing.

A request goes through three steps, each of them bounded. Its parts are read, never more than its
header announced. It waits for its turn (`polyclinic_server.segmentation.queue`). It is computed,
one volume after another. Nothing is written to the disk. The service logs only who made a request,
how many bytes it had, how long it took, and how it ended.
"""

import asyncio
import itertools
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any
from weakref import WeakValueDictionary

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from polyclinic_server.segmentation.model import Interrupted, SegmentationModel
from polyclinic_server.segmentation.queue import Queue, Refusal
from polyclinic_strategies.proxy.wire import segmentation_pb2 as wire
from polyclinic_strategies.proxy.wire.arrays import (
    DTYPES,
    PART_BYTES,
    REQUEST_ID_BYTES,
    RETRY_HEADER,
    TOP,
    Assembly,
    PartsInvalid,
    answer_parts,
    answer_shape,
)
from polyclinic_strategies.proxy.wire.segmentation_pb2_grpc import SegmentationServicer

UPLOADS, UPLOADS_OF_A_SITE = 16, 4  # at the same time; further uploads wait
CALLS_OF_A_SITE = 100  # at the same time, including calls that have not sent a header yet
CALLER: ContextVar[str] = ContextVar("caller")  # the site behind the call, from `node_auth`
INVALID, EXHAUSTED, LATE = "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"
STOPPING = Refusal(
    "UNAVAILABLE",
    "This service is being stopped. Ask again in a minute, or ask its operator.",
    10.0,
)


@dataclass(frozen=True)
class Limits:
    """Limits of one service."""

    waiting: int = 32
    memory: int = 2**30  # bytes of volumes and answers
    workers: int = 1
    idle_s: float = 30.0  # an upload that sends nothing for this time is ended
    upload_s: float = 300.0  # an upload that is not complete after this time is ended
    deadline_s: float = 600.0  # from the header to the answer's last part


@dataclass
class RequestLog:
    """Log of a request."""

    site: str
    number: int
    received: int = 0
    waited_s: float = 0.0
    computed_s: float = 0.0
    status: str = "CANCELLED"

    def line(self) -> str:
        """Return one line, without anything of the volume."""
        return (
            f"{self.site}: request {self.number}, {self.received:,} bytes, "
            f"waited {self.waited_s:.2f} s, computed in {self.computed_s:.2f} s, {self.status}"
        )


class SegmentationService(SegmentationServicer):
    """Answers `Describe` and `Segment`.

    Args:
        model: The model that computes.
        limits: Bounds.
        tell: Called with a line for every request.
    """

    def __init__(
        self, model: SegmentationModel, limits: Limits, tell: Callable[[str], None]
    ) -> None:
        self._model, self._limits, self._tell = model, limits, tell
        self.queue = Queue(limits.waiting, limits.memory, limits.workers)
        self._numbers = itertools.count(1)
        self._uploads = asyncio.Semaphore(UPLOADS)
        self._uploads_of: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._calls: Counter[str] = Counter()
        self._pool = ThreadPoolExecutor(limits.workers, thread_name_prefix="segmentation")
        self._workers = [asyncio.ensure_future(self._work()) for _ in range(limits.workers)]

    async def Describe(self, _request: wire.Empty, _context: Any) -> wire.Description:  # noqa: N802  # gRPC's name
        """Return what the model takes and answers, and the service's limits."""
        limits = wire.Limits(
            part_bytes=PART_BYTES,
            volume_bytes=2 * math.prod(self._model.shape),
            waiting=self._limits.waiting,
            idle_s=self._limits.idle_s,
            upload_s=self._limits.upload_s,
            deadline_s=self._limits.deadline_s,
        )
        return wire.Description(
            shape=self._model.shape,
            dtypes=[wire.UINT8, wire.FLOAT16],
            answers=[wire.LABELS, wire.PROBABILITIES],
            labels=self._model.labels,
            digest=self._model.digest,
            limits=limits,
            version=version("polyclinic"),
        )

    async def Segment(self, _requests: Any, context: Any) -> None:  # noqa: N802  # gRPC's name
        """Serve one volume, from its header to its answer."""
        record = RequestLog(CALLER.get(), next(self._numbers))
        refusal: Refusal | None = None
        self._calls[record.site] += 1
        try:
            deadline_s = self._limits.deadline_s
            late = f"There was no answer within {deadline_s:g} s. Ask again later."
            async with _within(deadline_s, late):
                await self._serve(record, context)
            record.status = "OK"
        except Refusal as found:
            refusal, record.status = found, found.code
        finally:
            self._calls[record.site] -= 1
            if not self._calls[record.site]:
                del self._calls[record.site]
            self._tell(record.line())
        if refusal is not None:
            hint = () if refusal.retry_s is None else ((RETRY_HEADER, f"{refusal.retry_s:.0f}"),)
            await context.abort(getattr(grpc.StatusCode, refusal.code), refusal.sentence, hint)

    async def stop(self) -> None:
        """Finish what is being computed; refuse waiting requests."""
        self.queue.close(STOPPING)
        await self.queue.drained()
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        self._pool.shutdown()

    async def _serve(self, record: RequestLog, context: Any) -> None:
        if self._calls[record.site] > CALLS_OF_A_SITE:
            problem = f"{CALLS_OF_A_SITE} calls of this site are open already."
            raise Refusal(EXHAUSTED, f"{problem} Ask again when some have ended.", 5.0)
        idle_s = self._limits.idle_s
        late = f"There was no header within {idle_s:g} s. Send it with the call."
        async with _within(idle_s, late):
            first = await _read(context)
        header = _checked(first, self._model.shape)
        size = math.prod(header.shape) * DTYPES[header.dtype].itemsize
        answer_size = math.prod(answer_shape(header.answer, header.shape, len(self._model.labels)))
        place = self.queue.enter(record.site, record.number, header.answer, size + answer_size)
        try:
            volume = await self._upload(header, record, context)
            self.queue.complete(place, volume)
            del volume
            answer = await place.answer
            late = f"The answer was not read for {idle_s:g} s. Ask again."
            for part in answer_parts(answer, header.answer, header.request_id):
                async with _within(idle_s, late):
                    await context.write(part)
        except asyncio.CancelledError:
            if place.refusal is None:
                raise
            place.owner.uncancel()
            raise place.refusal from None
        finally:
            record.waited_s, record.computed_s = place.waited_s, place.computed_s
            if place.complete_at and not place.waited_s:
                record.waited_s = time.monotonic() - place.complete_at
            self.queue.leave(place)

    async def _upload(
        self, header: wire.VolumeHeader, record: RequestLog, context: Any
    ) -> NDArray[Any]:
        """Read the volume part by part, once there is room for another upload."""
        of_site = self._uploads_of.setdefault(record.site, asyncio.Semaphore(UPLOADS_OF_A_SITE))
        idle_s, upload_s = self._limits.idle_s, self._limits.upload_s
        late = f"The upload was not complete after {upload_s:g} s. Use a faster link."
        idle = f"Nothing was sent for {idle_s:g} s. Send the volume without pauses."
        async with of_site, self._uploads, _within(upload_s, late):
            assembly = Assembly(header.shape, DTYPES[header.dtype])
            try:
                while True:
                    async with _within(idle_s, idle):
                        part = await _read(context)
                    if part is None:
                        break
                    assembly.add(part)
                    record.received = assembly.filled
                volume = assembly.finish()
            except PartsInvalid as error:
                raise Refusal(INVALID, f"The volume is not as announced: {error}.") from error
        if volume.dtype != np.uint8:
            await asyncio.to_thread(_check_values, volume)
        return volume

    async def _work(self) -> None:
        """Compute one request after another."""
        loop = asyncio.get_running_loop()
        while True:
            place = await self.queue.take()
            start = time.monotonic()
            assert place.volume is not None
            answer: NDArray[np.uint8] | None = None
            failure = "nobody waits for the answer"
            try:
                answer = await loop.run_in_executor(
                    self._pool, self._model.segment, place.volume, place.kind, place.gone
                )
            except Interrupted:
                pass
            except Exception as error:  # a network may raise anything; the text may hold values
                failure = type(error).__name__
            self.queue.computed(place, time.monotonic() - start)
            if not place.answer.done():
                if answer is None:
                    sentence = f"The model failed ({failure}). Tell the operator of this service."
                    place.answer.set_exception(Refusal("INTERNAL", sentence))
                else:
                    place.answer.set_result(answer)
            del place, answer


def _checked(part: wire.VolumePart | None, shape: tuple[int, int, int]) -> wire.VolumeHeader:
    """Return the header of a request, if the request can be served."""
    if part is None or part.WhichOneof("part") != "header":
        raise Refusal(
            INVALID,
            "The first message holds no header. Send the header, then the volume's bytes.",
        )
    header = part.header
    if tuple(header.shape) != shape:
        found = " x ".join(map(str, header.shape[:4])) or "nothing"
        raise Refusal(
            INVALID,
            f"The volume's shape is {found}, this service segments {' x '.join(map(str, shape))}. "
            "Use its generator.",
        )
    if header.dtype not in DTYPES:
        raise Refusal(INVALID, "The volume's type is not one of UINT8, FLOAT16.")
    if header.answer not in (wire.LABELS, wire.PROBABILITIES):
        raise Refusal(INVALID, "The kind of the answer is not one of LABELS, PROBABILITIES.")
    if len(header.request_id) != REQUEST_ID_BYTES:
        raise Refusal(
            INVALID,
            f"The request's id has {len(header.request_id)} bytes. "
            f"Draw {REQUEST_ID_BYTES} random bytes for every request.",
        )
    return header


def _check_values(volume: NDArray[Any]) -> None:
    if not np.isfinite(volume).all():
        raise Refusal(INVALID, "The volume has NaN or infinite values. Send finite ones.")
    if volume.min() < 0 or volume.max() > TOP:
        raise Refusal(
            INVALID, f"The volume has values outside 0 to {TOP:g}. Scale it to that range."
        )


async def _read(context: Any) -> wire.VolumePart | None:
    """Return the next message; None at the end of the stream."""
    try:
        part = await context.read()
    except DecodeError as error:
        raise Refusal(
            INVALID, "A message cannot be read. Use the same version of polyclinic on both sides."
        ) from error
    return None if part == grpc.aio.EOF else part


@asynccontextmanager
async def _within(seconds: float, sentence: str) -> AsyncIterator[None]:
    """Refuse what takes longer."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise Refusal(LATE, sentence) from error
