"""What keys sign: every part has its length before it, so no two statements are the same bytes.

`DOMAIN`s of the modules that sign keep statements of one purpose from those of another.
"""

import struct

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from polyclinic.security.admission_errors import SignatureInvalid
from polyclinic.security.keys import PrivateKey, PublicKey, fingerprint, parse_public_key

ALGORITHM = ec.ECDSA(hashes.SHA256())
LENGTH = struct.Struct(">I")


def framed(*parts: bytes) -> bytes:
    """Join the parts of a statement, each with its length before it."""
    return b"".join(LENGTH.pack(len(part)) + part for part in parts)


def sign_statement(key: PrivateKey, statement: bytes) -> bytes:
    """Sign a statement."""
    return key.sign(statement, ALGORITHM)


def signer(key: bytes, signature: bytes, statement: bytes) -> PublicKey:
    """Return the hospital's key that signed a statement.

    Args:
        key: The key, as `parse_public_key` reads it.
        signature: Made by `sign_statement`.
        statement: What was signed.

    Raises:
        SignatureInvalid: It is no key of ours, or it did not sign this.
    """
    mark = "unreadable"
    try:
        found = parse_public_key(key)
        mark = fingerprint(found)
        found.verify(signature, statement, ALGORITHM)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise SignatureInvalid(key=mark) from error
    return found
