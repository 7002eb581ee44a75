"""Durability of the ledger, time to list it, and its time for a hospital in a large federation.

    python benchmarks/ledger.py

A process that hands in contributions is killed 1,000 times at random moments. A ledger of 10,000
contributions is listed. Hospitals join one after another, and the ledger's time for the 2nd is
compared with that for the 1,000th.
"""

import io
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from measuring import machine
from rich.console import Console

from polyclinic.store.contribution import Contribution, write_contribution
from polyclinic.store.ledger import Ledger
from polyclinic.store.requirements import Requirements
from polyclinic_server.cli.ledger_tables import print_entries
from tests.core.store.killing import kill_repeatedly

RESULTS = Path(__file__).with_name("results")
KILLS, SITES, CONTRIBUTIONS = 1_000, 1_000, 10_000
AROUND = 20  # number of hospitals around the 2nd and the 1,000th for the median
LAYOUT: dict[str, tuple[int, ...]] = {"weight": (16, 16), "bias": (16,)}
ASKED = Requirements("b" * 64, LAYOUT, "benchmark", None, 10**6, 10.0, {}, 0)


def arrivals(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield contributions, the first of every site before the second of any."""
    state = {name: torch.ones(shape) for name, shape in LAYOUT.items()}
    for number in range(CONTRIBUTIONS):
        site = f"hospital-{number % SITES:04}"
        given = Contribution(
            site, ASKED.base, ASKED.task, 1 + number, {"score": 0.5}, float(number), "0.1.0"
        )
        yield site, write_contribution(folder, given, state, {})


def fill(ledger: Ledger, folder: Path) -> list[float]:
    """Hand in everything; return the seconds that the ledger took for each."""
    seconds = []
    for site, path in arrivals(folder):
        began = time.perf_counter()
        ledger.receive(path, site, ASKED)
        seconds.append(time.perf_counter() - began)
        path.unlink()
    return seconds


def list_all(folder: Path) -> dict[str, float]:
    """Measure the seconds to list a ledger.

    Returns:
        Seconds from opening the ledger to the last line of the table, and those for the entries
        alone.
    """
    began = time.perf_counter()
    with Ledger.open(folder, create=False) as ledger:
        entries = ledger.entries()
        read = time.perf_counter()
        print_entries(entries, Console(file=io.StringIO(), width=160))
    assert len(entries) == CONTRIBUTIONS
    return {"entries_s": read - began, "entries_and_table_s": time.perf_counter() - began}


def main() -> None:
    """Measure and write results/ledger.json."""
    torch.set_num_threads(1)
    found: dict[str, object] = {"machine": machine()}
    with tempfile.TemporaryDirectory(prefix="ledger-") as name:
        folder = Path(name)
        began = time.perf_counter()
        found["kills"] = {
            **asdict(kill_repeatedly(folder / "killed", KILLS, seed=0)),
            "seconds": time.perf_counter() - began,
        }
        print(json.dumps(found["kills"], indent=1))
        with Ledger.open(folder / "filled") as ledger:
            seconds = fill(ledger, folder / "arrived")
            first, last = (
                statistics.median(seconds[1 : 1 + AROUND]),
                statistics.median(seconds[SITES - AROUND : SITES]),
            )
            found["receive"] = {
                "2nd_site_s": first,
                "1000th_site_s": last,
                "ratio": last / first,
                "10000th_s": statistics.median(seconds[-AROUND:]),
            }
            print(json.dumps(found["receive"], indent=1))
        found["list"] = [list_all(folder / "filled") for _ in range(5)]
        with Ledger.open(folder / "filled", create=False) as ledger:
            began = time.perf_counter()
            assert ledger.verify() is None
            found["verify_s"] = time.perf_counter() - began
        print(json.dumps({"list": found["list"], "verify_s": found["verify_s"]}, indent=1))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "ledger.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
