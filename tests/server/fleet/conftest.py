"""Coordinators and hospitals for the tests of the fleet."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from polyclinic_server.fleet.server import FleetServer
from tests.server.fleet.coordinators import Coordinator, coordinator, open_server
from tests.server.fleet.thin_hospital import Ward

BEAT_MS = 200  # tests that wait for silence do not wait for long


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Coordinator]:
    """A coordinator with TLS and keys."""
    with coordinator(tmp_path / "lab", heartbeat_ms=BEAT_MS) as running:
        yield running


@pytest.fixture
def ward(lab: Coordinator) -> Iterator[Ward]:
    """Its hospitals."""
    hospitals = Ward(lab.address)
    yield hospitals
    hospitals.close()


@pytest.fixture
def events() -> list[tuple[str, str]]:
    """What the coordinator without keys tells."""
    return []


@pytest.fixture
def plain(tmp_path: Path, events: list[tuple[str, str]]) -> Iterator[FleetServer]:
    """A coordinator without TLS and keys."""

    def tell(kind: str, text: str) -> None:
        events.append((kind, text))

    with open_server(tmp_path / "fleet", on_event=tell, heartbeat_ms=BEAT_MS) as running:
        yield running


@pytest.fixture
def plain_ward(plain: FleetServer) -> Iterator[Ward]:
    """Its hospitals."""
    hospitals = Ward(plain.address)
    yield hospitals
    hospitals.close()
