"""The longest pause between two signs of life of a coordinator that merges large contributions.

    python benchmarks/heartbeats.py [--parameters 86000000] [--sites 8] [--rules mean ties]

The coordinator's end of the fleet is the real one, with TLS and keys, and merges in its own process
as a run does. Thin hospitals in another process note when its heartbeats arrive, ten a second; a
real coordinator sends one in ten seconds.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from measuring import machine
from merging import RULES, layout, merge_ours, torch_size, write_models
from thin_line import ThinLine

from polyclinic.fleet.wire import fleet_pb2 as wire
from polyclinic.system.durable import write_atomically
from polyclinic.system.processes import end_with_parent, free_port
from polyclinic_client.network.connection import make_connection
from polyclinic_demos.local_pki import kit_for, local_authority
from polyclinic_server.enrolment.authority import Authority
from polyclinic_server.enrolment.endpoint import Endpoint
from polyclinic_server.fleet.server import FleetServer

RESULTS = Path(__file__).with_name("results")
BEAT_MS = 100
CALM_S = 10.0


class Listener(ThinLine):
    """A hospital that is asked nothing, and notes every heartbeat that arrives."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.heard: list[float] = []

    async def _read(self) -> wire.FromCoordinator:
        frame = await super()._read()
        if frame.WhichOneof("frame") == "heartbeat":
            self.heard.append(time.time())
        return frame


async def listen(security: Path, count: int, target: Path) -> None:
    """Be all hospitals, and write down what they heard about every second."""
    authority = Authority.open(security)
    kits = [kit_for(authority, f"site-{number}") for number in range(count)]
    lines = [Listener(make_connection(None, None, kit, None, insecure=False)) for kit in kits]
    tasks = [asyncio.create_task(line.live(once=True)) for line in lines]
    while not any(task.done() for task in tasks):
        await asyncio.sleep(1.0)
        write_atomically(target, json.dumps([line.heard for line in lines]))


def longest_gap(path: Path, start: float, end: float) -> float:
    """Return the longest pause between two heartbeats of one hospital, in seconds."""
    while path.stat().st_mtime < end + 1.0:
        time.sleep(0.2)
    gaps = [
        later - earlier
        for heard in json.loads(path.read_text())
        for earlier, later in pairwise([start, *(at for at in heard if start < at < end), end])
    ]
    return max(gaps)


@contextmanager
def listeners(folder: Path, count: int) -> Iterator[Path]:
    """Start a coordinator's end and its hospitals; yields the file of what they hear."""
    port = free_port()
    authority = local_authority(folder / "security", port)
    for number in range(count):
        kit_for(authority, f"site-{number}")
    endpoint, heard = Endpoint("127.0.0.1", port, authority), folder / "heard.json"
    with FleetServer(endpoint, folder / "fleet", heartbeat_ms=BEAT_MS) as server:
        command = [sys.executable, __file__, "--sites", str(count)]
        child = subprocess.Popen([*command, "--play", str(authority.folder), "--heard", str(heard)])
        try:
            while len(server.grid.get_nodes()) < count:
                server.grid.wait_for_news(1.0)
            time.sleep(2.0)
            yield heard
        finally:
            child.terminate()
            child.wait()


def gap_during(heard: Path, work: Callable[[], None]) -> dict[str, float]:
    """Return the seconds of some work, and the longest pause that a hospital heard meanwhile."""
    start = time.time()
    work()
    end = time.time()
    return {"seconds": end - start, "longest_gap_s": longest_gap(heard, start, end)}


def main() -> None:
    """Measure, print, and write results/heartbeats.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=int, default=86_000_000)
    parser.add_argument("--sites", type=int, default=8)
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=["mean", "ties"])
    parser.add_argument("--play", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--heard", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.play:
        end_with_parent()
        asyncio.run(listen(asked.play, asked.sites, asked.heard))
        return
    fixed, one = (sum(map(torch_size, layout(layers).values())) for layers in (0, 1))
    layers = max(1, round((asked.parameters - fixed) / (one - fixed)))
    found: dict[str, object] = {"machine": machine(), "sites": asked.sites}
    with tempfile.TemporaryDirectory(prefix="heartbeats-") as name:
        folder = Path(name)
        write_models(folder, layers, asked.sites)
        (folder / "out").mkdir()
        with listeners(folder, asked.sites) as heard:
            found["calm"] = gap_during(heard, lambda: time.sleep(CALM_S))
            for rule in asked.rules:
                found[rule] = gap_during(heard, merge_ours(folder, rule))
    print(json.dumps(found, indent=1))
    (RESULTS / "heartbeats.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
