"""A service with runs that train nothing: side by side, killed, stopped, and taken up again."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from polyclinic.config.compose import load_config
from polyclinic.errors import ConfigError, PolyclinicError, RunError
from polyclinic.federation.run_folder import RunFolder
from polyclinic.system.processes import free_port
from polyclinic_server.service import served_run
from polyclinic_server.service.desk import Desk
from polyclinic_server.service.place import is_served
from polyclinic_server.service.served_desk import desk_of
from polyclinic_server.service.service import Service
from tests.server.service.echoes import EchoHospital

pytestmark = pytest.mark.e2e
SITES = ("anne", "bruno", "clara", "dora")
PATIENCE_S = 60.0


class House:
    """A service with its hospitals."""

    def __init__(self, folder: Path, port: int) -> None:
        usual = load_config([]).deployment
        self.deployment = replace(usual, runs=str(folder), insecure=True, port=port)
        self.runs, self.lines = folder, list[str]()
        self.hospitals: dict[str, EchoHospital] = {}
        self.service: Service = self.open()

    def open(self) -> Service:
        self.service = Service(self.deployment, self.lines.append).__enter__()
        return self.service

    def hospital(self, site: str) -> None:
        self.hospitals[site] = EchoHospital(self.service.address, site)

    def begin(self) -> None:
        """Start all runs; they begin together."""
        self.hospitals["anne"].delay.set()
        for name, settings in RUNS.items():
            self.service.start(settings, name)
        self.hospitals["anne"].delay.clear()

    def result(self, name: str) -> np.ndarray:
        found: np.ndarray = np.load(self.runs / name / "result.npy")
        return found

    def state(self, name: str) -> str:
        return str(RunFolder(self.runs / name).describe()["state"])

    def round(self, name: str) -> int:
        path = self.runs / name / "rounds.npz"
        if not path.exists():
            return 0
        with np.load(path) as file:
            return int(file["round"])

    def until(self, true: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not true():
            assert time.monotonic() < deadline, self.lines
            self.service.tend()
            time.sleep(0.05)

    def until_over(self) -> None:
        self.until(lambda: not self.service.runs())

    def close(self) -> None:
        self.service.__exit__(None, None, None)
        for each in self.hospitals.values():
            each.close()


@contextmanager
def house(folder: Path) -> Iterator[House]:
    made = House(folder, free_port())
    for site in SITES:
        made.hospital(site)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch, nursed: None) -> None:
    monkeypatch.setattr(served_run, "MODULE", "tests.server.service.toy_run")


@pytest.fixture
def one(tmp_path: Path) -> Iterator[House]:
    with house(tmp_path / "runs") as made:
        yield made


RUNS = {  # of the same weights, so that questions and answers share their digests; and of others
    "a": ["rounds=12", "hospitals=4", "seed=1"],
    "b": ["rounds=12", "hospitals=4", "seed=1"],
    "c": ["rounds=12", "hospitals=2", "seed=2", "sites=anne,bruno"],
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, nursed: None) -> dict[str, np.ndarray]:
    """Return the result of each run when nothing else happens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(served_run, "MODULE", "tests.server.service.toy_run")
        with house(tmp_path_factory.mktemp("alone")) as made:
            for name, settings in RUNS.items():
                made.service.start(settings, name)
                made.until_over()
            return {name: made.result(name) for name in RUNS}


def assert_as_alone(one: House, alone: dict[str, np.ndarray], *names: str) -> None:
    for name in names or RUNS:
        assert one.state(name) == "finished", one.lines
        assert np.array_equal(one.result(name), alone[name]), name


def assert_no_such_setting(desk: Desk) -> None:
    try:
        desk.start(["refuse=1"], "x")
    except PolyclinicError as error:  # its traceback would keep the run's process
        said, code = str(error), error.exit_code
    assert "no such setting" in said and code == ConfigError.exit_code


