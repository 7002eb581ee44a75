"""A stranger and a revoked hospital try to join a running federation."""

from collections.abc import Callable

import pytest

from polyclinic.security.keys import PRIVATE, make_key
from polyclinic_server.enrolment.registry import Registry
from tests.e2e.federation import Federation
from tests.processes import run_cli

pytestmark = pytest.mark.e2e
Make = Callable[..., Federation]


def test_a_stranger_is_turned_away_and_a_revoked_hospital_is_cut_off(federation: Make) -> None:
    one = federation(
        "strategy=averaging/fedavg",
        "rounds=60",
        "deployment.hospitals=2",
        "deployment.min_hospitals=1",
        "deployment.grace_s=2",
    )
    stays, leaves, other = one.sites
    one.coordinator.start()
    one.join(stays)
    one.wait_until(lambda: one.events("joined"), "the first hospital")
    kit = one.enrol(other)
    Registry(one.authority.folder).revoke(other, "made a new key")
    make_key(one.folder / "stranger")
    (one.folder / "stranger" / "kit.json").write_text(kit.read_text())
    wrong_key = run_cli(
        "polyclinic_client.cli.main",
        "join",
        "--kit",
        str(kit),
        "--key",
        str(one.folder / "stranger" / PRIVATE),
        "--data",
        str(one.sites[other]),
    )
    assert wrong_key.returncode == 2 and "whose public half was enrolled" in wrong_key.stderr
    revoked = run_cli(
        "polyclinic_client.cli.main",
        "join",
        "--kit",
        str(kit),
        "--data",
        str(one.sites[other]),
        "--state",
        str(one.folder / "x"),
    )
    assert revoked.returncode == 4 and "has revoked the key" in revoked.stderr
    plain = run_cli(
        "polyclinic_client.cli.main", "join", "--insecure", "--server", one.authority.address,
        "--name", other, "--data", str(one.sites[other]), "--state", str(one.folder / "y"),
    )  # fmt: skip
    assert plain.returncode == 4 and "speaks TLS" in plain.stderr
    one.join(leaves)
    one.wait_until(lambda: one.events("round_end"), "the end of round 1")
    Registry(one.authority.folder).revoke(leaves, "left")
    assert one.hospitals[leaves].wait(60.0) == 4
    assert "has revoked the key" in one.hospitals[leaves].log.read_text()
    assert one.wait() == 0, one.coordinator.log.read_text()
    told = one.coordinator.log.read_text()
    assert f"{other} showed its revoked key" in told and "spoke plain text to the TLS port" in told
    assert {line["site"] for line in one.metrics() if line["phase"] == "test"} == {stays}
