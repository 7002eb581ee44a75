"""Containers that fail and come back: hospitals, networks, the coordinator. The run finishes."""

import time
from collections.abc import Iterator

import pytest

from tests.docker.engine import HOSPITALS, Deployment, docker

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("images")]


@pytest.fixture(scope="module")
def disturbed(images: None) -> Iterator[Deployment]:
    """Run a federation in which one hospital stops in training and another's network is cut.

    The coordinator is killed twice: by the engine, and by a signal inside its container.
    """
    one = Deployment(
        "rounds=6",
        "strategy.base_rounds=3",
        "training.epochs=16",
        "data.samples_per_case=64",
        "deployment.grace_s=20",
    )
    try:
        one.up()
        one.wait_until(lambda: one.events("answered"), "the first answer")
        assert not one.events("contribution")
        one.compose("stop", "--timeout", "5", "st-anne")
        cut = f"{one.project}_st-bruno"
        docker("network", "disconnect", "--force", cut, one.container("st-bruno"))
        time.sleep(30)
        assert one.state() == "running"
        one.wait_until(lambda: one.health("st-bruno") == "unhealthy", "an unhealthy hospital")
        docker("network", "connect", "--alias", "st-bruno", cut, one.container("st-bruno"))
        one.compose("start", "st-anne")
        # the engine takes this for our wish, and does not start it again
        docker("kill", one.container("coordinator"))
        assert one.inspect("coordinator", "{{.State.Running}}") == "false"
        assert one.state() == "running"  # it could not say goodbye
        docker("start", one.container("coordinator"))
        one.wait_until(lambda: one.health("st-bruno") == "healthy", "a healthy hospital")
        one.wait_until(lambda: one.events("contribution"), "a contribution")
        assert one.state() == "running"
        one.compose(
            "exec",
            "-T",
            "coordinator",
            "sh",
            "-c",
            "kill -9 $(cat /proc/1/task/1/children)",
            check=False,
        )
        one.wait_until(
            lambda: one.inspect("coordinator", "{{.RestartCount}}") == "1", "the restart", 60.0
        )
        yield one
    finally:
        one.close()


def test_it_goes_to_its_end_all_the_same(disturbed: Deployment) -> None:
    disturbed.wait_for_the_end()
    disturbed.check_outcome()
    assert disturbed.events("resumed")
    counted = [event["site"] for event in disturbed.events("contribution")]
    assert sorted(counted) == sorted(HOSPITALS)  # none lost, none twice