def test_runs_side_by_side_have_the_results_of_each_alone_and_leave_nothing(
    one: House, alone: dict[str, np.ndarray]
) -> None:
    for name, settings in RUNS.items():
        assert one.service.start(settings, name) == name
    assert {run.name for run in one.service.runs()} == set(RUNS)
    one.until_over()
    assert_as_alone(one, alone)
    blobs = one.runs / ".fleet" / "blobs"
    left = [path.name for path in blobs.rglob("*") if path.is_file() and path.name != "boot"]
    assert left == []
    found = {each.name: each for each in one.service.hospitals()}
    assert set(found) == set(SITES) and {each.state for each in found.values()} == {"connected"}
    assert found["anne"].received_bytes > found["clara"].received_bytes > 12 * 4 * 50_000


def test_a_killed_run_is_told_as_such_harms_no_other_and_can_be_resumed(
    one: House, alone: dict[str, np.ndarray]
) -> None:
    one.begin()
    (victim,) = (run for run in one.service.runs() if run.name == "a")
    one.until(lambda: one.round("a") >= 2)
    os.kill(victim.pid, signal.SIGKILL)
    one.until_over()
    assert_as_alone(one, alone, "b", "c")
    assert one.state("a") == "failed"
    assert "status -9" in RunFolder(one.runs / "a").describe()["reason"]
    assert one.service.resume("a") == "a"
    one.until_over()
    assert_as_alone(one, alone)


def test_a_killed_hospital_comes_back_and_every_run_goes_on(
    one: House, alone: dict[str, np.ndarray]
) -> None:
    one.begin()
    one.until(lambda: one.round("a") >= 2)
    one.hospitals["anne"].close()
    assert one.service.runs()
    one.hospital("anne")
    one.until_over()
    assert_as_alone(one, alone)


def test_a_stopped_run_stays_so_and_all_others_are_taken_up_by_the_next_service(
    one: House, alone: dict[str, np.ndarray]
) -> None:
    one.begin()
    one.until(lambda: all(one.round(name) >= 1 for name in RUNS))
    one.service.stop("b")
    one.service.__exit__(None, None, None)
    assert not is_served(one.runs / ".fleet")
    assert {one.state(name) for name in RUNS} == {"interrupted"}
    one.open()
    assert {run.name for run in one.service.runs()} == {"a", "c"}
    one.until_over()
    assert_as_alone(one, alone, "a", "c")
    with pytest.raises(RunError, match="No run"):
        one.service.stop("b")
    one.service.resume("b")
    one.until_over()
    assert_as_alone(one, alone)


def test_what_cannot_start_is_refused_with_its_exit_code_and_leaves_no_name(one: House) -> None:
    assert_no_such_setting(one.service)
    assert one.service.runs() == () and not list((one.runs / ".fleet" / "runs").glob("x*"))
    for name in ("../x", ".x", "latest", "a b", "-x", ""):
        if name:
            with pytest.raises(ConfigError, match="name"):
                one.service.start(RUNS["c"], name)
    one.service.start([*RUNS["c"], "fail=1"], "x")
    with pytest.raises(RunError, match="goes on already"):
        one.service.start(RUNS["c"], "x")
    one.until_over()
    assert one.state("x") == "failed"


def test_another_process_has_the_same_desk(one: House, alone: dict[str, np.ndarray]) -> None:
    with desk_of(one.runs / ".fleet") as desk:
        assert_no_such_setting(desk)
        assert desk.start(RUNS["a"], "a") == "a"
        assert [run.name for run in desk.runs()] == ["a"]
        desk.stop("a")
        assert desk.runs() == ()
        assert desk.resume("latest") == "a"
        one.until_over()
        found = desk.hospitals()
    assert_as_alone(one, alone, "a")
    assert [each.name for each in found] == sorted(SITES) and found[0].version == "0.2.0"


def test_a_note_of_the_service_is_in_the_journal_of_each_run(one: House) -> None:
    one.hospitals["anne"].delay.set()
    one.service.start(RUNS["c"], "c")
    one.service._note("st-nobody was refused")
    one.until((one.runs / "c" / "events.jsonl").exists)
    assert "st-nobody" in (one.runs / "c" / "events.jsonl").read_text()
    one.hospitals["anne"].delay.clear()
    one.until_over()


def test_only_one_service_has_a_folder(one: House) -> None:
    with pytest.raises(RunError, match="Another coordinator"):
        Service(one.deployment, print).__enter__()
