"""Admission: every call must show an enrolled key, and is then treated as that key's site.

What a caller says about itself does not count.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from polyclinic.fleet.challenge import verify
from polyclinic.fleet.credentials import verify_call
from polyclinic.fleet.wire.fleet_pb2 import Proof
from polyclinic.security.admission_errors import (
    PUBLIC_KEY_HEADER,
    SIGNATURE_HEADER,
    SITE_HEADER,
    TIMESTAMP_HEADER,
    AdmissionRefused,
    ClockWrong,
    KeyMissing,
    KeyOfAnother,
    KeyRevoked,
    KeyUnknown,
    SignatureInvalid,
)
from polyclinic.security.keys import fingerprint
from polyclinic_server.enrolment.registry import Enrolled, Registry

# largest difference of a hospital's clock; a call that waits on a slow link is late, too
EARLY_S, LATE_S = (300.0, 300.0)


def admit(registry: Registry, metadata: Mapping[str, Any], authority: bytes) -> Enrolled:
    """Return the site behind a call to a service; the journal records every refusal.

    Args:
        registry: Enrolled keys.
        metadata: The call's.
        authority: `authority_digest` of this coordinator's certificate authority.

    Raises:
        AdmissionRefused: The caller is not an enrolled hospital; the type says why.
    """
    needed = (PUBLIC_KEY_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER)
    if not all(metadata.get(name) for name in needed):
        raise _noted(registry, KeyMissing(who="A client"), "", "")
    try:
        key, ahead_s = verify_call(metadata, authority)
    except SignatureInvalid as refusal:
        raise _noted(registry, refusal, refusal.facts["key"], "") from None
    return _enrolled(registry, fingerprint(key), ahead_s, metadata.get(SITE_HEADER))


@dataclass(frozen=True)
class Challenged:
    """What a hospital was asked to sign.

    Attributes:
        nonce: Drawn for this one attempt.
        authority: `authority_digest` of this coordinator's certificate authority.
        site: The hospital's name, as it says.
        protocol: Version of the wire that both speak.
    """

    nonce: bytes
    authority: bytes
    site: str
    protocol: int


def admit_proof(registry: Registry, asked: Challenged, proof: Proof) -> Enrolled:
    """Return the site behind a proof of its key; the journal records every refusal.

    Raises:
        AdmissionRefused: The caller is not an enrolled hospital; the type says why.
    """
    if not proof.key or not proof.signature:
        raise _noted(registry, KeyMissing(who="A client"), "", "")
    try:
        key = verify(proof, asked.nonce, asked.authority, asked.site, asked.protocol)
    except SignatureInvalid as refusal:
        raise _noted(registry, refusal, refusal.facts["key"], "") from None
    return _enrolled(registry, fingerprint(key), proof.time - time.time(), asked.site)


def _enrolled(registry: Registry, mark: str, ahead_s: float, claimed: str | None) -> Enrolled:
    """Return the site of a key that was proved; refuse it unless it is active and the caller's."""
    enrolled = registry.find(mark)
    if enrolled is None:
        raise _noted(registry, KeyUnknown(key=mark), mark, "")
    if not enrolled.active:
        raise _noted(registry, KeyRevoked(key=mark, site=enrolled.site), mark, enrolled.site)
    if not -LATE_S < ahead_s < EARLY_S:
        raise _noted(registry, ClockWrong(key=mark, seconds=f"{ahead_s:.0f}"), mark, enrolled.site)
    if claimed is not None and claimed != enrolled.site:
        refusal = KeyOfAnother(key=mark, site=enrolled.site, claimed=claimed)
        raise _noted(registry, refusal, mark, enrolled.site)
    return enrolled


def handshake_answer(site: str, instance: str) -> bytes:
    """Return the answer to a hospital's handshake.

    Args:
        site: Name of the hospital here; empty if no keys are used.
        instance: Identifier of this start of the server.
    """
    facts = {"site": site, "version": version("polyclinic"), "time": time.time()}
    return json.dumps({**facts, "instance": instance}).encode()


def _noted(registry: Registry, refusal: AdmissionRefused, who: str, site: str) -> AdmissionRefused:
    registry.note(refusal, who, site)
    return refusal
