"""Endpoint of a coordinator: its address and its keys.

While a run goes on, refused callers are announced.
"""

import ipaddress
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from polyclinic.config.schemas import DeploymentConfig
from polyclinic.errors import ConfigError, PolyclinicError
from polyclinic_server.enrolment.authority import Authority
from polyclinic_server.enrolment.registry import Registry

PORT = 9092
# hospitals connect from outside; with TLS, every call must show a key
EVERYWHERE, LOOPBACK = "0.0.0.0", "127.0.0.1"
# options of a gRPC server for hospitals: idle connections stay open, and may send pings
CHANNEL_OPTIONS = [
    ("grpc.max_concurrent_streams", 100),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 60_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.so_reuseport", 0),
]
LOOK_S = 1.0  # interval between two looks at the journal
DAY_S = 86_400.0


@dataclass(frozen=True)
class Endpoint:
    """Address of the fleet, and the security folder; None means plain text on loopback."""

    host: str
    port: int
    authority: Authority | None

    def invitation(self, address: str) -> str:
        """Return the command that hospitals have to run."""
        if self.authority is None:
            return (
                "hospitals join with: polyclinic-client join --insecure "
                f"--server {address} --data DIR --name NAME"
            )
        return (
            "hospitals join with: polyclinic-client join --kit KIT --data DIR "
            f"(the kits' address is {self.authority.address})"
        )


def endpoint_of(deployment: DeploymentConfig) -> Endpoint:
    """Return the endpoint of a configuration, with defaults for what it leaves open.

    Raises:
        ConfigError: Plain text beyond loopback, no keys and certificates, or an expired
            certificate.
    """
    return choose_endpoint(
        deployment.host, deployment.port, Path(deployment.security), insecure=deployment.insecure
    )


def choose_endpoint(
    host: str | None,
    port: int | None,
    security: Path,
    *,
    insecure: bool,
    option: str = "deployment.host=",
) -> Endpoint:
    """Return an endpoint, with defaults.

    Args:
        host: Address to listen on; None for all with TLS, and for loopback without.
        port: Port; None for that of the security folder, and for 9092 without TLS.
        security: The folder that `init` made.
        insecure: Use neither TLS nor keys.
        option: How a host is set, for the error message.

    Raises:
        ConfigError: Plain text beyond loopback, no keys and certificates, or an expired
            certificate.
    """
    host = host.strip("[]") if host else host
    if insecure:
        host = host or LOOPBACK
        if not is_loopback(host):
            raise ConfigError(
                f"--insecure with {option}{host}: without TLS and keys, only this machine is "
                f"served. Leave out --insecure, or use {option}{LOOPBACK}."
            )
        return Endpoint(host, PORT if port is None else port, None)
    authority = Authority.open(security)
    if authority.has_expired():
        raise ConfigError(str(authority.warning()))
    return Endpoint(host or EVERYWHERE, authority.port if port is None else port, authority)


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address is this machine's own."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@contextmanager
def announced(authority: Authority | None, tell: Callable[[str], None]) -> Iterator[None]:
    """Announce every refused caller, and once a day a certificate that expires soon."""
    if authority is None:
        yield
        return
    leaving = threading.Event()
    watcher = threading.Thread(
        target=_announce, args=(authority, tell, leaving), name="announcements", daemon=True
    )
    watcher.start()
    try:
        yield
    finally:
        leaving.set()
        watcher.join(5.0)


def _announce(authority: Authority, tell: Callable[[str], None], leaving: threading.Event) -> None:
    registry = Registry(authority.folder)
    try:
        newest, _ = registry.refusals(0)
        looks = 0
        while True:
            if looks % int(DAY_S / LOOK_S) == 0 and (warning := authority.warning()):
                tell(warning)
            looks += 1
            if leaving.wait(LOOK_S):
                return
            try:
                newest, sentences = registry.refusals(newest)
            except PolyclinicError:
                continue  # the database is busy
            for sentence in sentences:
                tell(sentence)
    finally:
        registry.close()
