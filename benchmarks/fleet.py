"""The fleet alone: how long an exchange takes, and how fast large contents travel.

    python benchmarks/fleet.py [--hospitals 6] [--parameters 10000] [--megabytes 200]

The coordinator's end is the real one, with TLS and keys. The hospitals are thin: they live in one
other process, and answer at once with what they were sent. A bare gRPC stream over TLS carries the
same bytes between the same two processes, without hashes or files, as the yardstick.
"""

import argparse
import asyncio
import hashlib
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from measuring import machine, peak_mb

from polyclinic.fleet.contents import named_blobs
from polyclinic.fleet.protocol import (
    CHUNK_BYTES,
    CLIENT_OPTIONS,
    LARGEST_BYTES,
    SERVER_OPTIONS,
    SESSION_HEADER,
)
from polyclinic.fleet.wire import fleet_pb2 as wire
from polyclinic.fleet.wire.fleet_pb2_grpc import FleetStub
from polyclinic.system.processes import free_port
from polyclinic_client.fleet.connection import Connection, make_connection
from polyclinic_demos.local_pki import kit_for, local_authority
from polyclinic_server.enrolment.authority import Authority
from polyclinic_server.enrolment.endpoint import Endpoint
from polyclinic_server.fleet.grid import FleetGrid
from polyclinic_server.fleet.server import FleetServer

BARE = "/bare.Stream/"
ONLY_FETCH = "only-fetch"  # a question in this group: the large content is not sent back


class ThinHospital:
    """A hospital that answers at once with what it was sent.

    Args:
        connection: How it connects.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._channel = connection.open_channel(CLIENT_OPTIONS, grpc.aio)
        self._stub: Any = FleetStub(self._channel)  # type: ignore[no-untyped-call]
        self._kept: dict[str, list[bytes]] = {}

    async def live(self) -> None:
        """Attend until the coordinator ends."""
        introduction = self._connection.introduction()
        line = self._stub.Attend()
        await line.write(introduction.hello(client=self._connection.site))
        await line.write(introduction.prove(await line.read()))
        welcome = introduction.welcome(await line.read())
        metadata = [(SESSION_HEADER, welcome.session)]
        try:
            while (frame := await line.read()) is not grpc.aio.EOF:
                kind = frame.WhichOneof("frame")
                if kind == "work":
                    await line.write(await self._answer(frame.work.envelope, metadata))
                elif kind == "heartbeat":
                    await line.write(wire.FromHospital(heartbeat=wire.Heartbeat()))
        except grpc.RpcError:
            return

    async def _answer(self, question: wire.Envelope, metadata: Any) -> wire.FromHospital:
        reply = wire.Envelope(reply_to=question.message_id)
        for digest, size in named_blobs(question).items():
            if digest not in self._kept:
                request = wire.FetchRequest(digest=digest)
                call = self._stub.Fetch(request, metadata=metadata)
                self._kept[digest] = [chunk.data async for chunk in call]
            if question.group != ONLY_FETCH:
                offer = wire.OfferRequest(
                    message_id=question.message_id, blob=wire.Blob(digest=digest, size=size)
                )
                await self._stub.Offer(offer, metadata=metadata)
                await self._stub.Store(self._chunks(digest), metadata=metadata)
        if question.group == ONLY_FETCH:
            reply.content.SetInParent()
        else:
            reply.content.CopyFrom(question.content)
        return wire.FromHospital(reply=wire.Reply(envelope=reply))

    async def _chunks(self, digest: str) -> AsyncIterator[wire.Chunk]:
        for number, data in enumerate(self._kept[digest]):
            yield wire.Chunk(digest="" if number else digest, data=data)


async def hospitals(security: Path, count: int, bare: str) -> None:
    """Be all hospitals; the first also plays the bare stream's other end."""
    authority = Authority.open(security)
    kits = [kit_for(authority, f"site-{number}") for number in range(count)]
    known = [make_connection(None, None, kit, None, insecure=False) for kit in kits]
    trusted = grpc.ssl_channel_credentials(authority.ca().encode())
    async with grpc.aio.secure_channel(bare, trusted, CLIENT_OPTIONS) as channel:
        playing = asyncio.create_task(play_bare(channel))
        await asyncio.gather(*(ThinHospital(each).live() for each in known))
        playing.cancel()


async def play_bare(channel: Any) -> None:
    """Fetch what the bare stream has, and send it back, as often as told."""
    while await channel.unary_unary(f"{BARE}Wait")(b"", wait_for_ready=True):
        down = channel.unary_stream(f"{BARE}Down")(b"")
        kept = [data async for data in down]
        await channel.unary_unary(f"{BARE}Wait")(b"")

        async def again(parts: list[bytes] = kept) -> AsyncIterator[bytes]:
            for data in parts:
                yield data

        await channel.stream_unary(f"{BARE}Up")(again())


