"""A thousand rounds with hospitals that come and go: do memory and files stay flat?

    python benchmarks/soak.py [--rounds 1000] [--hospitals 4]

The coordinator is `polyclinic-server run strategy=averaging/fedavg` with a tiny network; the
hospitals' clients and workers are real processes, too, whose ClientApp answers at once. All use TLS
and keys. About every fifty rounds a hospital's client is ended, one time gently and one time by
SIGKILL, and started again some rounds later. Every few seconds it is noted how much anonymous
memory the processes have, and how many files are open and lie in the run's folder. What is compared
is the second quarter of the rounds with the last one.
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from measuring import machine, memory_mb
from peers.processes import leave_on_sigterm

from polyclinic.federation.run_folder import read_lines
from polyclinic.system.processes import Child, free_port, python_module, stop_all
from polyclinic_demos.local_pki import kit_for, local_authority

RESULTS = Path(__file__).with_name("results")
EVERY = 50  # rounds between two hospitals that leave
AWAY = 5  # rounds
LOOK_S = 2.0
STALLED_S = 300.0  # without a round
JOB = [
    "strategy=averaging/fedavg",
    "model=unet_2d",
    "model.channels=[2,2,2]",
    "data=brain_tissue_slices",
    "training.epochs=1",
]
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}


@dataclass
class Look:
    """What was seen at one moment."""

    round: int
    seconds: float
    coordinator_mb: float
    clients_mb: float
    workers_mb: float
    coordinator_open_files: int
    hospitals_open_files: int
    files: int
    bytes: int


class Soak:
    """A coordinator and hospitals whose ClientApp answers at once."""

    def __init__(self, folder: Path, hospitals: int, rounds: int) -> None:
        self.folder, self.run = folder, folder / "runs" / "soak"
        port = free_port()
        authority = local_authority(folder / "security", port)
        names = [f"site-{number}" for number in range(hospitals)]
        deployment = {
            "host": "127.0.0.1",
            "port": port,
            "security": folder / "security",
            "runs": folder / "runs",
            "hospitals": hospitals,
            "min_hospitals": 2,
            "grace_s": 5,
        }
        settings = [f"deployment.{key}={value}" for key, value in deployment.items()]
        self.coordinator = Child(
            "coordinator",
            python_module(
                "polyclinic_server.cli.main", "run", "--name", "soak", *settings, *JOB,
                f"rounds={rounds}",
            ),
            folder / "coordinator.log",
            ENVIRONMENT,
        )  # fmt: skip
        here = Path(__file__).parent
        paths = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
        self.hospitals = {
            name: Child(
                name,
                python_module(
                    "noop_hospital",
                    str(folder / name),
                    "--kit",
                    str(kit_for(authority, name)),
                ),
                folder / f"{name}.log",
                {**ENVIRONMENT, "PYTHONPATH": paths},
            )
            for name in names
        }
        self.away: dict[str, int] = {}  # round at which a hospital left
        self.began = time.monotonic()

    def start(self) -> None:
        """Start everybody."""
        self.coordinator.start()
        for name, child in self.hospitals.items():
            (self.folder / name).mkdir()
            child.start()

    def close(self) -> None:
        """End everybody."""
        stop_all([*self.hospitals.values(), self.coordinator], patience_s=10.0)

    def round(self) -> int:
        """Return the number of rounds that have ended."""
        rows = read_lines(self.run / "metrics.jsonl")
        return max((int(row.get("round", 0)) for row in rows), default=0)

    def disturb(self, number: int, times: int) -> int:
        """Let a hospital leave, or come back; return how many have left so far."""
        for name, since in list(self.away.items()):
            if number >= since + AWAY:
                del self.away[name]
                self.hospitals[name].start()
        if number // EVERY > times and not self.away:
            name = sorted(self.hospitals)[times % len(self.hospitals)]
            child = self.hospitals[name]
            if times % 2:
                os.killpg(child.pid or 0, signal.SIGKILL)
            child.stop(10.0)
            self.away[name] = number
            return times + 1
        return times

    def look(self, number: int) -> Look:
        """Look at memory and files."""
        running = [child for name, child in self.hospitals.items() if name not in self.away]
        clients = [psutil.Process(child.pid) for child in running]
        workers = [worker for client in clients for worker in client.children()]
        files = [path for path in self.run.rglob("*") if path.is_file()]

        def memory(processes: list[psutil.Process]) -> float:
            return sum(memory_mb(each.pid, "RssAnon") for each in processes) / len(processes)

        return Look(
            number,
            time.monotonic() - self.began,
            memory_mb(self.coordinator.pid, "RssAnon"),
            memory(clients),
            memory(workers),
            psutil.Process(self.coordinator.pid).num_fds(),
            sum(each.num_fds() for each in [*clients, *workers]),
            len(files),
            sum(path.stat().st_size for path in files),
        )


def watch(soak: Soak, rounds: int) -> tuple[list[Look], int]:
    """Look until the run has ended; return what was seen, and how often a hospital left."""
    looks: list[Look] = []
    times, newest, since = 0, 0, time.monotonic()
    while soak.coordinator.status() is None:
        time.sleep(LOOK_S)
        number = soak.round()
        if number > newest:
            newest, since = number, time.monotonic()
            print(f"round {number} of {rounds}", end="\r", flush=True)
        if time.monotonic() - since > STALLED_S:
            raise SystemExit(f"no round in {STALLED_S:.0f} s: {soak.coordinator.last_words()}")
        with contextlib.suppress(psutil.Error, OSError, StopIteration, ZeroDivisionError):
            looks.append(soak.look(number))  # unless somebody is just starting
        times = soak.disturb(number, times)
    if soak.coordinator.status():
        raise SystemExit(f"the coordinator ended: {soak.coordinator.last_words()}")
    return looks, times


def growth(looks: list[Look], rounds: int) -> dict[str, dict[str, float]]:
    """Compare the second quarter of the rounds with the last one."""
    early = [look for look in looks if rounds / 4 <= look.round < rounds / 2]
    late = [look for look in looks if look.round >= 3 * rounds / 4]
    return {
        name: {
            "second_quarter": statistics.median(getattr(look, name) for look in early),
            "last_quarter": statistics.median(getattr(look, name) for look in late),
        }
        for name in asdict(looks[0])
        if name not in ("round", "seconds")
    }


def main() -> None:
    """Measure, print, and write results/soak.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--hospitals", type=int, default=4)
    asked = parser.parse_args()
    leave_on_sigterm()
    found: dict[str, object] = {"machine": machine(), **vars(asked)}
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        soak = Soak(Path(name), asked.hospitals, asked.rounds)
        try:
            soak.start()
            looks, times = watch(soak, asked.rounds)
        finally:
            soak.close()
        found |= {
            "seconds": looks[-1].seconds,
            "hospitals_left": times,
            "looks": len(looks),
            "growth": growth(looks, asked.rounds),
        }
    print(json.dumps(found, indent=1))
    (RESULTS / "soak.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
