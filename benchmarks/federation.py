"""A real federation of hospitals that answer at once: SuperLink, SuperNodes, workers, FedAvg."""

import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import torch
from measuring import peak_mb
from polyclinic_client.fleet.pair import supernode

from polyclinic.config.compose import load_config
from polyclinic.federation.attendance import Attendance
from polyclinic.federation.grids.reliable_grid import ReliableGrid
from polyclinic.federation.records import Order
from polyclinic.system.processes import Child, free_port, stop_all
from polyclinic_client.fleet.connection import Connection
from polyclinic_strategies.averaging.strategy import Averaging


@dataclass
class Measured:
    """Figures of a few rounds."""

    seconds: list[float] = field(default_factory=list)
    # bytes between hospitals and coordinator, per round
    fleet_bytes: list[int] = field(default_factory=list)
    peak_mb: dict[str, float] = field(default_factory=dict)  # process -> peak resident memory


@contextmanager
def noop_hospitals(address: str, count: int, folder: Path) -> Iterator[list[Child]]:
    """Start SuperNodes and no-op workers that dial `address`."""
    children: list[Child] = []
    try:
        for number in range(count):
            site, port = f"site-{number}", free_port()
            home = folder / site
            home.mkdir(parents=True)
            secret = home / "secret"
            secret.write_bytes(secrets.token_bytes(32))
            command = [
                sys.executable,
                str(Path(__file__).with_name("noop_hospital.py")),
                f"127.0.0.1:{port}",
                str(secret),
                site,
            ]
            children += [supernode(Connection(address, site), port, home, secret, {"site": site})]
            children += [
                Child(
                    f"{site} worker",
                    command,
                    home / "worker.log",
                    {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())},
                )
            ]
            for child in children[-2:]:
                child.start()
        yield children
    finally:
        stop_all(children)


def measure(
    hospitals: int, rounds: int, parameters: int, folder: Path, counter: "object | None" = None
) -> Measured:
    """Measure the seconds of every round (train and evaluate), without the first one.

    The first round warms up.

    Args:
        hospitals: Number of hospitals.
        rounds: Number of counted rounds.
        parameters: Number of float32 parameters of the model.
        folder: New folder for logs.
        counter: A `wire.Counter` to put between hospitals and coordinator.
    """
    deployment = replace(load_config().deployment, min_hospitals=hospitals, wait_s=120.0)
    measured, events = Measured(), []
    with SuperLink(folder / "superlink", "127.0.0.1", 0) as link:
        address = counter.open(link.address) if counter is not None else link.address  # type: ignore[attr-defined]
        with noop_hospitals(address, hospitals, folder) as children, link.open_run() as grid:
            order = Order("benchmark", "fedavg", 0, rounds + 1, "none", "0", {"model": "unet"})
            attendance = Attendance(grid, order, events.append)
            patient = ReliableGrid(grid, attendance, deployment, events.append)
            attendance.wait_for(hospitals, hospitals, 120.0)
            averaging = Averaging("FedAvg", "none", {"_target_": "flwr.serverapp.strategy.FedAvg"})
            marks: list[tuple[float, int]] = []

            def mark(_number: int, _weights: torch.Tensor) -> None:
                marks.append((time.monotonic(), counter.bytes() if counter is not None else 0))  # type: ignore[attr-defined]

            strategy = averaging.build({"_target_": None}, [])
            averaging.run(patient, strategy, order, torch.rand(parameters), mark)
            measured.seconds = [later[0] - earlier[0] for earlier, later in pairwise(marks)]
            measured.fleet_bytes = [later[1] - earlier[1] for earlier, later in pairwise(marks)]
            measured.peak_mb = {"coordinator": peak_mb(None), "SuperLink": peak_mb(link.child.pid)}
            measured.peak_mb |= {child.name: peak_mb(child.pid) for child in children[:2]}
    return measured
