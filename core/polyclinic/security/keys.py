"""Hospitals' keys: ECDSA on P-384 in OpenSSH's formats, as Flower's node authentication needs them.

`ssh-keygen -t ecdsa -b 384` makes the same files, and `ssh-keygen -lf hospital.pub` shows the same
fingerprint.
"""

import base64
import hashlib
import os
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from polyclinic.errors import KeyInvalid
from polyclinic.system.durable import write_durably

PRIVATE, PUBLIC = "hospital.key", "hospital.pub"
MAX_KEY_BYTES = 10_000
# what anybody on the machine may do with a private key: nothing; its group may read it, as mounted
# secrets need
OTHERS = 0o007
PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey


def make_key(folder: Path, comment: str = "polyclinic") -> PublicKey:
    """Write a new key pair and return its public half.

    The files are `hospital.key`, which only its owner can read, and `hospital.pub`.

    Raises:
        KeyInvalid: There is a key already; it is never overwritten.
    """
    if (folder / PRIVATE).exists():
        raise KeyInvalid(
            f"{folder / PRIVATE}: there is a key already, and it is not overwritten. Use it, or "
            "choose another folder with --folder."
        )
    key = ec.generate_private_key(ec.SECP384R1())
    write_durably(
        folder / PRIVATE, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    )
    write_durably(
        folder / PUBLIC, f"{public_text(key.public_key())} {comment}\n".encode(), private=False
    )
    return key.public_key()


def load_private_key(path: Path) -> PrivateKey:
    """Load a hospital's private key.

    Raises:
        KeyInvalid: There is no key, others can read it, it has a password, or it is of another
            kind.
    """
    content = _read(path, "`polyclinic-client keygen` makes one")
    if path.stat().st_mode & OTHERS and os.name == "posix":
        raise KeyInvalid(
            f"{path}: anybody on this machine can read this private key. Run: chmod 600 {path}; "
            "or, where that changes nothing, as on some network shares and on disks of Windows, "
            "copy the key to a local disk and name it with --key."
        )
    try:
        key = serialization.load_ssh_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm, NotImplementedError) as error:
        raise KeyInvalid(
            f"{path}: not an OpenSSH private key without a password. `polyclinic-client keygen` "
            "makes one."
        ) from error
    if not isinstance(key, PrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise KeyInvalid(
            f"{path}: not an ECDSA key on P-384. `polyclinic-client keygen` makes one."
        )
    return key


def load_public_key(path: Path) -> PublicKey:
    """Load a hospital's public key.

    Raises:
        KeyInvalid: There is no such file, or it is not such a key. A private key that was sent by
            mistake is named as one.
    """
    content = _read(
        path, "the hospital's `polyclinic-client keygen` writes hospital.pub; have it sent"
    )
    if b"PRIVATE KEY" in content:
        raise KeyInvalid(
            f"{path}: this is a private key, which must never leave its hospital. Delete it here, "
            "have the hospital make a new pair, and enrol the file hospital.pub."
        )
    try:
        return parse_public_key(content)
    except ValueError as error:
        raise KeyInvalid(
            f"{path}: not an ECDSA public key on P-384. `polyclinic-client keygen` writes one, "
            "hospital.pub."
        ) from error


def parse_public_key(content: bytes) -> PublicKey:
    """Parse a public key in OpenSSH's one-line format, or in PEM as Flower sends it.

    Raises:
        ValueError: The bytes are neither.
    """
    try:
        pem = content.startswith(b"-----BEGIN")
        key = (
            serialization.load_pem_public_key(content)
            if pem
            else serialization.load_ssh_public_key(content)
        )
    except (UnsupportedAlgorithm, NotImplementedError) as error:
        raise ValueError("unsupported") from error
    if not isinstance(key, PublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ValueError("not ECDSA on P-384")
    return key


def public_text(key: PublicKey) -> str:
    """Return the key in OpenSSH's one-line format, without a comment."""
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def public_pem(key: PublicKey) -> bytes:
    """Return the key in PEM, as Flower sends it with every call."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def fingerprint(key: PublicKey) -> str:
    """Return the fingerprint SHA256:..., as `ssh-keygen -l` shows it."""
    return _shown(hashlib.sha256(base64.b64decode(public_text(key).split()[1])).digest())


def authority_digest(certificate: str) -> bytes:
    """Return the SHA-256 of a certificate authority's certificate (DER).

    Args:
        certificate: The certificate in PEM: a kit's `ca`, or the security folder's `ca.crt`.

    Raises:
        ValueError: This is not a certificate.
    """
    parsed = x509.load_pem_x509_certificate(certificate.encode())
    return hashlib.sha256(parsed.public_bytes(Encoding.DER)).digest()


def authority_fingerprint(certificate: str) -> str:
    """Return the fingerprint SHA256:... of a certificate authority's certificate (PEM).

    Raises:
        ValueError: This is not a certificate.
    """
    return _shown(authority_digest(certificate))


def _shown(digest: bytes) -> str:
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def _read(path: Path, remedy: str) -> bytes:
    try:
        if path.stat().st_size > MAX_KEY_BYTES:
            raise KeyInvalid(f"{path}: too large for a key. {remedy[0].upper()}{remedy[1:]}.")
        return path.read_bytes()
    except OSError as error:
        raise KeyInvalid(
            f"{path}: there is no key that could be read here ({error.strerror}); {remedy}."
        ) from error
