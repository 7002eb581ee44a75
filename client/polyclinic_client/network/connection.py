"""Connection of a hospital to its coordinator, and the handshake before joining.

With a kit and a key it uses TLS; in plain text it never leaves the machine.
"""

import contextlib
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import grpc

from polyclinic.errors import ConfigError, PolyclinicError, ServerUnreachable
from polyclinic.fleet.credentials import credentials
from polyclinic.fleet.protocol import CLIENT_OPTIONS
from polyclinic.fleet.wire import fleet_pb2 as wire
from polyclinic.security.admission_errors import (
    HANDSHAKE,
    PlaintextRefused,
    unpack_refusal,
)
from polyclinic.security.keys import PRIVATE, authority_digest, fingerprint, load_private_key
from polyclinic.security.kit import Kit, check_site_name
from polyclinic.system.listening import join_address
from polyclinic.system.processes import parse_address, pause_s
from polyclinic_client.network.certificate import Certificate, check_certificate, speaks_tls
from polyclinic_client.network.introduction import (
    Introduction,
    Welcome,
    fleet_stub,
    service_welcome,
)
from polyclinic_client.network.proxy import is_loopback, proxy_for
from polyclinic_client.network.relay import relay_to
from polyclinic_client.sent.channel import Guarded
from polyclinic_client.sent.door import Door
from polyclinic_client.state import state_folder

HANDSHAKE_S = 20.0  # a slow link needs seconds for a handshake
Say = Callable[[str], None]  # told what happens, a line at a time
Options = Sequence[tuple[str, int | str]]


@dataclass(frozen=True)
class Connection:
    """A coordinator's address and how it is trusted."""

    server: str
    site: str
    kit: Kit | None = None
    key: Path | None = None
    state: Path | None = None  # the hospital's state folder; None for the default

    @cached_property
    def door(self) -> Door:
        """The way out to the coordinator, by which everything leaves that leaves."""
        return Door(state_folder(self.state, self.site), self.server)

    def handshake(self, timeout_s: float = HANDSHAKE_S) -> Welcome:
        """Check the coordinator's certificate, prove the key, and read what it answers.

        This only asks: a client that is connected with the same key stays connected.

        Raises:
            AdmissionRefused: One of the two does not want the other; the class says why.
            ServerUnreachable: Nobody answers.
            KeyInvalid: This hospital's own key cannot be read.
            ConfigError: The environment names a proxy that cannot be used.
        """
        introduction = self.introduction()
        with self._asking(timeout_s) as (channel, ends):
            frames: queue.SimpleQueue[wire.FromHospital | None] = queue.SimpleQueue()
            answers = fleet_stub(channel).Attend(iter(frames.get, None), timeout=timeout_s)
            try:
                frames.put(introduction.hello())
                frames.put(introduction.prove(self._next(answers)))
                return introduction.welcome(self._next(answers), ends)
            finally:
                frames.put(wire.FromHospital(goodbye=wire.Goodbye(reason="it only asked")))
                frames.put(None)
                answers.cancel()

    def knock(self, timeout_s: float = HANDSHAKE_S) -> Welcome:
        """Make the same handshake with a service of the coordinator's, not with its fleet.

        Raises:
            AdmissionRefused: One of the two does not want the other; the class says why.
            ServerUnreachable: Nobody answers.
            KeyInvalid: This hospital's own key cannot be read.
        """
        metadata = self.credentials()
        with self._asking(timeout_s) as (channel, ends):
            call = channel.unary_unary(HANDSHAKE)
            said = call(b"", metadata=metadata, timeout=timeout_s)
        return service_welcome(self.server, said, ends)

    def certificate(self, timeout_s: float = HANDSHAKE_S) -> Certificate:
        """Return the coordinator's certificate, which the kit's authority has signed.

        Raises:
            AdmissionRefused: The certificate is not to be trusted; the class says why.
            ServerUnreachable: Nobody answers.
            ConfigError: There is no kit; or the environment names a proxy that cannot be used.
        """
        if self.kit is None:
            raise ConfigError("Without a kit there is no certificate to look at: --kit FILE.")
        return check_certificate(self.server, self.kit.ca, timeout_s)

    @contextlib.contextmanager
    def _asking(self, timeout_s: float) -> Iterator[tuple[Guarded, datetime | None]]:
        """Yield a channel for one handshake, after a look at the coordinator's certificate."""
        ends = self.certificate(timeout_s).ends if self.kit else None
        channel = self.open_channel(CLIENT_OPTIONS)
        try:
            yield channel, ends
        except grpc.RpcError as error:
            raise channel.kept_back or self.explain(error, timeout_s) from error
        finally:
            channel.close()

    def _next(self, answers: Iterator[wire.FromCoordinator]) -> wire.FromCoordinator:
        """Return the next frame.

        Raises:
            ServerUnreachable: There is none.
        """
        frame = next(answers, None)
        if frame is None:
            raise ServerUnreachable(self.server, "it closed the connection")
        return frame

    def introduction(self) -> Introduction:
        """Return how this hospital introduces itself.

        Raises:
            KeyInvalid: This hospital's own key cannot be read.
        """
        key = load_private_key(self.key) if self.key else None
        authority = authority_digest(self.kit.ca) if self.kit else b""
        return Introduction(self.server, self.site, key, authority)

    def signing(self) -> dict[str, str]:
        """Tell the hospital's own worker by which key it signs; empty without keys."""
        if self.key is None or self.kit is None:
            return {}
        return {"key": str(self.key.resolve()), "authority": authority_digest(self.kit.ca).hex()}

    def credentials(self) -> list[tuple[str, str | bytes]] | None:
        """Make the credentials of a call to a service, good for some minutes; None without keys.

        Raises:
            KeyInvalid: This hospital's own key cannot be read.
        """
        if self.key is None or self.kit is None:
            return None
        return credentials(load_private_key(self.key), authority_digest(self.kit.ca), self.site)

    def open_channel(self, options: Options = (), module: Any = grpc) -> Guarded:
        """Open a channel that trusts the kit's authority alone; plain text without a kit.

        Nothing leaves by it that the journal does not tell of.

        Args:
            options: gRPC's.
            module: grpc, or grpc.aio.

        Raises:
            ConfigError: The environment names a proxy that cannot be used.
        """
        host, port = parse_address(self.server)
        target = join_address(host, port)
        settings: list[tuple[str, int | str]] = [*options, ("grpc.enable_http_proxy", 0)]
        if self.kit is None:
            return Guarded(module.insecure_channel(target, settings), self.door)
        if proxy_for(host, port) is not None:
            target = relay_to(host, port)
            settings.append(("grpc.ssl_target_name_override", host))
        trusted = grpc.ssl_channel_credentials(self.kit.ca.encode())
        return Guarded(module.secure_channel(target, trusted, settings), self.door)

    def wait(self, wait_s: float, ask: Callable[[float], Welcome] | None = None) -> Welcome:
        """Try handshakes until somebody answers.

        Args:
            wait_s: For so long.
            ask: The handshake: `handshake` if not given, or `knock`.

        Raises:
            AdmissionRefused: One of the two does not want the other.
            ServerUnreachable: Nobody answered in time.
        """
        start = time.monotonic()
        while True:
            try:
                return (ask or self.handshake)(max(1.0, min(HANDSHAKE_S, wait_s)))
            except ServerUnreachable:
                waited_s = time.monotonic() - start
                if waited_s >= wait_s:
                    raise
                time.sleep(min(pause_s(waited_s, 0.1, 2.0), max(wait_s - waited_s, 0.0)))

    def explain(self, error: grpc.RpcError, timeout_s: float, *, look: bool = False) -> Exception:
        """Turn a call that failed on its way, or was refused, into an error of ours.

        Args:
            error: Of gRPC's.
            timeout_s: Limit of each step.
            look: Look at the coordinator's certificate, which may be the reason.
        """
        code, details = error.code(), str(error.details())
        if refusal := unpack_refusal(details):
            return refusal
        if code == grpc.StatusCode.UNIMPLEMENTED:
            return ServerUnreachable(
                self.server, "what answers there is not a coordinator of polyclinic"
            )
        if self.kit is None and speaks_tls(self.server, timeout_s):
            return PlaintextRefused(server=self.server, who="this hospital")
        if self.kit is not None and look:
            try:
                check_certificate(self.server, self.kit.ca, timeout_s)
            except PolyclinicError as found:
                return found
        return ServerUnreachable(
            self.server,
            "no answer in time" if code == grpc.StatusCode.DEADLINE_EXCEEDED else _short(details),
        )


