"""The coordinator's certificate authority and server certificate, in one folder.

The folder is made once, and only its owner can read it.

    FOLDER/ca.key, ca.crt           the authority, for ten years; every kit holds ca.crt
           server.key, server.crt   certificate of the server, for 397 days; it is renewed by the
                                    same authority, so that kits stay valid
           address.json             host names and port that hospitals dial
           kits/NAME.kit.json       every hospital's kit; nothing secret
           journal/                 enrolments, revocations, refusals (enrolment.registry)
           segmentation/            all that the segmentation service needs (enrolment.service):
                                    no private key in it but its own
"""

import ipaddress
import json
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pydantic import BaseModel, Field

from polyclinic.errors import ConfigError
from polyclinic.system.durable import make_private_folder, write_durably
from polyclinic.system.listening import join_address

AUTHORITY_DAYS = 3650
SERVER_DAYS = 397
WARN_DAYS = 30
HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")


class _Address(BaseModel):
    """The content of address.json."""

    hosts: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    port: Annotated[int, Field(gt=0, lt=65536)]


@dataclass(frozen=True)
class Authority:
    """A security folder that `polyclinic-server init` has made."""

    folder: Path
    hosts: tuple[str, ...]
    port: int

    @classmethod
    def create(cls, folder: Path, hosts: Sequence[str], port: int) -> "Authority":
        """Make the authority and the server's certificate.

        Args:
            folder: The folder; must not hold an authority yet.
            hosts: Names and IP addresses by which hospitals dial the coordinator; the first goes
                into the kits.
            port: Port of the fleet.

        Raises:
            ConfigError: There is an authority already, or a name cannot be in a certificate.
        """
        if (folder / "ca.key").exists():
            raise ConfigError(
                f"{folder}: there is an authority already. Use --renew for a new server "
                "certificate, or choose another --folder."
            )
        names = _names(hosts)
        make_private_folder(folder)
        key = ec.generate_private_key(ec.SECP384R1())
        subject = _subject(f"polyclinic authority {x509.random_serial_number() % 16**8:08x}")
        certificate = (
            _certificate(subject, subject, key.public_key(), AUTHORITY_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(authority=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        write_durably(folder / "ca.crt", certificate.public_bytes(Encoding.PEM))
        write_durably(folder / "ca.key", _pem(key))
        authority = cls(folder, _plain(hosts), port)
        authority._issue(names, SERVER_DAYS, folder)
        return authority

    @classmethod
    def open(cls, folder: Path) -> "Authority":
        """Open the authority of a folder.

        Raises:
            ConfigError: There is none.
        """
        try:
            address = _Address.model_validate_json((folder / "address.json").read_bytes())
            authority = cls(folder, address.hosts, address.port)
            authority.expires()
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{folder}: there are no keys and certificates here. Make them with "
                "`polyclinic-server init --host NAME`, or serve only this machine with "
                "`polyclinic-server run --insecure`."
            ) from error
        return authority

    def renew(
        self, hosts: Sequence[str] = (), port: int | None = None, days: int = SERVER_DAYS
    ) -> "Authority":
        """Issue a new server certificate; a running coordinator uses it at once.

        Args:
            hosts: New names; empty keeps the present ones.
            port: New port; None keeps the present one.
            days: Days until the certificate expires.

        Raises:
            ConfigError: A name cannot be in a certificate, or the authority itself expires before.
        """
        left = (self.authority_expires() - datetime.now(UTC)).days
        if left < days:
            raise ConfigError(
                f"{self.folder}: the authority itself expires in {left} days. "
                "Make a new one in another folder with `polyclinic-server init`, and send every "
                "hospital a new kit."
            )
        renewed = Authority(self.folder, _plain(hosts) or self.hosts, port or self.port)
        renewed._issue(_names(renewed.hosts), days, self.folder)
        return renewed

    def issue_for(self, service: "Authority", unit: str, days: int = SERVER_DAYS) -> None:
        """Issue a certificate of its own for a service beside the coordinator.

        Args:
            service: Its folder, names and port.
            unit: What the certificate calls the service.
            days: Days until the certificate expires.

        Raises:
            ConfigError: A name cannot be in a certificate.
        """
        names = _names(service.hosts)
        make_private_folder(service.folder)
        write_durably(service.folder / "ca.crt", self.ca().encode())
        service._issue(names, days, self.folder, unit)

    @property
    def address(self) -> str:
        """HOST:PORT as in the kits."""
        return join_address(self.hosts[0], self.port)

    def ca(self) -> str:
        """Return the authority's certificate in PEM."""
        return (self.folder / "ca.crt").read_text()

    def expires(self) -> datetime:
        """Return when the server's certificate expires."""
        return _load(self.folder / "server.crt").not_valid_after_utc

    def has_expired(self) -> bool:
        """Tell whether the server's certificate has expired."""
        return self.expires() < datetime.now(UTC)

    def authority_expires(self) -> datetime:
        """Return when the authority's own certificate expires."""
        return _load(self.folder / "ca.crt").not_valid_after_utc

    def warning(self) -> str | None:
        """Return a sentence if the server's certificate has expired or soon will."""
        left = self.expires() - datetime.now(UTC)
        if left > timedelta(days=WARN_DAYS):
            return None
        when = "has expired" if self.has_expired() else f"expires in {left.days} days"
        return (
            f"The server's certificate {when} ({self.expires():%Y-%m-%d}). "
            f"Run: polyclinic-server init --renew --folder {self._home()}"
        )

    def context(self) -> ssl.SSLContext:
        """Return TLS 1.2 or newer with the server's certificate, for gRPC (HTTP/2)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["h2"])
        self.load_into(context)
        return context

    def load_into(self, context: ssl.SSLContext) -> None:
        """Use the newest certificate for further connections."""
        context.load_cert_chain(self.folder / "server.crt", self.folder / "server.key")

    def _home(self) -> Path:
        """Return the folder of the authority's key: a service's certificate is renewed there."""
        return self.folder if (self.folder / "ca.key").exists() else self.folder.parent

    def _issue(
        self, names: Sequence[x509.GeneralName], days: int, home: Path, unit: str = ""
    ) -> None:
        authority_key = serialization.load_pem_private_key(
            (home / "ca.key").read_bytes(), password=None
        )
        assert isinstance(authority_key, ec.EllipticCurvePrivateKey)
        authority = _load(self.folder / "ca.crt")
        key = ec.generate_private_key(ec.SECP256R1())
        identifier = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
        subject = _subject(str(names[0].value)[:64], unit)
        certificate = (
            _certificate(subject, authority.subject, key.public_key(), days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(issuer, critical=False)
            .sign(authority_key, hashes.SHA256())
        )
        # the key is written first, as a running coordinator reads both when the certificate changes
        write_durably(self.folder / "server.key", _pem(key))
        write_durably(self.folder / "server.crt", certificate.public_bytes(Encoding.PEM))
        address = {"hosts": list(self.hosts), "port": self.port}
        write_durably(self.folder / "address.json", json.dumps(address))


def _plain(hosts: Sequence[str]) -> tuple[str, ...]:
    """Return hosts without the brackets around an address of IPv6."""
    return tuple(host.strip("[]") for host in hosts)


def _names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """Return the subject alternative names."""
    found: list[x509.GeneralName] = []
    for host in hosts:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(host.strip("[]"))))
        except ValueError:
            if len(host) > 253 or not HOST_NAME.fullmatch(host):
                raise ConfigError(
                    f"--host '{host}': neither a host name nor an IP address. "
                    "Write it without port or scheme."
                ) from None
            found.append(x509.DNSName(host))
    if not found:
        raise ConfigError(
            "--host is missing: name the host or IP address by which hospitals reach this machine, "
            "for example --host coordinator.example.org."
        )
    return found


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    moment = datetime.now(UTC)
    # an hour for hospitals whose clocks are behind
    start = min(moment, moment + timedelta(days=days)) - timedelta(hours=1)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(moment + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(name: str, unit: str = "") -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    if unit:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit))
    return x509.Name(attributes)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())
