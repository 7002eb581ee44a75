"""The newest line of a journal, signed by the coordinator whose journal it is.

The signer is the server: its certificate is part of the signature, so that a hospital can check it
with the authority in its kit alone, and still after the certificate was renewed.
"""

import struct
from typing import Annotated

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from polyclinic.fleet.signatures import ALGORITHM, LENGTH, framed, sign_statement
from polyclinic.fleet.wire.fleet_pb2 import Anchor

DOMAIN = b"polyclinic.fleet.v1 anchor"  # no signature for another purpose starts so
SIGNATURE_BYTES = 8_192  # largest signature that is looked at


class KeptLine(BaseModel):
    """A line of a journal: its number, its hash, and the signature in hexadecimal."""

    model_config = ConfigDict(frozen=True)

    sequence: Annotated[int, Field(ge=0, lt=2**64)]
    hash: str
    signature: str = ""


class KeptJournal(KeptLine):
    """The newest line of a journal, and earlier ones."""

    earlier: tuple[KeptLine, ...] = ()


KEPT = TypeAdapter(dict[str, KeptJournal])  # anchors.json of a hospital, by journal


def anchor_statement(anchor: Anchor) -> bytes:
    """Return the bytes that a coordinator signs."""
    sequence = struct.pack(">Q", anchor.sequence)
    return framed(DOMAIN, anchor.journal.encode(), sequence, anchor.hash.encode())


def sign_anchor(
    anchor: Anchor, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate
) -> Anchor:
    """Sign an anchor, in place, by a server's key, and return it."""
    shown = certificate.public_bytes(Encoding.DER)
    anchor.signature = framed(shown) + sign_statement(key, anchor_statement(anchor))
    return anchor


def is_signed(anchor: Anchor, authority: str) -> bool:
    """Tell whether a coordinator with a certificate of this authority signed an anchor.

    Args:
        anchor: The anchor.
        authority: The authority's certificate, PEM.
    """
    try:
        (length,) = LENGTH.unpack_from(anchor.signature)
        shown = anchor.signature[LENGTH.size : LENGTH.size + length]
        certificate = x509.load_der_x509_certificate(shown)
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.encode()))
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or _is_service(certificate):
            return False
        signed = anchor.signature[LENGTH.size + length :]
        key.verify(signed, anchor_statement(anchor), ALGORITHM)
    except (ValueError, TypeError, struct.error, InvalidSignature):
        return False
    return True


def _is_service(certificate: x509.Certificate) -> bool:
    """Tell whether a certificate is that of a service beside the coordinator, which has no journal.

    Such a certificate names the service as its organizational unit.
    """
    unit = NameOID.ORGANIZATIONAL_UNIT_NAME
    return bool(certificate.subject.get_attributes_for_oid(unit))
