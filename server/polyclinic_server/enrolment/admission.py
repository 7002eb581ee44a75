"""Who is let in: every call must show an enrolled key, and is then that key's site, whatever it says of itself."""

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

# how far a hospital's clock may differ; a call that waits on a slow link grows old, too
EARLY_S, LATE_S = (300.0, 300.0)


def admit(registry: Registry, metadata: Mapping[str, Any]) -> Enrolled:
    """The site behind a call, by the call's metadata; whoever is refused is a line in the journal.

    Raises:
        AdmissionRefused: Why it is none.
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
        raise _noted(
            registry,
            KeyOfAnother(key=mark, site=enrolled.site, claimed=claimed),
            mark,
            enrolled.site,
        )
    return enrolled


def knock_answer(site: str, instance: str) -> bytes:
    """What a hospital that knocks is told.

    Args:
        site: As the owner of its key is called here; empty without keys.
        instance: What tells this server from the one before it.
    """
    return json.dumps(
        {"site": site, "version": version("polyclinic"), "time": time.time(), "instance": instance}
    ).encode()


def _noted(registry: Registry, refusal: AdmissionRefused, who: str, site: str) -> AdmissionRefused:
    registry.note(refusal, who, site)
    return refusal


def _mark(key: bytes) -> str:
    """A key's fingerprint, if it is one."""
    try:
        return fingerprint(parse_public_key(key))
    except (ValueError, TypeError):
        return "unreadable"
