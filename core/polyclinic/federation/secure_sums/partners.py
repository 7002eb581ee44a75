"""Whom a hospital takes part in sums with: STATE/partners.json.

A key that was seen once for a hospital stays that hospital's. A coordinator could still invent
hospitals that were never seen before, and so take a sum apart. People therefore compare
fingerprints by telephone, and close the list: then only those in it count.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from polyclinic.config.schemas import STRICT
from polyclinic.config.validation import validate
from polyclinic.errors import ConfigError
from polyclinic.federation.secure_sums.errors import OfferInvalid
from polyclinic.federation.secure_sums.terms import FEWEST, Site
from polyclinic.security.keys import PublicKey, fingerprint
from polyclinic.system.durable import write_durably
from polyclinic.system.text import parse_json

FILE = "partners.json"
Fingerprint = Annotated[str, Field(strict=True, pattern=r"^SHA256:[A-Za-z0-9+/]{43}$")]


@dataclass(frozen=True, config=STRICT)
class Partners:
    """The content of the file.

    Attributes:
        keys: Fingerprint of each hospital's key.
        closed: Whether hospitals that are not in the list are refused.
        least: Number of hospitals that this one demands in a sum.
    """

    keys: Annotated[Mapping[Site, Fingerprint], Field(max_length=10_000)] = Field(
        default_factory=dict
    )
    closed: bool = False
    least: Annotated[int, Field(ge=FEWEST, le=10_000)] = FEWEST


def read_partners(state: Path) -> Partners:
    """Read whom a hospital knows.

    Raises:
        ConfigError: The file is damaged: the hospital takes part in no sum then.
    """
    path = state / FILE
    try:
        said = parse_json(path.read_text()) if path.exists() else {}
        return validate(Partners, said if isinstance(said, dict) else {"file": said})
    except (OSError, ValueError, RecursionError, ConfigError) as error:
        raise ConfigError(
            f"The hospital's {FILE} is damaged. Repair it, or remove it and compare the "
            "fingerprints again (`polyclinic-client partners`)."
        ) from error


def keep_partners(state: Path, partners: Partners) -> None:
    """Write whom a hospital knows."""
    said = {
        "keys": dict(sorted(partners.keys.items())),
        "closed": partners.closed,
        "least": partners.least,
    }
    write_durably(state / FILE, json.dumps(said, indent=1).encode())


def recognize(state: Path, site: str, key: PublicKey) -> None:
    """Check that a key is the hospital's, and remember one that is new.

    Raises:
        OfferInvalid: The hospital had another key before, or the list is closed and lacks it.
        ConfigError: The file is damaged.
    """
    partners, shown = read_partners(state), fingerprint(key)
    known = partners.keys.get(site)
    if known == shown:
        return
    if known is not None:
        raise OfferInvalid(
            site,
            f"this is {shown}, it was {known}. Ask {site} by telephone; if it has a new key, run "
            f"`polyclinic-client partners --forget {site}`",
        )
    if partners.closed:
        raise OfferInvalid(
            site,
            f"{shown} is not in this hospital's closed list. Ask {site} by telephone, and run "
            f"`polyclinic-client partners --accept {site}={shown}`",
        )
    keep_partners(state, Partners({**partners.keys, site: shown}, partners.closed, partners.least))
