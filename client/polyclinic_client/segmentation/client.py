"""Questions to a segmentation service: one connection, retries with pauses, plain errors."""

import random
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import numpy as np
from numpy.typing import NDArray

from polyclinic.errors import ServerUnreachable
from polyclinic.security.admission_errors import unpack_refusal
from polyclinic.system.text import clean
from polyclinic_client.network.connection import Connection
from polyclinic_client.segmentation.errors import (
    AnswerInvalid,
    RequestRefused,
    ServiceBusy,
    ServiceMismatch,
    ServiceUnreachable,
)
from polyclinic_client.sent.channel import Parts
from polyclinic_strategies.proxy.wire import segmentation_pb2 as wire
from polyclinic_strategies.proxy.wire.arrays import (
    MESSAGE_BYTES,
    REQUEST_ID_BYTES,
    RETRY_HEADER,
    Assembly,
    PartsInvalid,
    answer_shape,
    volume_parts,
)
from polyclinic_strategies.proxy.wire.segmentation_pb2_grpc import SegmentationStub

KINDS = {"labels": wire.LABELS, "probabilities": wire.PROBABILITIES}
CONTACT_S = 10.0  # for the first answer
DESCRIBE_S = 20.0
LONGEST_DEADLINE_S = 86_400.0  # that a service may tell
MOST_SHOWN = 200  # characters of what it says
GRACE_S = 30.0  # beyond the service's own deadline: the way there and back
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
OPTIONS = [
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 60_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.use_local_subchannel_pool", 1),
]
Answer = TypeVar("Answer")


