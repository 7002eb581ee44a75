"""A Fleet API behind its gate and its door, in this process, and hospitals that knock."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.superlink.federation import NoOpFederationManager

from polyclinic.system.processes import free_port
from polyclinic_client.fleet.connection import Connection, make_connection
from polyclinic_demos.local_pki import kit_for, local_authority
from polyclinic_server.enrolment.authority import Authority
from polyclinic_server.enrolment.registry import Registry
from polyclinic_server.fleet.fleet import serve_fleet
from polyclinic_server.fleet.superlink import SECURITY, SOCKETS


@dataclass
class Coordinator:
    """What hospitals meet."""

    authority: Authority
    registry: Registry
    state: LinkStateFactory

    @property
    def address(self) -> str:
        return self.authority.address

    def hospital(self, site: str) -> Connection:
        return make_connection(None, None, kit_for(self.authority, site), None, insecure=False)

    def sentences(self) -> list[str]:
        """What the journal says of those who were turned away."""
        return self.registry.refusals(0)[1]


@contextmanager
def coordinator(
    folder: Path, host: str = "127.0.0.1", days: int | None = None
) -> Iterator[Coordinator]:
    """One with TLS and keys.

    Args:
        folder: Fresh.
        host: The name in its certificate; it listens on loopback anyhow.
        days: For how long its certificate is good.
    """
    port = free_port()
    authority = local_authority(folder / "security", port)
    if days is not None or host != "127.0.0.1":
        Authority(authority.folder, (host,), port).renew(days=397 if days is None else days)
    factory = ObjectStoreFactory()
    state = LinkStateFactory(FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), factory)
    (folder / "s").mkdir()
    with patch.dict(os.environ, {SECURITY: str(authority.folder), SOCKETS: str(folder / "s")}):
        server = serve_fleet(f"127.0.0.1:{port}", state, factory)
    try:
        yield Coordinator(authority, Registry(authority.folder), state)
    finally:
        server.stop(0).wait()


@contextmanager
def open_coordinator() -> Iterator[str]:
    """One without TLS and keys; yields its address."""
    address = f"127.0.0.1:{free_port()}"
    factory = ObjectStoreFactory()
    with patch.dict(os.environ, {SECURITY: ""}):
        server = serve_fleet(
            address,
            LinkStateFactory(FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), factory),
            factory,
        )
    try:
        yield address
    finally:
        server.stop(0).wait()
