"""Seconds of a round when hospitals answer at once: polyclinic, stock Flower, NVIDIA FLARE.

    python benchmarks/federation.py [--hospitals 3 6] [--rounds 5] [--only polyclinic]

A round is training and evaluation by Flower's FedAvg with a model of 10 000 float32 parameters, on
loopback. Polyclinic's processes are its real ones, in plain text and with TLS and keys; only the
ClientApp answers at once. FLARE is its simulator. All are measured in one run on one machine, and
figures are medians over the rounds after the first. For the limits of the comparison, see
benchmarks/README.md.
"""

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import psutil
import torch
from measuring import AnonymousPeaks, machine, memory_mb
from peers import flower_stock, nvflare_simulator
from peers.processes import leave_on_sigterm

from polyclinic.config.compose import load_config
from polyclinic.federation.attendance import Attendance
from polyclinic.federation.grids.reliable_grid import ReliableGrid
from polyclinic.federation.records import Order
from polyclinic.system.processes import Child, free_port, python_module, stop_all
from polyclinic_demos.local_pki import kit_for, local_authority
from polyclinic_server.enrolment.endpoint import Endpoint
from polyclinic_server.fleet.grid import FleetGrid
from polyclinic_server.fleet.server import FleetServer
from polyclinic_strategies.averaging.strategy import Averaging

RESULTS = Path(__file__).with_name("results")
PARAMETERS = 10_000
COME_S = 300.0  # for all hospitals to come
Row = dict[str, object]


@dataclass
class Measured:
    """Figures of a few rounds; the first one warms up."""

    seconds: list[float] = field(default_factory=list)
    peak_mb: dict[str, float] = field(default_factory=dict)  # anonymous memory, by process
    idle_mb: dict[str, float] = field(default_factory=dict)  # the same, before the first round


@contextmanager
def noop_hospitals(
    kits: Mapping[str, list[str]], folder: Path
) -> Iterator[Callable[[], dict[str, int | None]]]:
    """Start hospitals with workers that answer at once; yields what finds their processes.

    Args:
        kits: How each connects, as options of `noop_hospital.py`.
        folder: For their state and logs.
    """
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    children = [
        Child(
            site,
            python_module("noop_hospital", str(folder / site), *options),
            folder / f"{site}.log",
            environment,
        )
        for site, options in kits.items()
    ]

    def processes() -> dict[str, int | None]:
        found: dict[str, int | None] = {"coordinator": None}
        for child in children:
            found[f"{child.name} client"] = child.pid
            for worker in psutil.Process(child.pid).children():
                found[f"{child.name} worker"] = worker.pid
        return found

    try:
        for child in children:
            (folder / child.name).mkdir(parents=True)
            child.start()
        yield processes
    finally:
        stop_all(children)


@contextmanager
def coordinator(
    folder: Path, hospitals: int, *, keys: bool
) -> Iterator[tuple[FleetServer, dict[str, list[str]]]]:
    """Start the coordinator's end; yields it, and how each hospital connects to it."""
    port = free_port()
    names = [f"site-{number}" for number in range(hospitals)]
    authority = local_authority(folder / "security", port) if keys else None
    if authority is not None:
        options = {name: ["--kit", str(kit_for(authority, name))] for name in names}
    else:
        options = {name: ["--server", f"127.0.0.1:{port}", "--name", name] for name in names}
    with FleetServer(Endpoint("127.0.0.1", port, authority), folder / "fleet") as server:
        yield server, options