def make_connection(
    server: str | None,
    name: str | None,
    kit: Path | None,
    key: Path | None,
    *,
    insecure: bool,
    state: Path | None = None,
) -> Connection:
    """Make the connection that the options ask for.

    Raises:
        ConfigError: They contradict each other, or something is missing.
        AddressInvalid: `server` is not HOST:PORT.
        KitInvalid, KeyInvalid: The files are of no use, or do not belong together.
    """
    if insecure:
        if kit or key:
            raise ConfigError(
                "--insecure and --kit exclude each other: a kit and its key are for TLS."
            )
        if not server or not name:
            raise ConfigError("--insecure needs --server 127.0.0.1:PORT and --name NAME.")
        if not is_loopback(parse_address(server)[0]):
            raise ConfigError(
                f"--insecure --server {server}: plain text never leaves this machine. Join with "
                "the coordinator's kit: --kit FILE."
            )
        check_site_name(name)
        return Connection(server, name, state=state)
    if kit is None:
        raise ConfigError(
            "Join with the coordinator's kit: --kit FILE (`polyclinic-client keygen` makes the key "
            "that it enrols). To try it on one machine without keys: --insecure --server "
            "127.0.0.1:9092 --name NAME."
        )
    found = Kit.read(kit)
    if name and name != found.site:
        raise ConfigError(
            f"--name {name}: the kit {kit} is for {found.site}. Leave --name away, or use the "
            "other kit."
        )
    path = (key or kit.parent / PRIVATE).resolve()
    mark = fingerprint(load_private_key(path).public_key())
    if mark != found.key:
        raise ConfigError(
            f"{path} is the key {mark}, the kit {kit} is for {found.key}. Use the key whose public "
            "half was enrolled: --key FILE."
        )
    if server:
        parse_address(server)
    return Connection(server or found.server, found.site, found, path, state)


def _short(text: str) -> str:
    return text.rpartition(": ")[2][:120] or "the connection was closed"