class Bare(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """A stream without anything around it.

    Args:
        data: What it carries.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._go: asyncio.Queue[bytes] = asyncio.Queue()
        self._done: asyncio.Queue[float] = asyncio.Queue()

    def service(self, details: Any) -> Any:
        """Part of gRPC's interface."""
        return {
            f"{BARE}Wait": grpc.unary_unary_rpc_method_handler(self._wait),
            f"{BARE}Down": grpc.unary_stream_rpc_method_handler(self._down),
            f"{BARE}Up": grpc.stream_unary_rpc_method_handler(self._up),
        }.get(details.method)

    async def time(self) -> tuple[float, float]:
        """Return the seconds of one transfer down and one up."""
        found = []
        for _ in range(2):
            start = time.perf_counter()
            await self._go.put(b"go")
            found.append(await self._done.get() - start)
        return found[0], found[1]

    async def _wait(self, _request: bytes, _context: Any) -> bytes:
        return await self._go.get()

    async def _down(self, _request: bytes, _context: Any) -> AsyncIterator[bytes]:
        view = memoryview(self._data)
        for start in range(0, len(view), CHUNK_BYTES):
            yield bytes(view[start : start + CHUNK_BYTES])
        await self._done.put(time.perf_counter())

    async def _up(self, requests: AsyncIterator[bytes], _context: Any) -> bytes:
        async for _ in requests:
            pass
        await self._done.put(time.perf_counter())
        return b""


async def measure_bare(authority: Authority, port: int, data: bytes, times: int) -> list[Any]:
    """Time bare streams."""
    credentials = grpc.ssl_server_credentials(
        [
            (
                (authority.folder / "server.key").read_bytes(),
                (authority.folder / "server.crt").read_bytes(),
            )
        ]
    )
    options = [option for option in SERVER_OPTIONS if option[1] != LARGEST_BYTES]
    options += [("grpc.max_receive_message_length", LARGEST_BYTES)]
    server = grpc.aio.server(options=options)
    bare = Bare(data)
    server.add_generic_rpc_handlers((bare,))
    server.add_secure_port(f"127.0.0.1:{port}", credentials)
    await server.start()
    found = [await bare.time() for _ in range(times)]
    await server.stop(0)
    return found


@contextmanager
def fleet(folder: Path, count: int, bare: int) -> Iterator[tuple[FleetServer, Authority]]:
    """Start a coordinator's end, and its hospitals."""
    port = free_port()
    authority = local_authority(folder / "security", port)
    for number in range(count):
        kit_for(authority, f"site-{number}")
    with FleetServer(Endpoint("127.0.0.1", port, authority), folder / "fleet") as server:
        child = subprocess.Popen(
            [
                *(sys.executable, __file__, "--hospitals", str(count)),
                *("--play", str(authority.folder), "--bare", f"127.0.0.1:{bare}"),
            ]
        )
        try:
            while len(server.grid.get_nodes()) < count:
                server.grid.wait_for_news(1.0)
            yield server, authority
        finally:
            child.terminate()
            child.wait()


def exchange(grid: FleetGrid, content: RecordDict, group: str = "1", nodes: int = 0) -> float:
    """Return the seconds of one exchange with all hospitals, or the first ones."""
    start = time.perf_counter()
    asked = grid.get_node_ids()[: nodes or None]
    messages = [grid.create_message(content, "train", node, group) for node in asked]
    replies = grid.send_and_receive(messages, timeout=300)
    assert len(replies) == len(asked) and all(each.has_content() for each in replies)
    return time.perf_counter() - start


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hospitals", type=int, default=6)
    parser.add_argument("--parameters", type=int, default=10_000)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--play", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--bare", default="", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.play:
        asyncio.run(hospitals(asked.play, asked.hospitals, asked.bare))
        return
    port = free_port()
    with (
        tempfile.TemporaryDirectory(prefix="fleet-") as folder,
        fleet(Path(folder), asked.hospitals, port) as (server, authority),
    ):
        print(f"{machine()}; {asked.hospitals} hospitals, TLS and keys")
        small_table(server.grid, asked.parameters)
        large_table(server.grid, authority, port, asked.megabytes, asked.times)
        print(f"coordinator's peak memory: {peak_mb(None):.0f} MB")


def small_table(grid: FleetGrid, parameters: int) -> None:
    """Print the time of small exchanges."""
    weights = np.random.default_rng(0).random(parameters, np.float32)
    content = RecordDict({"arrays": ArrayRecord([weights]), "config": ConfigRecord({"round": 1})})
    exchange(grid, content)
    seconds = [exchange(grid, content) for _ in range(50)]
    print(
        f"exchange of {parameters:,} float32: median {1e3 * median(seconds):.1f} ms, "
        f"slowest of 50 {1e3 * max(seconds):.1f} ms"
    )


def large_table(
    grid: FleetGrid, authority: Authority, port: int, megabytes: int, times: int
) -> None:
    """Print the throughput of a large content, beside a bare stream."""
    size = megabytes * 1_000_000
    data = np.random.default_rng(1).bytes(size)
    bare = asyncio.run(measure_bare(authority, port, data, times))
    start = time.perf_counter()
    hashlib.sha256(data).hexdigest()
    hashing = time.perf_counter() - start
    down, up = [], []
    for seed in range(times):
        weights = np.random.default_rng(seed).random(size // 4, np.float32)
        content = RecordDict({"arrays": ArrayRecord([weights])})
        down.append(exchange(grid, content, ONLY_FETCH, 1))
        both = exchange(grid, content, nodes=1)
        up.append(both)
    print(f"{'MB/s of ' + str(megabytes) + ' MB':<44}down    up")
    rate = size / 1e6
    print(f"{'bare gRPC stream, TLS':<40}{rate / min(d for d, _ in bare):8.0f}", end="")
    print(f"{rate / min(u for _, u in bare):6.0f}")
    print(f"{'fleet: with hash and file, question to reply':<44}", end="")
    print(f"{rate / min(down):4.0f}{rate / min(up):6.0f}")
    print(f"(one SHA-256 of it: {rate / hashing:.0f} MB/s; each way includes writing it once)")


if __name__ == "__main__":
    main()
