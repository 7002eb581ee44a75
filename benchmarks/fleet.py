"""The fleet alone: how long an exchange takes, and how fast large contents travel.

    python benchmarks/fleet.py [--hospitals 6] [--parameters 10000] [--megabytes 200]

The coordinator's end is the real one, with TLS and keys. The hospitals are thin: they live in one
other process, and answer at once with what they were sent. A bare gRPC stream over TLS carries the
same bytes between two processes, without hashes or files, as the yardstick.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np
from bare_stream import BareStream
from blake3 import blake3
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from measuring import machine, peak_mb
from thin_line import Echo

from polyclinic.system.processes import end_with_parent, free_port
from polyclinic_client.network.connection import make_connection
from polyclinic_demos.local_pki import kit_for, local_authority
from polyclinic_server.enrolment.authority import Authority
from polyclinic_server.enrolment.endpoint import Endpoint
from polyclinic_server.fleet.grid import FleetGrid
from polyclinic_server.fleet.server import FleetServer


async def hospitals(security: Path, count: int) -> None:
    """Be all hospitals."""
    authority = Authority.open(security)
    kits = [kit_for(authority, f"site-{number}") for number in range(count)]
    known = [make_connection(None, None, kit, None, insecure=False) for kit in kits]
    await asyncio.gather(*(Echo(each).live(once=True) for each in known))


@contextmanager
def fleet(folder: Path, count: int) -> Iterator[tuple[FleetServer, Authority]]:
    """Start a coordinator's end, and its hospitals."""
    port = free_port()
    authority = local_authority(folder / "security", port)
    for number in range(count):
        kit_for(authority, f"site-{number}")
    with FleetServer(Endpoint("127.0.0.1", port, authority), folder / "fleet") as server:
        command = [sys.executable, __file__, "--hospitals", str(count)]
        child = subprocess.Popen([*command, "--play", str(authority.folder)])
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
    asked = parser.parse_args()
    if asked.play:
        end_with_parent()
        asyncio.run(hospitals(asked.play, asked.hospitals))
        return
    with (
        tempfile.TemporaryDirectory(prefix="fleet-") as folder,
        fleet(Path(folder), asked.hospitals) as (server, authority),
    ):
        print(f"{machine()}; {asked.hospitals} hospitals, TLS and keys")
        small_table(server.grid, asked.parameters)
        large_table(server.grid, authority, asked.megabytes, asked.times)
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


def large_table(grid: FleetGrid, authority: Authority, megabytes: int, times: int) -> None:
    """Print the throughput of a large content, beside a bare stream at the same time."""
    size = megabytes * 1_000_000
    data = np.random.default_rng(1).bytes(size)
    start = time.perf_counter()
    blake3(data).hexdigest()
    hashing = time.perf_counter() - start
    bare, down, up = [], [], []
    with BareStream(authority, data) as stream:
        stream.seconds()
        for seed in range(times):
            weights = np.random.default_rng(seed).random(size // 4, np.float32)
            content = RecordDict({"arrays": ArrayRecord([weights])})
            bare.append(stream.seconds())
            down.append(exchange(grid, content, Echo.ONLY_FETCH, 1))
            up.append(exchange(grid, content, nodes=1))
    print(f"{'MB/s of ' + str(megabytes) + ' MB':<44}down    up")
    rate = size / 1e6
    print(f"{'bare gRPC stream, TLS':<40}{rate / min(d for d, _ in bare):8.0f}", end="")
    print(f"{rate / min(u for _, u in bare):6.0f}")
    print(f"{'fleet: with hash and file, question to reply':<44}", end="")
    print(f"{rate / min(down):4.0f}{rate / min(up):6.0f}")
    print(f"(one BLAKE3 of it: {rate / hashing:.0f} MB/s; each way includes writing it once)")


if __name__ == "__main__":
    main()
