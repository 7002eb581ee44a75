"""Containers that make a federation, with keys and TLS, to the report; and who can reach whom."""

from collections.abc import Iterator

import pytest

from tests.docker.engine import HOSPITALS, Deployment

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("images")]
FLEET = 9092
SCAN = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor

def is_open(port):
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex((sys.argv[1], port)) == 0

with ThreadPoolExecutor(32) as pool:
    ports = range(1, 65536)
    print(*(port for port, found in zip(ports, pool.map(is_open, ports)) if found))
"""
REACH = """
import socket, sys
for address in sys.argv[1:]:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
        print(address)
    except OSError:
        pass
"""
ADDRESS = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
GATEWAY = "{{range .NetworkSettings.Networks}}{{.Gateway}} {{end}}"


@pytest.fixture(scope="module")
def quiet(images: None) -> Iterator[Deployment]:
    """Run an undisturbed federation whose coordinator stays, so that its ports can be tried."""
    one = Deployment("rounds=2", "strategy.base_rounds=1", "strategy.stay.seconds=90")
    try:
        one.up()
        yield one
    finally:
        one.close()


def test_the_coordinator_and_admitted_hospitals_become_healthy(quiet: Deployment) -> None:
    names = ["coordinator", *HOSPITALS]
    quiet.wait_until(lambda: {quiet.health(name) for name in names} == {"healthy"}, "health")


def test_a_hospital_finds_the_fleets_port_open_and_every_other_closed(quiet: Deployment) -> None:
    quiet.wait_until(
        lambda: f":{FLEET}" in quiet.read("st-anne", REACH, f"coordinator:{FLEET}").stdout,
        "an open port",
    )
    assert quiet.read("st-anne", SCAN, "coordinator").stdout.split() == [str(FLEET)]


def test_a_hospital_reaches_no_other_hospital_not_this_machine_and_not_the_world(
    quiet: Deployment,
) -> None:
    assert quiet.read("st-anne", REACH, f"coordinator:{FLEET}").stdout.split() == [
        f"coordinator:{FLEET}"
    ]
    others = [f"{name}:{port}" for name in ("st-bruno", "st-clara") for port in (22, FLEET)]
    hosts = " ".join(quiet.inspect(name, ADDRESS) for name in ("st-bruno", "st-clara")).split()
    gateways = " ".join(quiet.inspect(name, GATEWAY) for name in HOSPITALS).split()
    elsewhere = [f"{host}:{FLEET}" for host in quiet.inspect("coordinator", ADDRESS).split()]
    numbers = [
        f"{host}:{port}" for host in [*hosts, *gateways, "1.1.1.1"] for port in (22, 53, 2375)
    ]
    reached = quiet.read("st-anne", REACH, *others, *numbers, *elsewhere).stdout.split()
    own = quiet.read(
        "st-anne", "import socket; print(socket.gethostbyname('coordinator'))"
    ).stdout.strip()
    assert reached == [
        f"{own}:{FLEET}"
    ]  # of the coordinator's three addresses its own network's alone


def test_nothing_reaches_a_hospital_and_secrets_are_for_their_owner_alone(
    quiet: Deployment,
) -> None:
    listening = (
        "import psutil; print({c.laddr.ip for c in psutil.net_connections('tcp')"
        " if c.status == 'LISTEN'} - {'127.0.0.1', '::1'})"
    )
    named_by_engine = "{'127.0.0.11'}"  # its name server
    for name in HOSPITALS:
        assert quiet.read(name, listening).stdout.strip() in ("set()", named_by_engine)
    modes = "import os, sys; print(*(oct(os.stat(path).st_mode)[-3:] for path in sys.argv[1:]))"
    assert quiet.read("st-anne", modes, "/keys", "/keys/hospital.key").stdout.split() == [
        "700",
        "600",
    ]
    security = "/coordinator/security"
    assert quiet.read(
        "coordinator", modes, security, f"{security}/ca.key", f"{security}/server.key"
    ).stdout.split() == [
        "700",
        "600",
        "600",
    ]


def test_it_goes_to_its_report(quiet: Deployment) -> None:
    quiet.wait_for_the_end()
    quiet.check_outcome()
    assert "<html" in quiet.file("report.html")[:500]
    assert {event["site"] for event in quiet.events("delivered")} == set(HOSPITALS)


def test_a_second_up_says_that_it_is_finished_and_changes_nothing(quiet: Deployment) -> None:
    before = quiet.file("events.jsonl")
    quiet.up()
    quiet.wait_for_the_end(300.0)
    assert quiet.file("events.jsonl") == before
