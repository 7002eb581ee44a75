"""Stand-ins for tests of the segmentation client: a generator, a relay, a service by script."""

import io
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import nibabel as nib
import numpy as np
import pytest
from monai.data import MetaTensor
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from polyclinic.errors import PolyclinicError
from polyclinic_client.network.connection import Connection
from polyclinic_client.segmentation.segment_files import Job, segment_files
from polyclinic_server.enrolment.admission import handshake_answer
from polyclinic_strategies.proxy.wire import segmentation_pb2 as wire
from polyclinic_strategies.proxy.wire.arrays import answer_parts
from polyclinic_strategies.proxy.wire.segmentation_pb2_grpc import (
    SegmentationServicer,
    add_SegmentationServicer_to_server,
)
from tests.server.segmentation.segmentation_services import (
    DIGEST,
    LABELS,
    PATIENCE_S,
    SHAPE,
    a_volume,
)

AFFINE = np.array(
    [
        [-1.0371, 0.0213, 0, 91.4142],
        [0.0123, 1.0519, 0.0071, -127.2718],
        [0, 0.0061, 0.9877, -73.3141],
        [0, 0, 0, 1],
    ]
)
NAME, DESCRIPTION = "Miller_Anna_1957-03-12_T1w", b"born 1957 in Springfield, ID 8841-22"


@dataclass(frozen=True)
class Still:
    """A volume that was not moved, as `canonical.Canonical` gives it."""

    volume: Tensor

    def image(self) -> Tensor:
        return self.volume / 255


@dataclass(frozen=True)
class Rolled:
    """A volume whose voxels were moved around the grid's edges, and the way back."""

    proxy: NDArray[np.uint8]
    shifts: tuple[int, ...]
    canonical: "Still"
    change: str = "moved around"

    def reveal(self, answer: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if answer.ndim == 4:
            whole = np.concatenate(
                [255 - np.minimum(answer.astype(int).sum(0, keepdims=True), 255), answer]
            )
            answer = whole.argmax(0).astype(np.uint8)
        return np.roll(answer, [-shift for shift in self.shifts], (0, 1, 2))


@dataclass
class Rolling:
    """Stands in for a generator: the key says how far voxels are moved."""

    labels: tuple[str, ...] = LABELS
    shape: tuple[int, int, int] = SHAPE
    digest: str = DIGEST
    keys: list[bytes] = field(default_factory=list)

    def protect(self, volume: MetaTensor) -> Rolled:
        key = secrets.token_bytes(32)
        self.keys.append(key)
        shifts = tuple(key[axis] % size for axis, size in enumerate(self.shape))
        image = volume.as_tensor()[0]
        return Rolled(
            np.roll(image.numpy().astype(np.uint8), shifts, (0, 1, 2)), shifts, Still(image)
        )


class Recorder:
    """A TCP relay on loopback that keeps every byte that a client sends."""

    def __init__(self, target: str) -> None:
        self._target = target.rpartition(":")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.sent = bytearray()
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection((self._target[0], int(self._target[2])))
            except OSError:
                return
            self._ends += [near, far]
            threading.Thread(target=self._pump, args=(near, far, self.sent), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, bytearray()), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
        try:
            while block := source.recv(1 << 16):
                kept += block
                sink.sendall(block)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        for end in [self._listener, *self._ends]:
            end.close()


@dataclass
class Request:
    """What a scripted service was sent."""

    header: wire.VolumeHeader
    volume: NDArray[np.uint8]
    metadata: dict[str, Any]


Act = Callable[[Request, Any], Iterator[wire.AnswerPart] | None]


class Script(SegmentationServicer):
    """Service that does with every request what its script says; the last line is repeated."""

    def __init__(self, *acts: Act) -> None:
        self.acts = list(acts)
        self.requests: list[Request] = []
        self.description = wire.Description(
            shape=SHAPE, labels=LABELS, digest=DIGEST, limits=wire.Limits(deadline_s=PATIENCE_S)
        )

    def Describe(self, _request: wire.Empty, _context: Any) -> wire.Description:  # noqa: N802
        return self.description

    def Segment(self, parts: Iterator[wire.VolumePart], context: Any) -> Iterator[wire.AnswerPart]:  # noqa: N802
        header = next(parts).header
        volume = np.frombuffer(b"".join(part.data for part in parts), np.uint8).reshape(SHAPE)
        self.requests.append(Request(header, volume, dict(context.invocation_metadata())))
        act = self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]
        yield from act(self.requests[-1], context) or iter(())


def answer(request: Request, _context: Any) -> Iterator[wire.AnswerPart]:
    """The volume's thirds, as the small network finds them."""
    labels = (request.volume > 85).astype(np.uint8) + (request.volume > 170).astype(np.uint8)
    return answer_parts(labels, request.header.answer, request.header.request_id)


def abort(code: str, sentence: str, *trailing: tuple[str, str]) -> Act:
    """Refuse."""

    def act(_request: Request, context: Any) -> None:
        context.set_trailing_metadata(trailing)
        context.abort(getattr(grpc.StatusCode, code), sentence)

    return act


@contextmanager
def scripted(script: Script) -> Iterator[str]:
    """A service in plain text; yields its address."""

    class Door(grpc.ServerInterceptor):
        def intercept_service(self, continuation: Any, details: Any) -> Any:
            if details.method.endswith("/Knock"):
                return grpc.unary_unary_rpc_method_handler(
                    lambda _request, _context: handshake_answer("", "one")
                )
            return continuation(details)

    server = grpc.server(ThreadPoolExecutor(8), interceptors=[Door()])
    add_SegmentationServicer_to_server(script, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def write_image(path: Path, seed: int = 0, voxels: NDArray[Any] | None = None) -> NDArray[np.uint8]:
    volume = a_volume(seed)
    image = nib.Nifti1Image(volume if voxels is None else voxels, AFFINE)
    image.header["descrip"], image.header["aux_file"] = DESCRIPTION, b"ward-7/bed-3.dcm"
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return volume


def run(
    jobs: list[Job],
    connection: Connection,
    protection: Rolling | None = None,
    kind: str = "labels",
    wait_s: float = 5.0,
) -> str:
    """What was said."""
    said = io.StringIO()
    segment_files(
        jobs, connection, protection or Rolling(), kind, 2, wait_s, Console(file=said, width=400)
    )
    return said.getvalue()


def failing(
    kind: type[PolyclinicError], jobs: list[Job], connection: Connection, **options: Any
) -> str:
    with pytest.raises(kind) as raised:
        run(jobs, connection, **options)
    assert type(raised.value) is kind
    return str(raised.value)
