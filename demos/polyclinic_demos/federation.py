"""A federation of processes on one machine: what every demo starts, follows and ends.

Coordinator and hospitals are the commands that anybody runs, with TLS and a key for each. Only a
demo reads what the hospitals keep on their disks: there they all belong to one machine.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from polyclinic.errors import ResourceError, RunError
from polyclinic.federation.events import Event
from polyclinic.federation.run_folder import RunFolder
from polyclinic.system.durable import write_atomically
from polyclinic.system.nursery import forks_of
from polyclinic.system.processes import Child, free_port, python_module, stop_all
from polyclinic_client.site.status import FINE_TUNING, WORKER
from polyclinic_demos.local_pki import kit_for, local_authority
from polyclinic_server.enrolment.authority import Authority
from polyclinic_server.runs.coordinator import finish
from polyclinic_server.runs.event_tail import EventTail

ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # of each process: they share the machine's cores
SLOW = (  # what the processes of a federation import, for ten seconds of a core
    "polyclinic_client.cli.main",
    "polyclinic_client.fleet.app",
    "polyclinic_client.fleet.join",
    "polyclinic.learning.gallery",
    "polyclinic.learning.prediction",
    "polyclinic_server.runs.coordinator",
    "monai.networks.nets",
    "torch._dynamo",
)
PATIENCE_S = 12.0  # for processes to end in order
LOOK_S = 0.25  # between two looks at what happens
Handle = Callable[[Event], None]


@dataclass(frozen=True)
class LocalFederation:
    """Coordinator and hospitals of one demo.

    Attributes:
        folder: Everything of the demo.
        run: Folder of the run.
        sites: Data folders of the hospitals that take part.
        states: Folder of what the hospitals keep, of the keys and of the logs.
        newcomers: Data folders of the hospitals that join later.
    """

    folder: Path
    run: RunFolder
    sites: Sequence[Path]
    states: Path
    newcomers: Sequence[Path] = ()

    @cached_property
    def authority(self) -> Authority:
        """Certificates and keys, made when they are first asked for."""
        return local_authority(self.states / "security", free_port())

    @cached_property
    def events(self) -> EventTail:
        """The run's events, each read once; from the first one if a coordinator is made here."""
        return EventTail(self.run.path / "events.jsonl")

    def coordinator(self, *arguments: str) -> Child:
        """Return the command `polyclinic-server run` with these arguments."""
        _ = self.events  # it may write some before anybody follows
        where = (
            f"deployment.runs={self.run.path.parent}",
            f"deployment.security={self.authority.folder}",
        )
        command = python_module("polyclinic_server.cli.main", "run", *arguments, *where)
        environment = {**ONE_THREAD, "COLUMNS": "200"}
        return Child("the coordinator", command, self.states / "coordinator.log", environment)

    def hospital(self, data: Path, *options: str, slots: str = "") -> Child:
        """Return the command `polyclinic-client join` of a hospital.

        Args:
            data: The hospital's data folder; its name is the hospital's.
            options: Further options of `join`.
            slots: COUNT:NAME. Of the hospitals with this NAME at most COUNT compute at a time. All
                of the machine's cores if empty.
        """
        count, _, name = slots.partition(":")
        count, name = count or str(os.cpu_count() or 1), name or "slots"
        command = python_module(
            "polyclinic_client.cli.main", "join", "--kit", str(kit_for(self.authority, data.name)),
            "--data", str(data), "--state", str(self.states / data.name), "--wait", "120",
            "--min-subjects", "1", *options,  # nobody is behind these images
        )  # fmt: skip
        environment = {**ONE_THREAD, "POLYCLINIC_SLOTS": f"{count}:{self.states / name}"}
        return Child(data.name, command, self.states / data.name / "client.log", environment)

    def statuses(self) -> dict[str, dict[str, Any]]:
        """Read what each hospital says of itself on its own disk."""
        found = {path.parent.name: _read(path) for path in self.states.glob(f"*/{WORKER}")}
        return {site: status for site, status in found.items() if status}

    def training_of(self, site: str) -> float:
        """Tell how far a hospital's fine-tuning is, 0 to 1."""
        status = _read(self.states / site / FINE_TUNING)
        return float(status["step"]) / float(status["steps"]) if status.get("steps") else 0.0

    def run_module(self, what: str, module: str, *arguments: str, handle: Handle) -> None:
        """Run a module of the demos to its end, with all cores.

        Raises:
            ProcessDied: It failed, with its reason.
        """
        child = self.module(what, module, *arguments)
        with running([child]):
            self.follow(child, [], handle)

    def module(
        self, what: str, module: str, *arguments: str, env: Mapping[str, str] | None = None
    ) -> Child:
        """Return the command that runs a module of the demos on the run."""
        log = self.states / f"{module.rpartition('.')[2]}.log"
        return Child(what, python_module(module, str(self.run.path), *arguments), log, env)

    def train_pooled(self, handle: Handle) -> None:
        """Train on all hospitals' images in one place: the upper bound."""
        data = map(str, self.sites)
        self.run_module("the pooled training", "polyclinic_demos.pooled", *data, handle=handle)

    def follow(self, leader: Child, others: Sequence[Child], handle: Handle) -> None:
        """Pass events on until the leader has ended well.

        Raises:
            ProcessDied: The leader failed, or another one ended before it.
        """
        while True:
            status = leader.wait(LOOK_S)
            for event in self.events.read():
                handle(event)
            if status == 0:
                return
            if status is not None:  # not one that ended well while events were handled
                leader.check()
            for child in others:
                child.check()

    def collect_pictures(self) -> None:
        """Copy the hospitals' pictures into the run: in a demo they may leave.

        Raises:
            RunError: The run left no figures.
        """
        if not (self.run.path / "metrics.jsonl").exists():
            raise RunError(f"{self.run.path}: the run left no figures.")
        for site in self.sites:
            target = self.run.path / "pictures" / site.name
            target.mkdir(parents=True, exist_ok=True)
            kept = self.states / site.name / "runs" / self.run.name
            for picture in kept.glob("*/pictures/*.png"):
                shutil.copyfile(picture, target / picture.name)

    def conclude(self, console: Console, started: float) -> None:
        """Write the report, show its table, and tell how long the demo took.

        Args:
            console: Where it is shown.
            started: `time.monotonic()` when the demo began.
        """
        write_atomically(self.folder / "latest.txt", f"{self.run.path}\n")
        finish(self.run, console)
        minutes, seconds = divmod(time.monotonic() - started, 60)
        took = f"{minutes:.0f} min {seconds:.0f} s"
        console.print(f"The demo took {took}. Everything is in {self.folder}/.", markup=False)


