"""How a hospital proves its key to one coordinator.

The coordinator draws a nonce, and the hospital signs it together with the fingerprint of the
certificate authority that it knows from its kit. What is signed for one coordinator is therefore
worth nothing at another, and nothing that was signed once is worth anything later.
"""

import secrets
import struct

from polyclinic.fleet.signatures import framed, sign_statement, signer
from polyclinic.fleet.wire.fleet_pb2 import Proof
from polyclinic.security.keys import PrivateKey, PublicKey, public_pem

DOMAIN = b"polyclinic.fleet.v1 attend"  # no signature for another purpose starts so
NONCE_BYTES = 32


def new_nonce() -> bytes:
    """Draw the nonce of a challenge."""
    return secrets.token_bytes(NONCE_BYTES)


def statement(nonce: bytes, authority: bytes, site: str, protocol: int, time: float) -> bytes:
    """Return the bytes that a hospital signs.

    Args:
        nonce: The challenge's.
        authority: `authority_digest` of the authority that the signer trusts.
        site: The hospital's name, as in its hello.
        protocol: Version that both speak, as in the challenge.
        time: The hospital's clock, seconds since 1970.
    """
    numbers = struct.pack(">I", protocol), struct.pack(">d", time)
    return framed(DOMAIN, nonce, authority, site.encode(), *numbers)


def sign(
    key: PrivateKey, nonce: bytes, authority: bytes, site: str, protocol: int, time: float
) -> Proof:
    """Sign a challenge; the arguments are those of `statement`.

    Raises:
        ValueError: The nonce is not one, so that signing it would be signing anything.
    """
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a nonce has {NONCE_BYTES} bytes, this one {len(nonce)}")
    signed = sign_statement(key, statement(nonce, authority, site, protocol, time))
    return Proof(key=public_pem(key.public_key()), signature=signed, time=time)


def verify(proof: Proof, nonce: bytes, authority: bytes, site: str, protocol: int) -> PublicKey:
    """Return the key that signed a challenge; the arguments are those of `statement`.

    Raises:
        SignatureInvalid: It is no key of ours, or it did not sign this challenge.
    """
    signed = statement(nonce, authority, site, protocol, proof.time)
    return signer(proof.key, proof.signature, signed)
