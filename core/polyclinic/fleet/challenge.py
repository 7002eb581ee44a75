"""How a hospital proves its key to one coordinator.

The coordinator draws a nonce, and the hospital signs it together with the fingerprint of the
certificate authority that it knows from its kit. What is signed for one coordinator is therefore
worth nothing at another, and nothing that was signed once is worth anything later.
"""

import hashlib
import secrets
import struct

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from polyclinic.fleet.wire.fleet_pb2 import Proof
from polyclinic.security.admission_errors import SignatureInvalid
from polyclinic.security.keys import (
    PrivateKey,
    PublicKey,
    fingerprint,
    parse_public_key,
    public_pem,
)

DOMAIN = b"polyclinic.fleet.v1 attend"  # no signature for another purpose starts so
NONCE_BYTES = 32


def new_nonce() -> bytes:
    """Draw the nonce of a challenge."""
    return secrets.token_bytes(NONCE_BYTES)


def authority_digest(certificate: str) -> bytes:
    """Return the SHA-256 of a certificate authority's certificate (DER).

    Args:
        certificate: The certificate in PEM: a kit's `ca`, or the security folder's `ca.crt`.

    Raises:
        ValueError: This is not a certificate.
    """
    parsed = x509.load_pem_x509_certificate(certificate.encode())
    return hashlib.sha256(parsed.public_bytes(Encoding.DER)).digest()


def statement(nonce: bytes, authority: bytes, site: str, protocol: int, time: float) -> bytes:
    """Return the bytes that a hospital signs.

    Every part has its length before it, so that no two tuples give the same bytes.

    Args:
        nonce: The challenge's.
        authority: `authority_digest` of the authority that the signer trusts.
        site: The hospital's name, as in its hello.
        protocol: Version that both speak, as in the challenge.
        time: The hospital's clock, seconds since 1970.
    """
    parts = [DOMAIN, nonce, authority, site.encode(), struct.pack(">I", protocol)]
    parts.append(struct.pack(">d", time))
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def sign(
    key: PrivateKey, nonce: bytes, authority: bytes, site: str, protocol: int, time: float
) -> Proof:
    """Sign a challenge; the arguments are those of `statement`.

    Raises:
        ValueError: The nonce is not one, so that signing it would be signing anything.
    """
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a nonce has {NONCE_BYTES} bytes, this one {len(nonce)}")
    signed = key.sign(statement(nonce, authority, site, protocol, time), ec.ECDSA(hashes.SHA256()))
    return Proof(key=public_pem(key.public_key()), signature=signed, time=time)


def verify(proof: Proof, nonce: bytes, authority: bytes, site: str, protocol: int) -> PublicKey:
    """Return the key that signed a challenge; the arguments are those of `statement`.

    Raises:
        SignatureInvalid: It is no key of ours, or it did not sign this challenge.
    """
    mark = "unreadable"
    try:
        key = parse_public_key(proof.key)
        mark = fingerprint(key)
        signed = statement(nonce, authority, site, protocol, proof.time)
        key.verify(proof.signature, signed, ec.ECDSA(hashes.SHA256()))
    except (ValueError, TypeError, InvalidSignature) as error:
        raise SignatureInvalid(key=mark) from error
    return key