def prepare_folder(folder: Path) -> Path:
    """Make the folder of a demo, and return it as an absolute path.

    Raises:
        ResourceError: It cannot be made, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ResourceError(
            f"{folder}: no folder for a demo ({reason}). Choose another with --folder."
        ) from error
    return folder.resolve()


def new_federation(
    folder: Path, sites: Sequence[Path], newcomers: Sequence[Path] = ()
) -> LocalFederation:
    """Name a new run by the time, so that a former demo in the folder stays as it is."""
    name, number = time.strftime("%Y-%m-%d_%H-%M-%S"), 1
    while (folder / "runs" / name).exists() or (folder / "state" / name).exists():
        number += 1
        name = f"{name[:19]}-{number}"
    run = RunFolder(folder / "runs" / name)
    return LocalFederation(folder, run, sites, folder / "state" / name, newcomers)


@contextmanager
def running(children: Sequence[Child]) -> Iterator[None]:
    """Start processes, and end them together, whatever happens meanwhile."""
    try:
        for child in children:
            child.start()
        yield
    finally:
        stop_all(children, PATIENCE_S)


def family_of(pid: int) -> dict[psutil.Process, list[str]]:
    """Return what a process started and what that started, with the commands."""
    found: dict[psutil.Process, list[str]] = {}
    todo = [pid]
    while todo:
        pid = todo.pop()
        children = forks_of(pid)
        with suppress(psutil.Error):
            children |= {child.pid: child.cmdline() for child in psutil.Process(pid).children()}
        for child, command in children.items():
            with suppress(psutil.Error):
                found[psutil.Process(child)] = command
                todo.append(child)
    return found


def kill_tree(pid: int) -> None:
    """End a process and everything that it started, as a power cut does."""
    try:
        processes = [psutil.Process(pid), *family_of(pid)]
    except psutil.NoSuchProcess:
        return
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON file that another process writes; empty while it is not there."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return found
