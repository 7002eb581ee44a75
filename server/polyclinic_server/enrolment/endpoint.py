"""Where a coordinator listens, and by which keys; who was turned away is told while a run goes on."""

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
EVERYWHERE, LOOPBACK = "0.0.0.0", "127.0.0.1"  # hospitals come from outside; the door asks for keys
# of a gRPC server that hospitals reach: a quiet connection stays, and may ask whether it still
# lives
CHANNEL_OPTIONS = [
    ("grpc.max_concurrent_streams", 100),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 60_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.so_reuseport", 0),
]
LOOK_S = 1.0
DAY_S = 86_400.0


@dataclass(frozen=True)
class Listening:
    """The fleet's address, and the security folder; None is loopback in plain text."""

    host: str
    port: int
    authority: Authority | None

    def invitation(self, address: str) -> str:
        """What hospitals are told to run."""
        if self.authority is None:
            return f"hospitals join with: polyclinic-client join --insecure --server {address} --data DIR --name NAME"
        return f"hospitals join with: polyclinic-client join --kit KIT --data DIR (the kits' address is {self.authority.address})"


def listening(deployment: DeploymentConfig) -> Listening:
    """What a configuration says, or leaves to be understood.

    Raises:
        ConfigError: Plain text anywhere but on loopback, no keys and certificates, or a certificate
            past its time.
    """
    return listening_at(
        deployment.host, deployment.port, Path(deployment.security), insecure=deployment.insecure
    )


def listening_at(
    host: str | None,
    port: int | None,
    security: Path,
    *,
    insecure: bool,
    option: str = "deployment.host=",
) -> Listening:
    """Where to listen, and by which keys.

    Args:
        host: None: everywhere with TLS, loopback without.
        port: None: as the security folder was told, 9092 without TLS.
        security: The folder that `init` made.
        insecure: No TLS and no keys.
        option: How a host is given, for the error's text.

    Raises:
        ConfigError: Plain text anywhere but on loopback, no keys and certificates, or a certificate
            past its time.
    """
    if insecure:
        host = host or LOOPBACK
        if not is_loopback(host):
            raise ConfigError(
                f"--insecure with {option}{host}: without TLS and keys only this machine is "
                f"served. Leave --insecure away, or use {option}{LOOPBACK}."
            )
        return Listening(host, PORT if port is None else port, None)
    authority = Authority.open(security)
    if (warning := authority.warning()) and "has expired" in warning:
        raise ConfigError(warning)
    return Listening(host or EVERYWHERE, authority.port if port is None else port, authority)


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine's own."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@contextmanager
def announced(authority: Authority | None, tell: Callable[[str], None]) -> Iterator[None]:
    """While inside, tell of everybody who is turned away, and daily of a certificate near its end."""
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
