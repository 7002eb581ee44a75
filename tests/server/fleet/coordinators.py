"""Coordinators on loopback, with and without keys, for tests."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polyclinic.security.keys import PRIVATE, load_private_key
from polyclinic.system.processes import free_port
from polyclinic_client.network.connection import Connection, make_connection
from polyclinic_demos.local_pki import kit_for, local_authority
from polyclinic_server.enrolment.authority import Authority
from polyclinic_server.enrolment.endpoint import Endpoint
from polyclinic_server.enrolment.registry import SOON_S, Registry
from polyclinic_server.fleet.grid import FleetGrid
from polyclinic_server.fleet.server import FleetServer
from tests.server.fleet.thin_hospital import Credentials

PATIENCE_S = 10.0


@dataclass
class Coordinator:
    """What hospitals meet."""

    server: FleetServer
    authority: Authority
    registry: Registry
    events: list[tuple[str, str]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return self.server.address

    @property
    def grid(self) -> FleetGrid:
        return self.server.grid

    def hospital(self, site: str) -> Connection:
        """Enrol a hospital, and return how its client connects."""
        return make_connection(None, None, kit_for(self.authority, site), None, insecure=False)

    def credentials(self, site: str) -> Credentials:
        """Enrol a hospital, and return what it has."""
        kit = kit_for(self.authority, site)
        time.sleep(SOON_S)  # a key that was just unknown may be so for a moment longer
        return Credentials(site, load_private_key(kit.parent / PRIVATE), self.authority)

    def sentences(self) -> list[str]:
        """What the journal says of those who were turned away."""
        return self.registry.refusals(0)[1]


@contextmanager
def coordinator(
    folder: Path, host: str = "127.0.0.1", days: int | None = None, **options: Any
) -> Iterator[Coordinator]:
    """One with TLS and keys.

    Args:
        folder: Fresh.
        host: The name in its certificate; it listens on loopback anyhow.
        days: For how long its certificate is good.
        options: Of `FleetServer`.
    """
    port = free_port()
    authority = local_authority(folder / "security", port)
    if days is not None or host != "127.0.0.1":
        Authority(authority.folder, (host,), port).renew(days=397 if days is None else days)
    events: list[tuple[str, str]] = []
    place = Endpoint("127.0.0.1", port, authority)
    registry = Registry(authority.folder)
    with FleetServer(
        place, folder / "fleet", lambda kind, text: events.append((kind, text)), **options
    ) as server:
        yield Coordinator(server, authority, registry, events)
    registry.close()


@contextmanager
def open_server(folder: Path, **options: Any) -> Iterator[FleetServer]:
    """One without TLS and keys."""
    with FleetServer(Endpoint("127.0.0.1", 0, None), folder, **options) as server:
        yield server


def until(condition: Callable[[], object], grid: FleetGrid) -> None:
    """Wait until news make a condition true."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        grid.wait_for_news(0.2)
