"""A segmentation service in this process, with a network small enough to check by hand, and callers
that need not behave.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from polyclinic.config.schemas import DataConfig
from polyclinic.system.processes import free_port
from polyclinic_client.network.connection import Connection, make_connection
from polyclinic_demos.local_pki import kit_for, local_authority
from polyclinic_server.enrolment.authority import Authority
from polyclinic_server.enrolment.endpoint import Endpoint
from polyclinic_server.enrolment.service import make_service
from polyclinic_server.segmentation.model import SegmentationModel
from polyclinic_server.segmentation.server import SegmentationServer
from polyclinic_server.segmentation.service import Limits
from polyclinic_strategies.proxy.protection import Protection
from polyclinic_strategies.proxy.wire import segmentation_pb2 as wire
from polyclinic_strategies.proxy.wire.arrays import volume_parts

SHAPE = (16, 24, 16)
LABELS = ("background", "grey", "white")
DIGEST = "0123456789abcdef" * 4
SEGMENT, DESCRIBE = (
    "/polyclinic.proxy.v1.Segmentation/Segment",
    "/polyclinic.proxy.v1.Segmentation/Describe",
)
PATIENCE_S = 20.0


class Thirds(nn.Module):
    """Class 0, 1 or 2 by the third of 0..1 in which a voxel lies: one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 3, 1)
        self.conv.weight.data = torch.tensor([0.0, 1.0, 2.0]).reshape(3, 1, 1, 1, 1)
        self.conv.bias.data = torch.tensor([0.0, -1 / 3, -1.0])

    def forward(self, image: Tensor) -> Tensor:
        return 100 * self.conv(image)


class Held(Thirds):
    """Waits before every volume until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.go, self.seen = threading.Semaphore(0), threading.Semaphore(0), 0

    def forward(self, image: Tensor) -> Tensor:
        self.entered.release()
        assert self.go.acquire(timeout=PATIENCE_S)
        self.seen += 1
        return super().forward(image)


class Failing(Thirds):
    """Raises, with a voxel's value in its words."""

    def forward(self, image: Tensor) -> Tensor:
        raise RuntimeError(f"the voxel {image.max()}")


