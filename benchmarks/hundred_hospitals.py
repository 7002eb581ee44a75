"""A hundred hospitals, or a thousand, and one coordinator: time of a merge, idle cost, losses.

    python benchmarks/hundred_hospitals.py [--hospitals 100] [--real 4]
    python benchmarks/hundred_hospitals.py --hospitals 1000 --real 0 --short

The coordinator is `polyclinic-server run strategy=merging/mean`. A few hospitals are real
(`polyclinic-client join` with tiny brain images), many are thin ones in one process
(`thin_hospitals.py`). Everybody has an enrolled key and speaks TLS. All but one join at once and
are ready at once, which is the worst case. Then nothing happens for a while, and what idle
hospitals cost is measured. Then the last one joins, and the run ends by itself. With --short nobody
waits for scores, and the run is stopped.
"""

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from measuring import machine, memory_mb, peak_mb
from thin_hospitals import name_of

from polyclinic.federation.run_folder import read_lines
from polyclinic.learning.state_dict import load_state, state_digest
from polyclinic.store.ledger import Ledger
from polyclinic.system.processes import Child, free_port, python_module, stop_all, wait_for_port
from polyclinic_demos.cohorts.hospitals import HOSPITALS, write_cohort
from polyclinic_demos.local_pki import kit_for, local_authority

sys.path.append(str(Path(__file__).resolve().parents[1]))  # run as a script

from tests.processes import run_cli

RESULTS = Path(__file__).with_name("results")
JOB = [
    "model=unet_2d",
    "data=brain_tissue_slices",
    "data.spacing_mm=[6.0,6.0,6.0]",
    "data.patch=[24,32]",
    "data.samples_per_case=4",
    "training.batch_size=4",
    "training.learning_rate=0.01",
    "rounds=1",
]
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}
HOST = "127.0.0.1"


class Meter:
    """Observer of processes.

    Args:
        find: Returns the processes by kind, several for one kind.
    """

    def __init__(self, find: Callable[[], dict[str, list[psutil.Process]]]) -> None:
        self._find, self._leaving = find, threading.Event()
        self._spent: dict[str, dict[int, float]] = {}
        self._peak: dict[str, float] = {}
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Meter":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        self._thread.join()

    def cpu(self) -> dict[str, float]:
        """Return the CPU seconds of every kind so far."""
        return {kind: sum(spent.values()) for kind, spent in self._spent.items()}

    def peaks(self) -> dict[str, float]:
        """Return the peak memory of any one process of a kind, MB."""
        return dict(self._peak)

    def _watch(self) -> None:
        while not self._leaving.wait(1.0):
            for kind, processes in self._find().items():
                for process in processes:
                    try:
                        times = process.cpu_times()
                        self._spent.setdefault(kind, {})[process.pid] = times.user + times.system
                        self._peak[kind] = max(self._peak.get(kind, 0.0), peak_mb(process.pid))
                    except (psutil.Error, OSError, StopIteration):
                        continue


