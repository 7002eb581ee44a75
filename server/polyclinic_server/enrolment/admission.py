"""Admission: every call must show an enrolled key, and is then treated as that key's site.

What a caller says about itself does not count.
"""

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

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
from polyclinic.security.keys import fingerprint, parse_public_key
from polyclinic_server.enrolment.registry import Enrolled, Registry

# largest difference of a hospital's clock; a call that waits on a slow link is late, too
EARLY_S, LATE_S = (300.0, 300.0)


def admit(registry: Registry, metadata: Mapping[str, Any]) -> Enrolled:
    """Return the site behind a call, by the call's metadata; the journal records every refusal.

    Raises:
        AdmissionRefused: The caller is not an enrolled hospital; the type says why.
    """
    key, signature, timestamp = (
        metadata.get(name) for name in (PUBLIC_KEY_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER)
    )
    if not key or not signature or not timestamp:
        raise _noted(registry, KeyMissing(who="A client"), "", "")
    try:
        public = parse_public_key(key)
        public.verify(signature, timestamp.encode(), ec.ECDSA(hashes.SHA256()))
        ahead_s = (datetime.fromisoformat(timestamp) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, InvalidSignature):
        raise _noted(registry, SignatureInvalid(key=_mark(key)), _mark(key), "") from None
    mark = fingerprint(public)
    enrolled = registry.find(mark)
    if enrolled is None:
        raise _noted(registry, KeyUnknown(key=mark), mark, "")
    if not enrolled.active:
        raise _noted(registry, KeyRevoked(key=mark, site=enrolled.site), mark, enrolled.site)
    if not -LATE_S < ahead_s < EARLY_S:
        raise _noted(registry, ClockWrong(key=mark, seconds=f"{ahead_s:.0f}"), mark, enrolled.site)
    claimed = metadata.get(SITE_HEADER, enrolled.site)
    if claimed != enrolled.site:
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


def _mark(key: bytes) -> str:
    """Return a key's fingerprint, if it is a key."""
    try:
        return fingerprint(parse_public_key(key))
    except (ValueError, TypeError):
        return "unreadable"
