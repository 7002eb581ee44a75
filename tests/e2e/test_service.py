"""A coordinator that stays up, with real processes: runs side by side, killed and taken up again.

Four runs of four strategies share three hospitals. Each must end with the bits that it has alone.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from polyclinic.store.ledger import Ledger
from polyclinic.system.processes import Child, python_module, stop_all
from polyclinic_demos.federation import ONE_THREAD, family_of
from tests.e2e.federation import TINY, Federation, kill
from tests.processes import run_cli

pytestmark = pytest.mark.e2e
SERVER = "polyclinic_server.cli.main"
ALL = ("deployment.hospitals=3", "deployment.min_hospitals=3")
TWO = ("deployment.hospitals=2", "deployment.min_hospitals=2")
RUNS: dict[str, tuple[str, ...]] = {
    "bn": ("strategy=averaging/fedbn", "rounds=3", *ALL),
    "prox": ("strategy=averaging/fedprox", "rounds=3", *TWO, "deployment.sites=[{1},{2}]"),
    "mean": (
        "strategy=merging/mean", "rounds=3", "strategy.poll_s=0.5",
        "deployment.hospitals=2", "deployment.sites=[{0},{1}]",
    ),
    "ties": ("strategy=merging/ties", "rounds=2", "strategy.poll_s=0.5", *ALL),
}  # fmt: skip


class ServedFederation(Federation):
    """A service, its hospitals, and commands that follow runs."""

    def __init__(self, folder: Path, sites: list[Path]) -> None:
        super().__init__(folder, sites)
        self.followers: dict[str, Child] = {}
        self.serve()

    def serve(self) -> None:
        command = python_module(SERVER, "serve", *self.settings)
        self.coordinator = Child("service", command, self.folder / "service.log", ONE_THREAD)

    def asked(self, name: str) -> list[str]:
        return [text.format(*self.sites) for text in (*TINY, *RUNS[name])]

    def start_run(self, name: str) -> Child:
        command = python_module(SERVER, "run", "--name", name, *self.asked(name), *self.settings)
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
        for name in names or RUNS:
            self.wait_until(lambda: self.state_of(name)["state"] == "finished", name)  # noqa: B023

    def close(self) -> None:
        stop_all([*self.followers.values(), *self.hospitals.values()], patience_s=12.0)
        self.coordinator.stop(patience_s=25.0)


def outcome(one: Federation, name: str) -> dict[str, np.ndarray] | str:
    """Return the weights that a run ended with, or the digest of what it published last."""
    ledger = one.runs / name / "ledger"
    if ledger.exists():
        with Ledger.open(ledger, create=False) as opened:
            assert opened.verify() is None
            return str(opened.publications()[-1].digest)
    (model,) = (one.runs / name).glob("arms/*/model.safetensors")
    return dict(load_file(model))


def assert_same(one: Federation, other: Federation, *names: str) -> None:
    for name in names or RUNS:
        ours, theirs = outcome(one, name), outcome(other, name)
        if isinstance(ours, str) or isinstance(theirs, str):
            assert ours == theirs, name
            continue
        assert ours.keys() == theirs.keys(), name
        assert all(np.array_equal(ours[key], theirs[key]) for key in ours), name


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, sites: list[Path]) -> Iterator[Federation]:
    """Each run alone, one after the other, by `polyclinic-server run` without a service."""
    one = ServedFederation(tmp_path_factory.mktemp("alone"), sites)
    try:
        for name in one.sites:
            one.join(name, "--wait", "120")
        for name in RUNS:
            follower = one.start_run(name)
            assert follower.wait(240) == 0, follower.log.read_text()
    finally:
        one.close()
    yield one


@pytest.fixture
def served(tmp_path: Path, sites: list[Path]) -> Iterator[ServedFederation]:
    one = ServedFederation(tmp_path, sites)
    try:
        one.coordinator.start()
        for name in one.sites:
            one.join(name, "--wait", "120")
        one.wait_until((one.runs / ".fleet" / "service").exists, "the service's socket")
        yield one
    finally:
        one.close()


def test_runs_side_by_side_have_the_bits_of_each_alone(
    alone: Federation, served: ServedFederation
) -> None:
    for name in RUNS:
        served.start_run(name)
    for follower in served.followers.values():
        assert follower.wait(300) == 0, follower.log.read_text()
    assert_same(served, alone)
    said = served.command("status")
    assert all(name in said for name in (*RUNS, *served.sites, "connected"))
    for name in RUNS:
        assert (served.runs / name / "report.html").exists()
    told = served.followers["bn"].log.read_text()
    assert "by the service" in told and "round 3 of 3: loss" in told and "report:" in told
    # a hospital that a run did not name was not asked
    assert {each["site"] for each in served.events_of("prox", "joined")} == {
        *list(served.sites)[1:]
    }


def test_a_run_a_hospital_and_the_service_are_killed_and_all_go_on(
    alone: Federation, served: ServedFederation
) -> None:
    for name in RUNS:
        served.start_run(name)
    served.wait_until(lambda: served.events_of("prox", "round_end"), "a round of prox")
    kill(served.process_of("prox").pid)
    assert served.followers["prox"].wait(60) == 5
    assert "status -9" in served.followers["prox"].log.read_text()
    assert served.state_of("prox")["state"] == "failed"

    victim = next(iter(served.sites))
    for pid in [*(each.pid for each in family_of(served.hospitals[victim].pid)),
                served.hospitals[victim].pid]:  # fmt: skip
        kill(pid)
    served.hospitals[victim].wait(10)
    served.join(victim, "--wait", "120")
    served.command("resume", "prox")
    served.wait_until(lambda: served.events_of("bn", "round_end"), "a round of bn")

    kill(served.coordinator.pid)
    served.coordinator.wait(10)
    for follower in served.followers.values():
        assert follower.wait(60) in (0, 5)
    served.serve()
    served.coordinator.start()
    served.until_finished()
    assert_same(served, alone)


def test_whoever_follows_may_leave_and_what_is_stopped_stays_so(served: ServedFederation) -> None:
    follower = served.start_run("bn")
    served.wait_until(lambda: served.events_of("bn", "asked"), "a question")
    follower.stop(patience_s=30.0)
    assert follower.status() == 130 and "goes on" in follower.log.read_text()
    again = served.make_coordinator("--name", "bn", *TINY, *served.settings)
    again.start()
    assert again.wait(60) == 5 and "goes on already" in again.log.read_text()
    served.command("stop", "bn")
    assert served.state_of("bn")["state"] == "interrupted"
    served.coordinator.stop(patience_s=25.0)
    served.serve()
    served.coordinator.start()
    served.wait_until((served.runs / ".fleet" / "service").exists, "the service's socket")
    assert served.state_of("bn")["state"] == "interrupted"
    served.command("resume", "latest")
    served.until_finished("bn")