class Hundred:
    """The coordinator and its hospitals; ends everything that it started."""

    def __init__(
        self,
        folder: Path,
        hospitals: int,
        real: int,
        spread: float,
        settings: Sequence[str],
    ) -> None:
        self.folder, self.hospitals, self.run = folder, hospitals, folder / "runs" / "run"
        self._keys = folder / "security" / "hospitals"
        port = free_port()
        self.address = f"{HOST}:{port}"
        coarse = [replace(scanner, voxel_mm=(5.0, 5.0, 6.0)) for scanner in HOSPITALS[:real]]
        sites = (
            write_cohort(folder / "cohort", sites=real, subjects=(2, 1, 1), seed=7, scanners=coarse)
            if real
            else []
        )
        thin = [name_of(number) for number in range(hospitals - real)]
        self._enrol(port, [*(site.name for site in sites), *thin])
        asked = [
            "strategy=merging/mean",
            f"deployment.host={HOST}",
            f"deployment.port={port}",
            f"deployment.security={folder / 'security'}",
            f"deployment.runs={folder / 'runs'}",
            f"deployment.hospitals={hospitals}",
            "deployment.min_hospitals=1",
            f"strategy.end.contributions={hospitals}",
            *JOB,
            *settings,
        ]
        run = python_module("polyclinic_server.cli.main", "run", "--name", "run", *asked)
        self.coordinator = Child("coordinator", run, folder / "coordinator.log", ENVIRONMENT)
        here = Path(__file__).parent
        command = python_module("thin_hospitals", str(folder / "thin"), "--keys", str(self._keys))
        command += ["--count", str(hospitals - real), "--late", "1", "--spread", str(spread)]
        found = [str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]
        paths = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join(found)}
        self.thin = Child("thin hospitals", command, folder / "thin.log", paths)
        (folder / "thin").mkdir()
        self.real = [self._join(site) for site in sites]

    def _enrol(self, port: int, names: list[str]) -> None:
        """Make a key and a kit for everybody."""
        authority = local_authority(self.folder / "security", port)
        for name in names:
            kit_for(authority, name)

    def _join(self, data: Path) -> Child:
        command = python_module(
            "polyclinic_client.cli.main",
            "join",
            "--kit",
            str(self._keys / data.name / "kit.json"),
            "--data",
            str(data),
            "--state",
            str(self.folder / "state" / data.name),
        )
        return Child(data.name, command, self.folder / f"{data.name}.log", ENVIRONMENT)

    def processes(self) -> dict[str, list[psutil.Process]]:
        """Return the running processes by kind."""
        found: dict[str, list[psutil.Process]] = {}
        try:
            found["coordinator"] = [psutil.Process(self.coordinator.pid)]
            found["thin hospitals"] = [psutil.Process(self.thin.pid)] if self.thin.pid else []
            for child in self.real:
                if child.pid:
                    process = psutil.Process(child.pid)
                    found["real hospitals"] = [
                        *found.get("real hospitals", []),
                        process,
                        *process.children(recursive=True),
                    ]
        except psutil.Error:
            pass
        return found

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return the events that the coordinator recorded."""
        return [event for event in read_lines(self.run / "events.jsonl") if event["kind"] == kind]

    def diaries(self) -> dict[str, Any]:
        """Return the records of the thin hospitals."""
        path = self.folder / "thin" / "thin.json"
        found: dict[str, Any] = (
            json.loads(path.read_text())
            if path.exists()
            else {"calls": {}, "answered": {}, "hospitals": {}, "time": 0.0}
        )
        return found

    def wait_until(self, true: Callable[[], object], what: str, timeout_s: float) -> float:
        """Wait until something holds; return the seconds that it took."""
        began = time.monotonic()
        while not true():
            self.coordinator.check()
            self.thin.check()
            if time.monotonic() - began > timeout_s:
                raise SystemExit(f"{what}: not in {timeout_s:.0f} s")
            time.sleep(0.5)
        return time.monotonic() - began

    def scored(self) -> int:
        """Return how many hospitals have scored the newest model."""
        newest = max((event["number"] for event in self.events("published")), default=0)
        return len({event["site"] for event in self.events("answered") if event["round"] == newest})

    def until(self, began: float) -> dict[str, float]:
        """Return the seconds until hospitals had joined, and until their contributions were in."""
        many = self.hospitals - 1
        joined = [event["time"] - began for event in self.events("joined")]
        given = [event["time"] - began for event in self.events("contribution")]
        return {
            "half_joined": joined[many // 2],
            "all_but_one_joined": joined[many - 1],
            "half_in": given[many // 2],
            "all_but_one_in": given[many - 1],
        }

    def counted(self) -> dict[str, Any]:
        """Return the numbers of connections and threads."""
        port = int(self.address.rpartition(":")[2])
        processes = self.processes()
        return {
            "connections": sum(
                connection.status == "ESTABLISHED" and connection.laddr.port == port
                for connection in processes["coordinator"][0].net_connections("tcp")
            ),
            "threads": {
                kind: sum(process.num_threads() for process in found)
                for kind, found in processes.items()
            },
        }

    def close(self) -> None:
        """End everything."""
        stop_all([*self.real, self.thin], patience_s=12.0)
        self.coordinator.stop(12.0)


class Phases:
    """CPU and calls between marks."""

    def __init__(self, one: Hundred, meter: Meter) -> None:
        self._one, self._meter = one, meter
        self._last = self._look()
        self.found: dict[str, Any] = {}

    def _look(self) -> tuple[float, dict[str, float], dict[str, Any], float]:
        time.sleep(1.5)  # meter and diaries have looked since
        return time.monotonic(), self._meter.cpu(), self._one.diaries(), psutil.cpu_times().user

    def end(self, name: str) -> None:
        """End a phase."""
        (began, before, told, _), self._last = self._last, self._look()
        now, after, tells, _ = self._last
        seconds = now - began
        calls = {key: count - told["calls"].get(key, 0) for key, count in tells["calls"].items()}
        asked = {
            key: count - told["answered"].get(key, 0) for key, count in tells["answered"].items()
        }
        talked = max(tells["time"] - told["time"], 1e-9) if told["time"] else seconds
        self.found[name] = {
            "seconds": seconds,
            "cores": {
                kind: (spent - before.get(kind, 0.0)) / seconds for kind, spent in after.items()
            },
            "thin_calls_per_s": {
                key: count / talked for key, count in sorted(calls.items()) if count
            },
            "thin_questions_per_s": {
                key: count / talked for key, count in sorted(asked.items()) if count
            },
            "load": psutil.getloadavg()[0],
        }
        print(name, json.dumps(self.found[name], indent=1), flush=True)


def spread_of(seconds: Sequence[float]) -> dict[str, float]:
    """Return the median, the worst, and the medians of the first and the last ten."""
    ordered = list(seconds)
    if not ordered:
        return {}
    return {
        "median_s": statistics.median(ordered),
        "p95_s": sorted(ordered)[int(0.95 * (len(ordered) - 1))],
        "worst_s": max(ordered),
        "first_ten_s": statistics.median(ordered[:10]),
        "last_ten_s": statistics.median(ordered[-10:]),
        "count": len(ordered),
    }


def merges(one: Hundred) -> dict[str, Any]:
    """Return the times from a contribution's commit to the publication, also as hospitals see."""
    published: dict[str, float] = {}
    commits: dict[str, float] = {}
    taken: list[float] = []
    lines = [
        line
        for line in read_lines(one.run / "events.jsonl")
        if line["kind"] in ("contribution", "published")
    ]
    for line in lines:
        if line["kind"] == "contribution":
            commits[line["site"]] = line["time"]
        elif line["why"] == "arrival" and (fresh := set(line["sites"]) - set(published)):
            for site in fresh:
                published[site] = line["time"]
                taken.append(line["time"] - commits[site])
    seen = one.diaries()["hospitals"]
    ready = [
        (each["ready"], name, each)
        for name, each in seen.items()
        if each["ready"] and name in published
    ]
    return {
        "commit_to_publication": spread_of(taken),
        "ready_to_publication": spread_of(
            [published[name] - when for when, name, _ in sorted(ready)]
        ),
        "ready_to_acknowledged": spread_of(
            [each["settled"] - when for when, _, each in sorted(ready) if each["settled"]]
        ),
    }


