"""How a hospital reaches its coordinator: by a kit and a key over TLS, or in plain text on one machine; and the knock before joining."""

import contextlib
import json
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc

from polyclinic.errors import ConfigError, ServerUnreachable
from polyclinic.security.admission_errors import (
    HANDSHAKE,
    AuthorityUnknown,
    CertificateExpired,
    HostNameWrong,
    PlaintextRefused,
    TlsMissing,
    credentials,
    unpack_refusal,
)
from polyclinic.security.keys import PRIVATE, fingerprint, load_private_key
from polyclinic.security.kit import Kit, check_site_name
from polyclinic.system.durable import write_durably
from polyclinic.system.processes import parse_address, pause_s

HANDSHAKE_S = 20.0  # a slow link needs seconds for a handshake
Say = Callable[[str], None]  # told what happens, a line at a time
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
EXPIRED = {10}  # OpenSSL's X509_V_ERR_CERT_HAS_EXPIRED
WRONG_NAME = {62, 64}  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


@dataclass(frozen=True)
class Welcome:
    """What a coordinator answers to a knock."""

    site: str  # as the coordinator calls the owner of the key; empty without keys
    version: str
    ahead_s: float  # by how much this machine's clock is ahead of the coordinator's
    instance: str  # another one after the coordinator was started again
    days_left: int | None = None  # of the coordinator's certificate


@dataclass(frozen=True)
class Connection:
    """A coordinator's address and how it is trusted."""

    server: str
    site: str
    kit: Kit | None = None
    key: Path | None = None

    def handshake(self, timeout_s: float = HANDSHAKE_S) -> Welcome:
        """Check the coordinator's certificate, show the key, and hear what it says.

        Raises:
            AdmissionRefused: One of the two does not want the other; the class says why.
            ServerUnreachable: Nobody answers.
            KeyInvalid: This hospital's own key cannot be read.
        """
        metadata = self.credentials()
        ends = self._check_certificate(timeout_s) if self.kit else None
        channel = self.open_channel()
        try:
            call = channel.unary_unary(HANDSHAKE)
            answer = json.loads(
                call(b"", metadata=metadata, timeout=timeout_s, wait_for_ready=False)
            )
        except grpc.RpcError as error:
            raise self.explain(error, timeout_s) from error
        finally:
            channel.close()
        left = None if ends is None else (ends - datetime.now(UTC)).days
        return Welcome(
            str(answer["site"]),
            str(answer["version"]),
            time.time() - float(answer["time"]),
            str(answer["instance"]),
            left,
        )

    def credentials(self) -> list[tuple[str, str | bytes]] | None:
        """What a call shows, good for some minutes; None without keys.

        Raises:
            KeyInvalid: This hospital's own key cannot be read.
        """
        return credentials(load_private_key(self.key), self.site) if self.key else None

    def open_channel(self, options: Sequence[tuple[str, int]] = ()) -> grpc.Channel:
        """A channel that trusts the kit's authority alone; plain text without a kit."""
        if self.kit is None:
            return grpc.insecure_channel(self.server, options)
        return grpc.secure_channel(
            self.server, grpc.ssl_channel_credentials(self.kit.ca.encode()), options
        )

    def wait(self, wait_s: float) -> Welcome:
        """Knock until somebody answers.

        Raises:
            AdmissionRefused: One of the two does not want the other.
            ServerUnreachable: Nobody answered in time.
        """
        start = time.monotonic()
        while True:
            try:
                return self.handshake(max(1.0, min(HANDSHAKE_S, wait_s)))
            except ServerUnreachable:
                waited_s = time.monotonic() - start
                if waited_s >= wait_s:
                    raise
                time.sleep(min(pause_s(waited_s, 0.1, 2.0), max(wait_s - waited_s, 0.0)))

    def supernode_arguments(self, folder: Path) -> list[str]:
        """How Flower's SuperNode is told the same; the certificate is written into `folder`."""
        if self.kit is None:
            return ["--insecure", "--superlink", self.server]
        write_durably(folder / "ca.crt", self.kit.ca.encode())
        return [
            "--root-certificates", str(folder / "ca.crt"), "--superlink", self.server, "--auth-supernode-private-key", str(self.key),
        ]  # fmt: skip

    def _check_certificate(self, timeout_s: float) -> datetime:
        """When the coordinator's certificate ends."""
        assert self.kit is not None
        host, port = parse_address(self.server)
        context = ssl.create_default_context(cadata=self.kit.ca)
        context.set_alpn_protocols(["h2"])
        try:
            with (
                socket.create_connection((host, port), timeout=timeout_s) as plain,
                context.wrap_socket(plain, server_hostname=host) as secure,
            ):
                ends = str((secure.getpeercert() or {})["notAfter"])
        except ssl.SSLCertVerificationError as error:
            facts = {"server": self.server, "who": "this hospital"}
            if error.verify_code in EXPIRED:
                raise CertificateExpired(**facts) from error
            raise (
                HostNameWrong(**facts)
                if error.verify_code in WRONG_NAME
                else AuthorityUnknown(**facts)
            ) from error
        except ssl.SSLError as error:
            if "WRONG_VERSION_NUMBER" in str(error) or "RECORD_LAYER" in str(error):
                raise TlsMissing(server=self.server, who="this hospital") from error
            raise ServerUnreachable(self.server, f"TLS: {error.reason or error}") from error
        except OSError as error:
            raise ServerUnreachable(
                self.server, error.strerror or str(error) or "no answer in time"
            ) from error
        return datetime.fromtimestamp(ssl.cert_time_to_seconds(ends), UTC)

    def explain(self, error: grpc.RpcError, timeout_s: float) -> Exception:
        """What is said of a call that failed on its way, or at the door."""
        code, details = error.code(), str(error.details())
        if refusal := unpack_refusal(details):
            return refusal
        if code == grpc.StatusCode.UNIMPLEMENTED:
            return ServerUnreachable(
                self.server, "what answers there is not a coordinator of polyclinic"
            )
        if self.kit is None and speaks_tls(self.server, timeout_s):
            return PlaintextRefused(server=self.server, who="this hospital")
        return ServerUnreachable(
            self.server,
            "no answer in time" if code == grpc.StatusCode.DEADLINE_EXCEEDED else _short(details),
        )