class SegmentationLink:
    """A segmentation service, which several threads may ask.

    Args:
        connection: Its address and how it is trusted.
        labels: Classes of the generator that proxies are made with; the service's must be the same.
        shape: Shape of a proxy, likewise.
        digest: Identity of the generator, likewise.
        wait_s: Seconds for which one request is tried, when the service is busy or away.
        tell: Told of every pause.
    """

    def __init__(
        self,
        connection: Connection,
        labels: Sequence[str],
        shape: Sequence[int],
        digest: str,
        wait_s: float,
        tell: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._labels, self._shape, self._digest = tuple(labels), tuple(shape), digest
        self._wait_s = wait_s
        self._tell = tell
        self._leaving = threading.Event()
        self._deadline_s = 0.0

    def __enter__(self) -> Self:
        """Connect, then ask what the service segments.

        Raises:
            AdmissionRefused: One of the two does not want the other.
            ServiceUnreachable: Nobody answers.
            ServiceMismatch: It segments something else.
        """
        try:
            self._connection.wait(min(self._wait_s, CONTACT_S), self._connection.knock)
        except ServerUnreachable as error:
            raise ServiceUnreachable(self._connection.server, error.problem) from error
        self._channel = self._connection.open_channel(OPTIONS)
        self._stub: Any = SegmentationStub(self._channel)  # type: ignore[no-untyped-call]  # generated
        try:
            self._patiently(self._compare)
        except BaseException:
            self._channel.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """End every request that is on its way; safe to repeat."""
        self._leaving.set()
        self._channel.close()

    def segment(self, proxy: NDArray[np.uint8], kind: str, change: str = "") -> NDArray[np.uint8]:
        """Ask for the answer to a proxy, several times if need be.

        Args:
            proxy: Shape (H, W, D) of the generator.
            kind: One of `KINDS`.
            change: How far the proxy is from its scan, for the journal of what left.

        Returns:
            Labels (H, W, D), or foreground probabilities (classes - 1, H, W, D) times 255.

        Raises:
            ServiceBusy: None within `wait_s`.
            RequestRefused: The service says why.
            AnswerInvalid: It is not an answer to this request.
            ServiceMismatch: The service was replaced by another one in the meantime.
            AdmissionRefused: The key is no longer good.
        """
        again = False

        def ask() -> NDArray[np.uint8]:
            nonlocal again
            if again:
                self._compare()
            again = True
            return self._ask(proxy, KINDS[kind], change)

        return self._patiently(ask)

    def _ask(self, proxy: NDArray[np.uint8], kind: int, change: str) -> NDArray[np.uint8]:
        request_id = secrets.token_bytes(REQUEST_ID_BYTES)
        call = self._stub.Segment(
            Parts("warped scan", volume_parts(proxy, kind, request_id), change),
            metadata=self._connection.credentials(),
            timeout=self._deadline_s + GRACE_S,
        )
        try:
            return self._receive(call, kind, request_id)
        except PartsInvalid as error:
            raise AnswerInvalid(self._connection.server, str(error)) from error
        finally:
            call.cancel()

    def _receive(self, call: Any, kind: int, request_id: bytes) -> NDArray[np.uint8]:
        shape = answer_shape(kind, self._shape, len(self._labels))
        header = next(call, wire.AnswerPart()).header
        if header.request_id != request_id or header.answer != kind or tuple(header.shape) != shape:
            raise PartsInvalid("its header belongs to another request")
        assembly = Assembly(shape, np.dtype(np.uint8))
        for part in call:
            assembly.add(part)
        answer = assembly.finish()
        if kind == wire.LABELS and answer.max() >= len(self._labels):
            raise PartsInvalid(
                f"it has label {answer.max()}, there are {len(self._labels)} classes"
            )
        return answer

    def _compare(self) -> None:
        """Ask what the service segments, and refuse to go on if it is something else."""
        found = self._stub.Describe(
            wire.Empty(), metadata=self._connection.credentials(), timeout=DESCRIBE_S
        )
        pairs = {
            "shape": (" x ".join(map(str, self._shape)), " x ".join(map(str, found.shape[:4]))),
            "labels": (", ".join(self._labels), _shown(found.labels)),
            "digest": (self._digest[:12], clean(found.digest[:12])),
        }
        same = (tuple(found.shape), tuple(found.labels), found.digest) == (
            self._shape,
            self._labels,
            self._digest,
        )
        if not same:
            differing = [
                f"{what} {ours} here, {theirs} there"
                for what, (ours, theirs) in pairs.items()
                if ours != theirs
            ]
            raise ServiceMismatch(self._connection.server, differing or ["their digests differ"])
        # NaN is less than nothing
        self._deadline_s = min(LONGEST_DEADLINE_S, max(0.0, found.limits.deadline_s))

    def _patiently(self, ask: Callable[[], Answer]) -> Answer:
        """Ask again after a pause while the service is busy or away."""
        start, pause_s = time.monotonic(), FIRST_PAUSE_S
        while True:
            try:
                return ask()
            except grpc.RpcError as error:
                left_s = self._wait_s - (time.monotonic() - start)
                if not _passes(error) or self._leaving.is_set():
                    raise self._explained(error) from error
                if left_s <= 0:
                    raise self._given_up(error) from error
                wanted_s = _hint(error) or pause_s
                self._tell(f"{_sentence(error)} Asking again in {wanted_s:.0f} s.")
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            self._leaving.wait(
                min(wanted_s * random.uniform(0.8, 1.2), left_s)
            )  # not all of them at once

    def _explained(self, error: grpc.RpcError) -> Exception:
        if refusal := unpack_refusal(str(error.details())):
            return refusal
        if error.code() == grpc.StatusCode.UNIMPLEMENTED:
            return ServiceUnreachable(
                self._connection.server,
                "what answers there is not a segmentation service of polyclinic",
            )
        return RequestRefused(self._connection.server, error.code().name, str(error.details()))

    def _given_up(self, error: grpc.RpcError) -> Exception:
        """Find the reason why no connection comes about, if there is one."""
        if error.code() == grpc.StatusCode.UNAVAILABLE:
            try:
                self._connection.knock()
            except ServerUnreachable as found:
                return ServiceUnreachable(self._connection.server, found.problem)
            except Exception as found:  # a certificate, or a key
                return found
        return ServiceBusy(self._connection.server, self._wait_s, _sentence(error))


def _shown(labels: Sequence[str]) -> str:
    """Name the classes of a service, as many as fit into a sentence."""
    return clean(", ".join(label[:MOST_SHOWN] for label in labels[:MOST_SHOWN]))[:MOST_SHOWN]


def _passes(error: grpc.RpcError) -> bool:
    """Tell whether it may work in a while."""
    code, details = error.code(), str(error.details())
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return _hint(error) is not None or "Concurrent RPC limit" in details
    if code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED):
        return "RST_STREAM" in details or "Stream removed" in details
    return code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def _hint(error: grpc.RpcError) -> float | None:
    """Return the seconds after which to ask again, if the service says so."""
    try:
        return min(
            max(float(dict(error.trailing_metadata() or ())[RETRY_HEADER]), 0.1), LONGEST_PAUSE_S
        )
    except (KeyError, ValueError, AttributeError):
        return None


def _sentence(error: grpc.RpcError) -> str:
    if _hint(error) is not None:
        return str(error.details())
    lost = error.code() == grpc.StatusCode.UNAVAILABLE
    return (
        "The connection to the segmentation service was lost."
        if lost
        else f"The segmentation service: {error.details()}."
    )
