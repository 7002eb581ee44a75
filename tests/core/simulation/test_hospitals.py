"""What simulations are given, and what happens to hospitals on the way."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from polyclinic.errors import ConfigError, DatasetInvalid
from polyclinic.federation.events import RoundEnd
from polyclinic.imaging.datasets import read_dataset
from polyclinic.simulation.changes import Change, Schedule, away_at_start, check_changes
from polyclinic.simulation.grid import MemoryNode
from polyclinic.simulation.hospital import Memory, SimulatedHospital
from polyclinic.simulation.hospitals import name_hospitals, write_dataset
from polyclinic.simulation.sides import SideMissing, load_side
from tests.core.simulation.small_hospitals import write_hospitals
from tests.core.simulation.test_grid import question


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hospitals(tmp_path_factory.mktemp("cohort"))[0].parent


def test_hospitals_are_named_by_their_folders(cohort: Path) -> None:
    wanted = {name: cohort / name for name in ("north", "south", "west")}
    assert name_hospitals(cohort) == wanted
    assert name_hospitals(str(cohort)) == wanted
    assert name_hospitals(list(wanted.values())) == wanted
    assert name_hospitals({"a": str(cohort / "north")}) == {"a": cohort / "north"}
    assert name_hospitals(cohort / "north") == {"north": cohort / "north"}
    dataset = read_dataset(cohort / "south")
    assert name_hospitals([dataset]) == {"south": dataset}


def test_names_that_lead_elsewhere_or_twice_to_the_same_are_refused(
    cohort: Path, tmp_path: Path
) -> None:
    for given in ([], tmp_path, {"../up": cohort}, [cohort / "north", cohort / "north"]):
        with pytest.raises(ConfigError):
            name_hospitals(given)


def test_a_written_data_set_is_read_back_the_same(cohort: Path, tmp_path: Path) -> None:
    dataset = read_dataset(cohort / "north")
    cases = tuple(replace(case, subject="p") for case in dataset.training)
    dataset = replace(dataset, training=cases, test=())
    again = read_dataset(write_dataset(dataset, tmp_path / "new"))
    assert replace(again, folder=dataset.folder) == dataset


def test_changes_happen_after_their_event_and_once() -> None:
    nodes = {name: MemoryNode(number, lambda _message: None) for number, name in enumerate("ab")}
    changes = [Change("a", "join", count=2), Change("a", "leave", after="published", strategy="x")]
    schedule = Schedule(changes, nodes, Path("ledger"))

    def online() -> bool:
        return nodes["a"].online_until > 0

    assert away_at_start(changes) == {"a"} and not online()
    schedule.handle("round_end", "y")
    assert not online()
    schedule.handle("round_end", "z")
    assert online()
    schedule.handle("published", "y")
    assert online()
    schedule.handle("published", "x")
    assert not online()
    schedule.handle("round_end", "z")
    assert not online()


@pytest.mark.parametrize(
    "change",
    [Change("c", "leave"), Change("a", "vanish"), Change("a", "join", count=0)],  # type: ignore[arg-type]
)
def test_impossible_changes_are_refused(change: Change) -> None:
    with pytest.raises(ConfigError):
        check_changes([change], ["a"])


def test_after_a_restart_hospitals_are_where_they_were() -> None:
    node = MemoryNode(1, lambda _message: None)
    changes = [Change("a", "join"), Change("a", "withdraw", count=2), Change("a", "leave", count=3)]
    schedule = Schedule(changes, {"a": node}, Path("no ledger"))
    schedule.replay([RoundEnd(round=1), RoundEnd(round=2)])
    assert node.online_until > 0
    schedule.handle("round_end", "")
    assert not node.online_until


class Worker:
    """A hospital of a few bytes, which fails when it is told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.cached_bytes = 10
        self.error = error
        self.worked = 0

    def answer(self, _message: Any) -> Any:
        raise self.error or AssertionError

    def work(self) -> None:
        self.worked += 1
        raise self.error or AssertionError

    def drop_cache(self) -> None:
        self.cached_bytes = 0

    def close(self) -> None:
        pass


def test_of_an_error_only_the_type_leaves_the_hospital_and_its_log_has_the_rest(
    tmp_path: Path,
) -> None:
    told: list[Exception] = []
    worker = Worker(DatasetInvalid(Path("secret"), "is empty", "List cases."))
    hospital = SimulatedHospital(
        "a", worker, tmp_path, 0, 1, lambda _site, error: told.append(error)
    )
    reply = hospital.answer(question(1))
    assert reply.error.reason == "DatasetInvalid"
    assert "secret: is empty" in (tmp_path / "hospital.log").read_text()
    assert len(told) == 2
    hospital.answer(question(1))
    assert worker.worked == 2  # the outbox remembers a typed error; what to do is its business


def test_a_defect_ends_fine_tuning_of_that_hospital(tmp_path: Path) -> None:
    worker = Worker(ZeroDivisionError("by zero"))
    hospital = SimulatedHospital("a", worker, tmp_path, 0, 1, lambda _site, _error: None)
    for _ in range(3):
        assert hospital.answer(question(1)).error.reason == "ZeroDivisionError"
    assert worker.worked == 1


def test_those_asked_longest_ago_give_memory_back_first() -> None:
    workers = {name: Worker() for name in "abc"}
    memory = Memory(20)
    for name in "abac":
        memory.note_use(name, workers[name])  # type: ignore[arg-type]
    assert {name: worker.cached_bytes for name, worker in workers.items()} == {
        "a": 10, "b": 0, "c": 10,
    }  # fmt: skip


def test_a_side_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SideMissing, match="astronomer"):
        load_side("astronomer")
    monkeypatch.setattr("polyclinic.simulation.sides.offered", lambda _group: {"x": Broken()})
    with pytest.raises(SideMissing, match="no module there"):
        load_side("x")


class Broken:
    def load(self) -> None:
        raise ModuleNotFoundError("no module there")