def measure(
    hospitals: int, rounds: int, parameters: int, folder: Path, *, keys: bool = True
) -> Measured:
    """Measure the seconds of every round (train and evaluate), and anonymous memory.

    Args:
        hospitals: Number of hospitals.
        rounds: Number of rounds.
        parameters: Number of float32 parameters of the model.
        folder: New folder.
        keys: Whether hospitals use TLS and keys; else plain text.
    """
    with (
        coordinator(folder, hospitals, keys=keys) as (server, options),
        noop_hospitals(options, folder / "hospitals") as processes,
    ):
        order = Order("benchmark", "fedavg", 0, rounds, "none", "0", {"model": "unet"})
        patient = everybody(server.grid, order, hospitals)
        measured = Measured()
        measured.idle_mb = {name: memory_mb(pid, "RssAnon") for name, pid in processes().items()}
        weights = torch.rand(parameters)
        with AnonymousPeaks(processes) as memory:
            measured.seconds = play(patient, order, weights)
        measured.peak_mb = memory.peaks
    return measured


def everybody(grid: FleetGrid, order: Order, hospitals: int) -> ReliableGrid:
    """Wait until all hospitals take part, and return the grid to them."""
    deployment = replace(load_config().deployment, min_hospitals=hospitals, wait_s=COME_S)
    attendance = Attendance(grid, order, lambda _event: None)
    attendance.wait_for(hospitals, hospitals, COME_S)
    return ReliableGrid(grid, attendance, deployment, lambda _event: None)


def play(grid: ReliableGrid, order: Order, weights: torch.Tensor) -> list[float]:
    """Return the seconds of each round."""
    averaging = Averaging("FedAvg", "none", {"_target_": "flwr.serverapp.strategy.FedAvg"})
    strategy = averaging.build({"_target_": None}, [])
    marks = [time.monotonic()]
    averaging.run(
        grid, strategy, order, weights, lambda _number, _weights: marks.append(time.monotonic())
    )
    return [later - earlier for earlier, later in pairwise(marks)]


def ours(hospitals: int, rounds: int, folder: Path, *, keys: bool) -> Row:
    """Return polyclinic's row."""
    seconds = measure(hospitals, rounds + 1, PARAMETERS, folder, keys=keys).seconds[1:]
    return {
        "system": "polyclinic, TLS and keys" if keys else "polyclinic, plain",
        "hospitals": hospitals,
        "median_s": statistics.median(seconds),
        "seconds_per_round": seconds,
    }


def stock(hospitals: int, rounds: int, folder: Path) -> Row:
    """Return the row of Flower with its defaults: subprocess isolation, its own FedAvg loop."""
    return vars(flower_stock.measure(hospitals, rounds, folder))


def flare(hospitals: int, rounds: int, folder: Path, *, own_validation: bool) -> Row:
    """Return the row of NVIDIA FLARE's simulator.

    With `own_validation`, it evaluates the average in an exchange of its own, as Flower and
    polyclinic do.
    """
    env = Path("build/nvflare-env")
    try:
        return vars(
            nvflare_simulator.measure(hospitals, rounds, folder, env, own_validation=own_validation)
        )
    except nvflare_simulator.LeftOutError as reason:
        return {"system": "nvflare", "hospitals": hospitals, "left_out": str(reason)}


SYSTEMS: dict[str, Callable[[int, int, Path], Row]] = {
    "polyclinic": lambda *asked: ours(*asked, keys=True),
    "polyclinic-plain": lambda *asked: ours(*asked, keys=False),
    "flower": stock,
    "flare": lambda *asked: flare(*asked, own_validation=False),
    "flare-2": lambda *asked: flare(*asked, own_validation=True),
}


def main() -> None:
    """Measure everything, print it, and write results/federation.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hospitals", type=int, nargs="+", default=[3, 6])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    asked = parser.parse_args()
    leave_on_sigterm()
    logging.getLogger("flwr").handlers.clear()
    rows: list[Row] = []
    found = {"machine": machine(), "rows": rows}
    with tempfile.TemporaryDirectory(prefix="federation-") as folder:
        for count in asked.hospitals:
            for name in asked.only:
                row = SYSTEMS[name](count, asked.rounds, Path(folder) / f"{name}-{count}")
                rows.append({**row, "load_after": psutil.getloadavg()[0]})
                print(json.dumps(rows[-1], default=str), flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "federation.json").write_text(json.dumps(found, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