def check(one: Hundred) -> dict[str, Any]:
    """Check that everything is there once, and that the model is the rule's result."""
    ledger, target = one.run / "ledger", one.folder / "offline.safetensors"
    verified = run_cli("polyclinic_server.cli.main", "ledger", "verify", "--ledger", str(ledger))
    merged = run_cli(
        "polyclinic_server.cli.main",
        "merge",
        "--rule",
        "mean",
        "--ledger",
        str(ledger),
        "--to",
        str(target),
    )
    with Ledger.open(ledger, create=False) as opened:
        active = {entry.site: entry.digest for entry in opened.active()}
        newest = opened.publications()[-1]
        found = {
            "active": len(active),
            "entries": len(opened.entries()),
            "publications": len(opened.publications()),
        }
    diaries = one.diaries()["hospitals"]
    return {
        **found,
        "verify": verified.stdout.strip() or verified.stderr.strip(),
        "offline_merge_is_the_published_model": merged.returncode == 0
        and state_digest(load_state(target)[0]) == newest.digest,
        "thin_hospitals_whose_contribution_counts": sum(
            active.get(name) == each["digest"] for name, each in diaries.items()
        ),
        "thin_hospitals": len(diaries),
        "refused": {name: each["refused"] for name, each in diaries.items() if each["refused"]},
        "failed": {name: each["failed"] for name, each in diaries.items() if each["failed"]},
        "ledger_mb": sum(path.stat().st_size for path in ledger.rglob("*") if path.is_file()) / 1e6,
    }


