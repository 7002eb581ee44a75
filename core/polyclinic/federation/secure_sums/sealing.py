"""How hospitals' shares travel through the coordinator, and what their keys are for."""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from polyclinic.federation.secure_sums.errors import ShareInvalid
from polyclinic.federation.secure_sums.shamir import SHARE_BYTES
from polyclinic.federation.secure_sums.terms import DOMAIN, Terms
from polyclinic.fleet.signatures import framed

NONCE = bytes(12)  # a key is used once


def seal(key: bytes, text: bytes, digest: bytes) -> bytes:
    """Encrypt shares, bound to the list of offers."""
    return ChaCha20Poly1305(key).encrypt(NONCE, text, digest)


def unseal(key: bytes, sealed: bytes, digest: bytes, sender: str) -> tuple[bytes, bytes]:
    """Decrypt a share of the sender's mask key, and one of its seed.

    Raises:
        ShareInvalid: They were changed, or belong elsewhere.
    """
    try:
        text = ChaCha20Poly1305(key).decrypt(NONCE, sealed, digest)
    except InvalidTag as error:
        raise ShareInvalid(sender) from error
    if len(text) != 2 * SHARE_BYTES:
        raise ShareInvalid(sender)
    return text[:SHARE_BYTES], text[SHARE_BYTES:]


def share_purpose(terms: Terms, sender: str, receiver: str) -> bytes:
    """Return the purpose of the key of what one hospital sends to another."""
    return framed(DOMAIN, b"share", terms.to_bytes(), sender.encode(), receiver.encode())


def mask_purpose(terms: Terms, one: str, other: str) -> bytes:
    """Return the purpose of the key by which two hospitals mask; equal for both."""
    first, second = sorted((one, other))
    return framed(DOMAIN, b"mask", terms.to_bytes(), first.encode(), second.encode())
