"""How a call to a service of the coordinator's shows a hospital's key.

Such a call has no challenge before it. Its signature covers the service, the authority in the
hospital's kit, the site and the time: what is shown to one coordinator is worth nothing at another,
nor for another site, nor some minutes later.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from polyclinic.fleet.signatures import framed, sign_statement, signer
from polyclinic.security.admission_errors import (
    PUBLIC_KEY_HEADER,
    SIGNATURE_HEADER,
    SITE_HEADER,
    TIMESTAMP_HEADER,
    SignatureInvalid,
)
from polyclinic.security.keys import PrivateKey, PublicKey, fingerprint, public_pem

DOMAIN = b"polyclinic.proxy.v1 call"  # no signature for another purpose starts so


def call_statement(authority: bytes, site: str, timestamp: str) -> bytes:
    """Return the bytes that a hospital signs.

    Args:
        authority: `polyclinic.security.keys.authority_digest` of the authority in the kit.
        site: The hospital's name.
        timestamp: The hospital's clock, ISO 8601.
    """
    return framed(DOMAIN, authority, site.encode(), timestamp.encode())


def credentials(key: PrivateKey, authority: bytes, site: str) -> list[tuple[str, str | bytes]]:
    """Return the gRPC metadata by which a call shows a key; see `call_statement`."""
    timestamp = datetime.now(UTC).isoformat()
    signed = sign_statement(key, call_statement(authority, site, timestamp))
    return [
        (PUBLIC_KEY_HEADER, public_pem(key.public_key())),
        (TIMESTAMP_HEADER, timestamp),
        (SIGNATURE_HEADER, signed),
        (SITE_HEADER, site),
    ]


def verify_call(metadata: Mapping[str, Any], authority: bytes) -> tuple[PublicKey, float]:
    """Return the key that signed a call's metadata, and how far its clock is ahead, in seconds.

    Args:
        metadata: The call's; its headers are there.
        authority: `authority_digest` of this coordinator's authority.

    Raises:
        SignatureInvalid: It is no key of ours, or it did not sign this.
    """
    timestamp = str(metadata[TIMESTAMP_HEADER])
    signed = call_statement(authority, str(metadata.get(SITE_HEADER, "")), timestamp)
    key = signer(metadata[PUBLIC_KEY_HEADER], metadata[SIGNATURE_HEADER], signed)
    try:
        ahead_s = (datetime.fromisoformat(timestamp) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError) as error:
        raise SignatureInvalid(key=fingerprint(key)) from error
    return key, ahead_s