def play(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Run everything once."""
    one = Hundred(folder, asked.hospitals, asked.real, asked.spread, asked.setting)
    many = asked.hospitals - 1
    try:
        with Meter(one.processes) as meter:
            one.coordinator.start()
            wait_for_port(one.address, 600.0, one.coordinator)
            one.wait_until(lambda: one.events("arm_start"), "the run begins", 600.0)
            phases, began = Phases(one, meter), time.time()
            alone_mb = memory_mb(one.coordinator.pid, "RssAnon")
            for child in [one.thin, *one.real]:
                child.start()
            one.wait_until(
                lambda: len(one.events("joined")) >= many, "everybody has joined", 1800.0
            )
            one.wait_until(
                lambda: len(one.events("contribution")) >= many, "everybody has contributed", 1800.0
            )
            phases.end("all at once")
            began_scoring = time.monotonic()
            while one.scored() < many and time.monotonic() - began_scoring < asked.scoring:
                time.sleep(0.5)
            scored = one.scored()
            phases.end("scoring")
            time.sleep(asked.settle)
            phases.end("settling")
            time.sleep(asked.idle)
            found = one.counted()
            phases.end("idle")
            idle_mb = memory_mb(one.coordinator.pid, "RssAnon")
            (folder / "thin" / "go").touch()
            one.wait_until(
                lambda: len(one.events("contribution")) > many,
                "the last one has contributed",
                300.0,
            )
            phases.end("the last one")
            last = time.time()
            while one.coordinator.status() is None and time.time() - last < asked.closing:
                time.sleep(0.5)
            phases.end("closing")
            status = one.coordinator.status()
            one.coordinator.stop(30.0)
            late = [each for each in one.diaries()["hospitals"].values() if each["joined"]][-1]
            return {
                "phases": phases.found,
                "peak_mb": meter.peaks(),
                "coordinator_anonymous_mb": {"alone": alone_mb, "idle": idle_mb},
                "idle_for_each": {
                    "memory_kb": 1e3 * (idle_mb - alone_mb) / many,
                    "core_share": phases.found["idle"]["cores"]["coordinator"] / many,
                },
                **found,
                "scored_the_newest": scored,
                "seconds_until": one.until(began),
                "last_one_s": {
                    "to_base": late["based"] - late["joined"],
                    "to_acknowledged": late["settled"] - late["joined"]
                    if late["settled"]
                    else None,
                },
                "merges": merges(one),
                "ended_by_itself": status,
                "closing_s": time.time() - last,
                "check": check(one),
                "figures": len(list(read_lines(one.run / "metrics.jsonl"))),
            }
    finally:
        one.close()


def main() -> None:
    """Measure and write results/hundred_hospitals.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hospitals", type=int, default=100)
    parser.add_argument("--real", type=int, default=4)
    parser.add_argument("--short", action="store_true", help="do not wait for scores or the end")
    parser.add_argument(
        "--spread",
        type=float,
        default=0.0,
        help="seconds over which the thin hospitals' contributions become ready",
    )
    parser.add_argument(
        "--settle",
        type=float,
        default=110.0,
        help="seconds after the last news before the idle phase",
    )
    parser.add_argument("--idle", type=float, default=60.0)
    parser.add_argument(
        "--scoring",
        type=float,
        default=150.0,
        help="longest time until everybody has scored the newest model",
    )
    parser.add_argument(
        "--closing", type=float, default=900.0, help="longest time for the run's end"
    )
    parser.add_argument(
        "--setting", action="append", default=[], help="for `polyclinic-server run`"
    )
    parser.add_argument("--folder", type=Path, help="kept; default: a temporary one")
    parser.add_argument("--to", type=Path, default=RESULTS / "hundred_hospitals.json")
    asked = parser.parse_args()
    if asked.short:
        asked.scoring, asked.settle, asked.idle, asked.closing = 0.0, 15.0, 20.0, 0.0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends all processes
    found: dict[str, Any] = {
        "machine": machine(),
        "hospitals": asked.hospitals,
        "real": asked.real,
        "spread_s": asked.spread,
        "settings": asked.setting,
    }
    with tempfile.TemporaryDirectory(prefix="hundred-") as name:
        folder = asked.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        found |= play(folder, asked)
    print(json.dumps({key: value for key, value in found.items() if key != "phases"}, indent=1))
    asked.to.parent.mkdir(parents=True, exist_ok=True)
    asked.to.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