def expected(volume: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the answer of `Thirds`."""
    scaled = volume.astype(np.float64) / 255
    return np.asarray((scaled > 1 / 3).astype(np.uint8) + (scaled > 2 / 3).astype(np.uint8))


def a_volume(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, SHAPE, dtype=np.uint8)


def a_model(network: nn.Module | None = None) -> SegmentationModel:
    data = DataConfig("segmentation", 1, LABELS, "RAS", (1.0, 1.0, 1.0), SHAPE, 1, 0.0, (), ())
    return SegmentationModel((network or Thirds()).eval(), data, SHAPE, DIGEST)


def a_model_for(protection: Protection) -> SegmentationModel:
    """Make a model that segments what a generator makes."""
    made = a_model()
    return replace(
        made,
        shape=protection.shape,
        digest=protection.digest,
        data=replace(made.data, patch=protection.shape),
    )


@dataclass
class Service:
    """What callers meet."""

    address: str
    server: SegmentationServer
    loop: asyncio.AbstractEventLoop
    authority: Authority | None
    lines: list[str] = field(default_factory=list)

    def do(self, what: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self.loop).result(PATIENCE_S)

    def hospital(self, site: str) -> Connection:
        if self.authority is None:
            return Connection(self.address, site)
        return make_connection(
            self.address, None, kit_for(self.authority, site), None, insecure=False
        )

    def sentences(self) -> list[str]:
        """Return the journal's entries of refused callers."""
        assert self.server.registry is not None
        return self.server.registry.refusals(0)[1]

    def until(self, reached: Callable[["Service"], bool]) -> None:
        """Wait until something is so."""
        moment = threading.Event()
        for _ in range(int(PATIENCE_S / 0.01)):
            if reached(self):
                return
            moment.wait(0.01)
        raise AssertionError(f"never reached: {self.lines}")


@contextmanager
def service(
    folder: Path | None = None,
    model: SegmentationModel | None = None,
    limits: Limits | None = None,
    *,
    alone: bool = False,
    **options: bool,
) -> Iterator[Service]:
    """Start a service with TLS and keys in `folder`, or in plain text.

    With `alone` it has its own part of the security folder, moved elsewhere, and st-mary's key.
    """
    port = free_port()
    authority = None if folder is None else local_authority(folder / "security", port)
    shown = authority
    if alone and authority is not None and folder is not None:
        kit_for(authority, "st-mary")
        make_service(authority)
        shown = Authority.open((authority.folder / "segmentation").rename(folder / "container"))
    started: list[Service] = []
    ready, leaving = threading.Event(), asyncio.Event()

    async def live() -> None:
        lines: list[str] = []
        place = Endpoint("127.0.0.1", port, shown)
        server = SegmentationServer(
            model or a_model(), place, limits or Limits(), lines.append, **options
        )
        await server.start()
        started.append(
            Service(f"127.0.0.1:{port}", server, asyncio.get_running_loop(), authority, lines)
        )
        ready.set()
        await leaving.wait()
        await server.stop()

    thread = threading.Thread(target=lambda: asyncio.run(live()), name="service")
    thread.start()
    assert ready.wait(PATIENCE_S)
    try:
        yield started[0]
    finally:
        started[0].loop.call_soon_threadsafe(leaving.set)
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


class Caller:
    """Sends any bytes, and hears any answer."""

    def __init__(self, connection: Connection, metadata: Any = "own") -> None:
        self.channel = connection.open_channel(
            [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        )
        self.metadata = connection.credentials() if metadata == "own" else metadata
        if metadata == "own" and connection.key is None:
            self.metadata = [("polyclinic-site", connection.site)]

    def start(
        self,
        messages: Iterable[bytes],
        timeout_s: float = PATIENCE_S,
        method: str = SEGMENT,
        **options: Any,
    ) -> Any:
        return self.channel.stream_stream(method)(
            iter(messages), metadata=self.metadata, timeout=timeout_s, **options
        )

    def ask(
        self, messages: Iterable[bytes], timeout_s: float = PATIENCE_S, **options: Any
    ) -> list[wire.AnswerPart]:
        return [
            wire.AnswerPart.FromString(message)
            for message in self.start(messages, timeout_s, **options)
        ]

    def refused(
        self, messages: Iterable[bytes], timeout_s: float = PATIENCE_S, **options: Any
    ) -> tuple[str, str]:
        """Status and sentence."""
        try:
            self.ask(messages, timeout_s, **options)
        except grpc.RpcError as error:
            return error.code().name, str(error.details())
        raise AssertionError("it was answered")

    def close(self) -> None:
        self.channel.close()


@contextmanager
def caller(connection: Connection, metadata: Any = "own") -> Iterator[Caller]:
    found = Caller(connection, metadata)
    try:
        yield found
    finally:
        found.close()


def messages(volume: NDArray[Any], kind: int = wire.LABELS) -> list[bytes]:
    """Make a valid request."""
    return [part.SerializeToString() for part in volume_parts(volume, kind, bytes(16))]


def a_header(
    shape: Sequence[int] = SHAPE,
    dtype: int = wire.UINT8,
    answer: int = wire.LABELS,
    request_id: bytes = bytes(16),
) -> bytes:
    header = wire.VolumeHeader(shape=shape, dtype=dtype, answer=answer, request_id=request_id)  # type: ignore[arg-type]
    return bytes(wire.VolumePart(header=header).SerializeToString())


def some_data(size: int) -> bytes:
    return bytes(wire.VolumePart(data=bytes(size)).SerializeToString())


def joined(parts: Sequence[wire.AnswerPart]) -> NDArray[np.uint8]:
    """Return the array of an answer."""
    return np.frombuffer(b"".join(part.data for part in parts[1:]), np.uint8).reshape(
        tuple(parts[0].header.shape)
    )
