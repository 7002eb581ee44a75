"""What happens in the demos, and when: who starts, is killed, comes back, joins later or leaves."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from polyclinic.federation.events import Note
from polyclinic.federation.run_folder import RunFolder
from polyclinic.store.ledger import Ledger
from polyclinic_demos import merging
from polyclinic_demos.federation import LocalFederation
from polyclinic_demos.merging import APART_S, AWAY_S, Scenario
from polyclinic_demos.quick import SITES, Newcomer
from polyclinic_demos.refinement import ComingAndGoing
from polyclinic_strategies.merging.events import Contributed
from polyclinic_strategies.refinement.events import Delivered
from tests.core.store.ledger_cases import hand_over, model


@dataclass
class FakeChild:
    """A process that is only counted."""

    name: str
    pid: int = 0
    starts: int = 0

    def start(self) -> None:
        self.starts += 1
        self.pid = self.starts

    def wait(self, _timeout_s: float | None = None) -> int | None:
        return None


class Clock:
    """Time that only tests move."""

    now = 1000.0

    def pass_s(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    return clock


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    pids: list[int] = []
    monkeypatch.setattr(merging, "kill_tree", pids.append)
    yield pids


def scenario(trained: dict[str, float], told: list[str]) -> Scenario:
    hospitals = [FakeChild(name) for name in ("a", "b", "c", "last")]
    coordinator, resumed = FakeChild("the coordinator"), FakeChild("the coordinator")
    return Scenario(
        hospitals,  # type: ignore[arg-type]
        coordinator,  # type: ignore[arg-type]
        resumed,  # type: ignore[arg-type]
        lambda site: trained.get(site, 0.0),
        told.append,
        began=time.monotonic(),
    )


def test_hospitals_start_one_after_another_and_the_last_one_not(clock: Clock) -> None:
    played = scenario({}, [])
    started = []
    for _ in range(4):
        played.tend()
        started.append([child.name for child in played.hospitals if child.pid])
        clock.pass_s(APART_S)
    assert started == [["a"], ["a", "b"], ["a", "b", "c"], ["a", "b", "c"]]


def test_the_second_is_killed_once_while_it_trains_and_returns(
    clock: Clock, killed: list[int]
) -> None:
    trained: dict[str, float] = {}
    played = scenario(trained, told := [])
    clock.pass_s(APART_S)
    played.tend()
    victim = played.hospitals[1]
    assert not played.is_disturbed(victim) and played.is_disturbed(played.hospitals[2])
    trained["b"] = 0.4
    played.tend()
    assert killed == [1] and played.is_disturbed(victim)
    clock.pass_s(AWAY_S - 1)
    played.tend()
    assert victim.starts == 1
    clock.pass_s(1)
    for _ in range(2):
        played.tend()
    assert victim.starts == 2 and killed == [1] and not played.is_disturbed(victim)
    assert len(told) == 2 and all("b" in sentence for sentence in told)


def test_the_coordinator_is_killed_after_three_contributions_and_then_the_last_one_joins(
    clock: Clock, killed: list[int]
) -> None:
    played = scenario({}, [])
    played.coordinator.start()
    for site in "abc":
        played.handle(Note(text="not a contribution"))
        played.tend()
        assert killed == [] and played.leader is played.coordinator
        played.handle(Contributed(site=site, digest="0" * 64))
    played.tend()
    assert killed == [played.coordinator.pid]
    clock.pass_s(AWAY_S)
    played.tend()
    assert played.leader is played.resumed and played.resumed.starts == 1
    assert played.hospitals[-1].starts == 1


def test_the_newcomer_of_the_quick_demo_joins_after_every_contribution_and_is_tested_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    testing = FakeChild("test")
    monkeypatch.setattr(LocalFederation, "module", lambda *_args, **_named: testing)
    run = RunFolder(tmp_path / "run")
    demo = LocalFederation(tmp_path, run, [], tmp_path / "state")
    child, shown = FakeChild("t2-new"), []
    newcomer = Newcomer(demo, child, shown.append)  # type: ignore[arg-type]
    for site in (*SITES[:-1], SITES[0]):
        newcomer.handle(Contributed(site=site, digest="0" * 64))
    assert child.starts == 0
    for _ in range(2):
        newcomer.handle(Contributed(site=SITES[-1], digest="0" * 64))
    assert child.starts == 1 and testing.starts == 0
    for site in SITES[:2]:
        newcomer.handle(Delivered(site=site))
    assert testing.starts == 1 and len(shown) == len(SITES) + 4


def test_newcomers_join_one_after_another_and_then_a_hospital_leaves(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with Ledger.open(run.path / "ledger") as ledger:
        ledger.add_base(model(), "{}")
        hand_over(ledger, "north", 1.0)
        hand_over(ledger, "south", 2.0)
    demo = LocalFederation(tmp_path, run, [Path("north"), Path("south")], tmp_path / "state")
    children = [FakeChild("x"), FakeChild("y")]
    later = ComingAndGoing(demo, children)  # type: ignore[arg-type]

    def deliver(site: str) -> list[int]:
        later.handle(Delivered(site=site))
        return [child.starts for child in children]

    assert deliver("north") == [0, 0]
    assert deliver("north") == [0, 0]  # the same one again
    assert deliver("south") == [1, 0]
    assert deliver("x") == [1, 1]
    with Ledger.open(run.path / "ledger", create=False) as ledger:
        assert [entry.site for entry in ledger.active()] == ["north", "south"]
    deliver("y")
    with Ledger.open(run.path / "ledger", create=False) as ledger:
        assert [entry.site for entry in ledger.active()] == ["north"]
