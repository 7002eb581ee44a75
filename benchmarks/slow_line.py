"""A large answer over a slow line that is cut twice, and what the other hospitals notice of it.

    python benchmarks/slow_line.py [--megabytes 750] [--megabits 20]

Three hospitals with their real processes, TLS and keys; only their ClientApp answers at once. One
of them sends through a relay that lets so many bits pass in a second. After a third of the answer
the line is reset, after two thirds it falls silent, as when a firewall has forgotten it. Meanwhile
the two others are asked small questions, one after the other.
"""

import argparse
import json
import logging
import statistics
import tempfile
import time
from pathlib import Path

import torch
from federation import coordinator, noop_hospitals
from flwr.app import ConfigRecord, RecordDict
from measuring import machine
from relay import Cut, Relay

from polyclinic.federation.envelope.content import weights_to_record
from polyclinic_server.fleet.grid import FleetGrid

RESULTS = Path(__file__).with_name("results")
SILENCE_S = 5.0  # between the cut and the moment when lines can be had again
PAUSE_S = 0.5  # between two small questions
SLOW, OTHERS = "site-0", 2
CUTS: dict[float, Cut] = {1 / 3: "reset", 2 / 3: "silent"}  # after so much of the answer


def content(parameters: int) -> RecordDict:
    """Return what a question holds: weights of so many float32 parameters."""
    weights = weights_to_record(torch.rand(parameters))
    return RecordDict({"arrays": weights, "config": ConfigRecord({"round": 1})})


def ask(grid: FleetGrid, node: int, parameters: int) -> str:
    """Send a question, and return its number."""
    (number,) = grid.push_messages([grid.create_message(content(parameters), "train", node, "1")])
    return number


def small_question(grid: FleetGrid, nodes: list[int]) -> float:
    """Return the seconds until all of these hospitals have answered."""
    start = time.perf_counter()
    given = content(1_000)
    asked = [grid.create_message(given, "train", node, "1") for node in nodes]
    replies = grid.send_and_receive(asked, timeout=120)
    assert len(replies) == len(nodes) and all(each.has_content() for each in replies)
    return time.perf_counter() - start


def summary(seconds: list[float]) -> dict[str, float]:
    """Return median and maximum."""
    return {
        "questions": len(seconds),
        "median_s": statistics.median(seconds),
        "slowest_s": max(seconds),
    }


def play(grid: FleetGrid, relay: Relay, megabytes: int) -> dict[str, object]:
    """Ask the slow hospital for the large answer, and the others small questions meanwhile."""
    nodes = {node.name: node.node_id for node in grid.get_nodes()}
    others = [node for name, node in nodes.items() if name != SLOW]
    before = []
    for _ in range(20):
        before.append(small_question(grid, others))
        time.sleep(PAUSE_S)
    size, cuts, during, mend_at = megabytes * 1_000_000, dict(CUTS), [], float("inf")
    number, sent, start = ask(grid, nodes[SLOW], size // 4), relay.sent(), time.monotonic()
    while not (replies := grid.pull_messages([number])):
        during.append(small_question(grid, others))
        time.sleep(PAUSE_S)
        if time.monotonic() > mend_at:
            relay.mend()
            mend_at = float("inf")
        share = min(cuts, default=float("inf"))
        if (relay.sent() - sent) / size > share:
            relay.cut(cuts.pop(share))
            mend_at = time.monotonic() + SILENCE_S
            print(f"{time.monotonic() - start:.0f} s: cut", flush=True)
    assert replies[0].has_content(), replies[0].error
    return {
        "seconds": time.monotonic() - start,
        "sent_per_byte": (relay.sent() - sent) / size,
        "connections": relay.connections,
        "others_before": summary(before),
        "others_meanwhile": summary(during),
    }


def main() -> None:
    """Measure, print, and write results/slow_line.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=750)
    parser.add_argument("--megabits", type=float, default=20.0)
    asked = parser.parse_args()
    logging.getLogger("flwr").handlers.clear()
    found: dict[str, object] = {"machine": machine(), **vars(asked)}
    with (
        tempfile.TemporaryDirectory(prefix="slow-line-") as name,
        coordinator(Path(name), 1 + OTHERS, keys=True) as (server, options),
        Relay(server.address, asked.megabits * 1e6, down_bits_per_s=0.0) as relay,
    ):
        options[SLOW] += ["--server", relay.address]
        with noop_hospitals(options, Path(name) / "hospitals"):
            while len(server.grid.get_nodes()) < 1 + OTHERS:
                server.grid.wait_for_news(1.0)
            found |= play(server.grid, relay, asked.megabytes)
    print(json.dumps(found, indent=1))
    (RESULTS / "slow_line.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
