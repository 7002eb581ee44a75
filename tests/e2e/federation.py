"""Real processes on free loopback ports: a coordinator and hospitals with a tiny cohort."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from polyclinic.system.processes import Child, free_port, python_module, stop_all
from polyclinic_client.site.status import FINE_TUNING
from polyclinic_demos.federation import ONE_THREAD, family_of
from polyclinic_demos.local_pki import kit_for, local_authority

TINY = [
    "model=unet_2d",
    "data=brain_tissue_slices",
    "model.channels=[4,8,8,8]",
    "data.spacing_mm=[6.0,6.0,6.0]",
    "data.patch=[24,32]",
    "data.samples_per_case=4",
    "training.batch_size=4",
    "training.learning_rate=0.01",
]


class Federation:
    """A coordinator and its hospitals, with TLS and keys; ends everything it started."""

    def __init__(
        self, folder: Path, sites: list[Path], *settings: str, resume: str | None = None
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.sites = {site.name: site for site in sites}
        self.runs = folder / "runs"
        self.hospitals: dict[str, Child] = {}
        self.authority = local_authority(folder / f"security-{self.port}", self.port)
        self.settings = [
            f"deployment.security={self.authority.folder}",
            f"deployment.runs={self.runs}",
            *settings,
        ]
        self.coordinator = self.make_coordinator("--name", "run", *TINY)

    def make_coordinator(self, *arguments: str) -> Child:
        return Child(
            "coordinator",
            python_module("polyclinic_server.cli.main", "run", *arguments, *self.settings),
            self.folder / "coordinator.log",
            ONE_THREAD,
        )

    def enrol(self, name: str) -> Path:
        """Return the kit of a hospital, its key beside it."""
        return kit_for(self.authority, name)

    def join(self, name: str, *options: str) -> Child:
        command = python_module(
            "polyclinic_client.cli.main", "join", "--kit", str(self.enrol(name)),
            "--data", str(self.sites[name]), "--state", str(self.folder / "state" / name),
            "--min-subjects", "1", *options,
        )  # fmt: skip
        self.hospitals[name] = Child(name, command, self.folder / f"{name}.log", ONE_THREAD)
        self.hospitals[name].start()
        return self.hospitals[name]

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        path = self.runs / "run" / "events.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [event for event in map(json.loads, lines) if kind in (None, event["kind"])]

    def metrics(self) -> list[dict[str, Any]]:
        return [
            json.loads(line)
            for line in (self.runs / "run" / "metrics.jsonl").read_text().splitlines()
        ]

    def describe(self) -> dict[str, Any]:
        return json.loads((self.runs / "run" / "run.json").read_text())

    def wait_until(self, true: Callable[[], object], what: str, timeout_s: float = 240.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not true():
            said = self.coordinator.log.read_text()[-2000:]
            ended = self.coordinator.status()
            assert ended is None, f"the coordinator ended before {what}: {said}"
            assert time.monotonic() < deadline, f"{what}: not in {timeout_s} s: {said}"
            time.sleep(0.1)

    def freeze_in_training(self, name: str, timeout_s: float = 240.0) -> None:
        """Wait until a hospital trains, and stop its processes there, however fast it is."""
        status, deadline = self.folder / "state" / name / FINE_TUNING, time.monotonic() + timeout_s
        while not (status.exists() and '"training"' in status.read_text()):
            assert time.monotonic() < deadline, f"{name} does not train"
            time.sleep(0.002)
        pid = self.hospitals[name].pid
        for member in (*(process.pid for process in family_of(pid)), pid):
            os.kill(member, signal.SIGSTOP)
        assert name not in {event["site"] for event in self.events("contribution")}

    def kill_all(self, name: str | None = None) -> None:
        """End everything on the machine of a hospital, or of the coordinator, as a power cut."""
        child = self.coordinator if name is None else self.hospitals[name]
        for member in (*(process.pid for process in family_of(child.pid)), child.pid):
            with suppress(ProcessLookupError):
                kill(member)
        child.wait(10)

    def wait(self, timeout_s: float = 400.0) -> int:
        status = self.coordinator.wait(timeout_s)
        assert status is not None, (
            f"the run did not end in {timeout_s} s: {self.coordinator.log.read_text()[-2000:]}"
        )
        return status

    def close(self) -> None:
        stop_all([self.coordinator, *self.hospitals.values()], patience_s=12.0)


def kill(pid: int) -> None:
    """End a process as a power cut does."""
    os.kill(pid, signal.SIGKILL)


def opened(federation: Federation) -> Iterator[Federation]:
    """Close a federation whatever happens, for fixtures."""
    try:
        yield federation
    finally:
        federation.close()
