"""A coordinator that stays up, its hospitals, and what its runs end with."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from safetensors.numpy import load_file

from polyclinic.store.ledger import Ledger
from polyclinic.system.processes import Child, python_module, stop_all
from polyclinic_demos.federation import ONE_THREAD
from tests.e2e.federation import TINY, Federation
from tests.processes import run_cli

SERVER = "polyclinic_server.cli.main"


class ServedFederation(Federation):
    """A service, its hospitals, and commands that follow runs.

    Args:
        folder: Fresh.
        sites: Data of the hospitals.
        asked: Settings of each run; `{0}` stands for the first hospital's name.
    """

    def __init__(self, folder: Path, sites: list[Path], asked: Mapping[str, Sequence[str]]) -> None:
        super().__init__(folder, sites)
        self.asked = asked
        self.followers: dict[str, Child] = {}
        self.serve()

    def serve(self) -> None:
        command = python_module(SERVER, "serve", *self.settings)
        self.coordinator = Child("service", command, self.folder / "service.log", ONE_THREAD)

    def start_run(self, name: str) -> Child:
        settings = [text.format(*self.sites) for text in (*TINY, *self.asked[name])]
        command = python_module(SERVER, "run", "--name", name, *settings, *self.settings)
        log = self.folder / f"run-{name}.log"
        self.followers[name] = Child(f"run {name}", command, log, ONE_THREAD)
        self.followers[name].start()
        return self.followers[name]

    def command(self, *arguments: str) -> str:
        done = run_cli(SERVER, *arguments, "--runs", str(self.runs))
        assert done.returncode == 0, done.stderr
        return done.stdout

    def state_of(self, name: str) -> dict[str, Any]:
        path = self.runs / name / "run.json"
        return json.loads(path.read_text()) if path.exists() else {"state": ""}

    def events_of(self, name: str, kind: str) -> list[dict[str, Any]]:
        path = self.runs / name / "events.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [event for event in map(json.loads, lines) if event["kind"] == kind]

    def process_of(self, name: str) -> psutil.Process:
        """Return the process of a run."""
        return psutil.Process(self.state_of(name)["pid"])

    def until_finished(self, *names: str) -> None:
        for name in names or self.asked:
            self.wait_until(lambda: self.state_of(name)["state"] == "finished", name)  # noqa: B023

    def close(self) -> None:
        stop_all([*self.followers.values(), *self.hospitals.values()], patience_s=12.0)
        self.coordinator.stop(patience_s=25.0)


def run_alone(one: ServedFederation) -> None:
    """Do each run alone, one after the other, by `polyclinic-server run` without a service."""
    try:
        for name in one.sites:
            one.join(name, "--wait", "120")
        for name in one.asked:
            follower = one.start_run(name)
            assert follower.wait(400) == 0, follower.log.read_text()
    finally:
        one.close()


@contextmanager
def serving(one: ServedFederation) -> Iterator[ServedFederation]:
    """Start the service and its hospitals, and end them whatever happens."""
    try:
        one.coordinator.start()
        for name in one.sites:
            one.join(name, "--wait", "120")
        one.wait_until((one.runs / ".fleet" / "service").exists, "the service's socket")
        yield one
    finally:
        one.close()


def outcome(one: Federation, name: str) -> dict[str, np.ndarray] | str:
    """Return the weights that a run ended with, or the digest of what it published last."""
    ledger = one.runs / name / "ledger"
    if ledger.exists():
        with Ledger.open(ledger, create=False) as opened:
            assert opened.verify() is None
            return str(opened.publications()[-1].digest)
    (model,) = (one.runs / name).glob("arms/*/model.safetensors")
    return dict(load_file(model))


def assert_same(one: ServedFederation, other: ServedFederation) -> None:
    """Assert that every run ended with the same bits in both."""
    for name in one.asked:
        ours, theirs = outcome(one, name), outcome(other, name)
        if isinstance(ours, str) or isinstance(theirs, str):
            assert ours == theirs, name
            continue
        assert ours.keys() == theirs.keys(), name
        assert all(np.array_equal(ours[key], theirs[key]) for key in ours), name
