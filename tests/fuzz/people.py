"""Keys and certificates of a hospital and a coordinator that are made up; the same in every run."""

from datetime import UTC, datetime
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from polyclinic.fleet.anchor import sign_anchor
from polyclinic.fleet.wire import fleet_pb2 as wire
from polyclinic.security.keys import authority_digest, fingerprint, public_pem

NONCE = bytes(range(32))


@cache
def key(number: int) -> ec.EllipticCurvePrivateKey:
    """Return a hospital's key, 1, or that of a coordinator, 2, or of its authority, 3."""
    return ec.derive_private_key(10**20 + number, ec.SECP384R1())


@cache
def private_text() -> bytes:
    return key(1).private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


@cache
def certificate(number: int = 3) -> x509.Certificate:
    """Return the authority's certificate, or the coordinator's, 2."""
    names = {2: "coordinator", 3: "authority"}
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[3])])
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[number])]))
        .issuer_name(authority)
        .public_key(key(number).public_key())
        .serial_number(number)
        .not_valid_before(datetime(2025, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2125, 1, 1, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(number == 3, None), critical=True)
    )
    return builder.sign(key(3), hashes.SHA256())


@cache
def pem(number: int = 3) -> str:
    return certificate(number).public_bytes(Encoding.PEM).decode()


@cache
def authority() -> bytes:
    return authority_digest(pem())


@cache
def anchor() -> wire.Anchor:
    """Return the newest line of the coordinator's journal, signed."""
    made = wire.Anchor(journal="ledger 1", sequence=7, hash="a" * 64)
    return sign_anchor(made, key(2), certificate(2))


@cache
def public_pem_text() -> bytes:
    return public_pem(key(1).public_key())


@cache
def mark() -> str:
    return fingerprint(key(1).public_key())
