"""What Python's TLS says of a coordinator's certificate: gRPC does not say why it refuses one."""

import contextlib
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from polyclinic.errors import PolyclinicError, ServerUnreachable
from polyclinic.security.admission_errors import (
    AdmissionRefused,
    AuthorityUnknown,
    CertificateExpired,
    HostNameWrong,
    TlsMissing,
)
from polyclinic.system.processes import parse_address
from polyclinic_client.network.proxy import dial

EXPIRED = {10}  # OpenSSL's X509_V_ERR_CERT_HAS_EXPIRED
WRONG_NAME = {62, 64}  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


@dataclass(frozen=True)
class Certificate:
    """A coordinator's certificate, which was found to be good.

    Attributes:
        ends: When it expires.
        names: Names and addresses that it is for.
    """

    ends: datetime
    names: tuple[str, ...]


def check_certificate(server: str, authority: str, timeout_s: float) -> Certificate:
    """Return the coordinator's certificate.

    Args:
        server: HOST:PORT.
        authority: The authority's certificate, PEM.
        timeout_s: Limit of each step.

    Raises:
        AdmissionRefused: The certificate is not to be trusted; the class says why.
        ServerUnreachable: Nobody answers.
    """
    host, port = parse_address(server)
    context = ssl.create_default_context(cadata=authority)
    context.set_alpn_protocols(["h2"])
    try:
        with (
            dial(host, port, timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            found: dict[str, Any] = dict(secure.getpeercert() or {})
    except ssl.SSLError as error:
        raise _reason(server, error) from error
    except OSError as error:
        raise ServerUnreachable(
            server, error.strerror or str(error) or "no answer in time"
        ) from error
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(found["notAfter"])), UTC)
    return Certificate(ends, tuple(name for _, name in found.get("subjectAltName", ())))


def speaks_tls(server: str, timeout_s: float) -> bool:
    """Find out whether a server answers to TLS; nothing is sent or trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        contextlib.suppress(OSError, PolyclinicError),
        dial(*parse_address(server), timeout_s) as plain,
        context.wrap_socket(plain),
    ):
        return True
    return False


def _reason(server: str, error: ssl.SSLError) -> AdmissionRefused | ServerUnreachable:
    if isinstance(error, ssl.SSLCertVerificationError):
        kind = HostNameWrong if error.verify_code in WRONG_NAME else AuthorityUnknown
        if error.verify_code in EXPIRED:
            return CertificateExpired(server=server, who="this hospital")
        return kind(server=server, who="this hospital")
    if "WRONG_VERSION_NUMBER" in str(error) or "RECORD_LAYER" in str(error):
        return TlsMissing(server=server, who="this hospital")
    return ServerUnreachable(server, f"TLS: {error.reason or error}")
