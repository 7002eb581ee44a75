"""A coordinator that stays up, with real processes: runs side by side, killed and taken up again.

Four runs of four strategies share three hospitals. Each must end with the bits that it has alone.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from polyclinic_demos.federation import family_of
from tests.e2e.federation import TINY, kill
from tests.e2e.served import ServedFederation, assert_same, run_alone, serving

pytestmark = pytest.mark.e2e
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


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, sites: list[Path]) -> ServedFederation:
    one = ServedFederation(tmp_path_factory.mktemp("alone"), sites, RUNS)
    run_alone(one)
    return one


@pytest.fixture
def served(tmp_path: Path, sites: list[Path]) -> Iterator[ServedFederation]:
    with serving(ServedFederation(tmp_path, sites, RUNS)) as one:
        yield one


def test_runs_side_by_side_have_the_bits_of_each_alone(
    alone: ServedFederation, served: ServedFederation
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
    alone: ServedFederation, served: ServedFederation
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
