"""Processes are killed as by a power cut, and the run's outcome is compared."""

from collections.abc import Callable

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from polyclinic_demos.federation import family_of
from tests.e2e.federation import Federation, kill

pytestmark = pytest.mark.e2e
Make = Callable[..., Federation]
SETTINGS = (
    "strategy=averaging/fedbn",
    "rounds=3",
    "deployment.hospitals=3",
    "deployment.min_hospitals=3",
)


def begin(federation: Federation) -> Federation:
    federation.coordinator.start()
    for name in federation.sites:
        federation.join(name)
    return federation


def assert_same_outcome(one: Federation, other: Federation) -> None:
    """Compare the federation's weights and every hospital's own model, bit for bit."""
    for pattern in (
        "runs/run/arms/fedbn/model.safetensors",
        *(f"state/{name}/runs/run/fedbn/model.safetensors" for name in one.sites),
    ):
        ours, theirs = load_file(one.folder / pattern), load_file(other.folder / pattern)
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours), pattern


def named(processes: dict[psutil.Process, list[str]], module: str) -> psutil.Process:
    return next(process for process, command in processes.items() if module in command)


def test_hospitals_killed_in_part_or_altogether_come_back_and_are_asked_again(
    federation: Make, undisturbed: Federation
) -> None:
    one = begin(federation(*SETTINGS))
    first, second, _ = one.sites
    one.wait_until(
        lambda: [
            event
            for event in one.events("asked")
            if event["round"] == 2 and event["phase"] == "train"
        ],
        "round 2",
    )
    kill(named(family_of(one.hospitals[first].pid), "polyclinic_client.fleet.worker").pid)
    for process in [
        *family_of(one.hospitals[second].pid),
        psutil.Process(one.hospitals[second].pid),
    ]:
        kill(process.pid)
    one.hospitals[second].wait(10)
    one.join(second)
    assert one.wait() == 0, one.coordinator.log.read_text()
    # the first one's worker may have answered before it was killed
    assert second in {event["site"] for event in one.events("asked") if event["again"]}
    assert "It is started again" in one.hospitals[first].log.read_text()
    assert second in {event["site"] for event in one.events("returned")}
    assert_same_outcome(one, undisturbed)


def test_a_hospital_that_leaves_for_good_is_reported_missing_and_the_run_ends_well(
    federation: Make,
) -> None:
    one = begin(
        federation(
            "strategy=averaging/fedavg",
            "rounds=3",
            "deployment.hospitals=3",
            "deployment.grace_s=2",
        )
    )
    victim = next(iter(one.sites))
    one.wait_until(lambda: one.events("round_end"), "the end of round 1")
    one.hospitals[victim].stop(patience_s=12.0)
    assert one.wait() == 0, one.coordinator.log.read_text()
    tested = {line["site"] for line in one.metrics() if line["phase"] == "test"}
    assert tested == set(one.sites) - {victim}
    assert [event["site"] for event in one.events("left")] == [victim]


def test_a_coordinator_is_killed_and_resumed(federation: Make, undisturbed: Federation) -> None:
    one = begin(federation(*SETTINGS))
    one.wait_until(lambda: one.events("round_end"), "the end of round 1")
    assert family_of(one.coordinator.pid) == {}  # it serves its hospitals itself
    kill(one.coordinator.pid)
    one.coordinator.wait(10)
    assert one.describe()["state"] == "running"  # it could not write that it ended
    one.settings = [text for text in one.settings if text.startswith("deployment")]
    one.coordinator = one.make_coordinator("--resume", "run")
    one.coordinator.start()
    assert one.wait() == 0, one.coordinator.log.read_text()
    assert one.describe()["state"] == "finished"
    rounds = [event["round"] for event in one.events("round_end")]
    assert rounds[0] == 1 and rounds[-1] == 3 and rounds.count(3) == 1
    assert_same_outcome(one, undisturbed)