def make_connection(
    server: str | None, name: str | None, kit: Path | None, key: Path | None, *, insecure: bool
) -> Connection:  # fmt: skip
    """What the options say.

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
        if parse_address(server)[0] not in LOOPBACK_HOSTS:
            raise ConfigError(
                f"--insecure --server {server}: plain text never leaves this machine. Join with the coordinator's kit: --kit FILE."
            )
        check_site_name(name)
        return Connection(server, name)
    if kit is None:
        raise ConfigError(
            "Join with the coordinator's kit: --kit FILE (`polyclinic-client keygen` makes the key that it enrols). To try it on one "
            "machine without keys: --insecure --server 127.0.0.1:9092 --name NAME."
        )
    found = Kit.read(kit)
    if name and name != found.site:
        raise ConfigError(
            f"--name {name}: the kit {kit} is for {found.site}. Leave --name away, or use the other kit."
        )
    path = (key or kit.parent / PRIVATE).resolve()
    mark = fingerprint(load_private_key(path).public_key())
    if mark != found.key:
        raise ConfigError(
            f"{path} is the key {mark}, the kit {kit} is for {found.key}. Use the key whose public half was enrolled: --key FILE."
        )
    if server:
        parse_address(server)
    return Connection(server or found.server, found.site, found, path)


def speaks_tls(server: str, timeout_s: float) -> bool:
    """Whether whoever listens there answers to TLS; nothing is sent or trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, port = parse_address(server)
    with (
        contextlib.suppress(OSError),
        socket.create_connection((host, port), timeout=timeout_s) as plain,
        context.wrap_socket(plain),
    ):
        return True
    return False


def _short(text: str) -> str:
    return text.rpartition(": ")[2][:120] or "the connection was closed"
