"""Registry of hospitals' public keys: lines of a hash-chained journal in the security folder.

The journal is that of a ledger (`polyclinic.store.journal`), so `polyclinic-server ledger
history|verify --ledger security/journal` reads it. There is no second list: the lines `enrolled`
and `revoked` determine who is enrolled. Lines `refused` record refused callers and the reasons.
"""

import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import select

from polyclinic.errors import ConfigError
from polyclinic.security.admission_errors import AdmissionRefused
from polyclinic.security.keys import PublicKey, fingerprint, public_text
from polyclinic.security.kit import Kit, check_site_name
from polyclinic.store.entries import as_line
from polyclinic.store.journal import FILE, JOURNAL, Database, append, database_of, sqlite_url
from polyclinic.system.durable import make_folder
from polyclinic_server.enrolment.authority import Authority

FRESH_S = 1.0  # how old the knowledge of an enrolled key may be
# the same for an unknown key: strangers must not cause a read of the journal at every attempt
SOON_S = 0.05
QUIET_S = 60.0  # the same refusal of the same client is recorded once in this time
MAX_REMEMBERED = 1000
# Recorded refusals: a flood must not fill the disk. Strangers and keys of the registry, revoked
# ones too, are counted apart, so that strangers cannot keep a revoked key's line out.
MOST_A_MINUTE = 100


@dataclass(frozen=True)
class Enrolled:
    """A hospital's key."""

    site: str
    fingerprint: str
    since: float  # seconds since 1970
    revoked: float | None = None
    reason: str = ""

    @property
    def active(self) -> bool:
        """Whether the key is valid."""
        return self.revoked is None


def enrol_with_kit(authority: Authority, site: str, key: PublicKey, path: Path) -> Enrolled:
    """Enrol a hospital's key, and write the kit that is sent back to the hospital.

    Raises:
        ConfigError: The name, or the key, is taken.
    """
    registry = Registry(authority.folder)
    try:
        enrolled = registry.enrol(site, key)
    finally:
        registry.close()
    Kit(site, authority.address, authority.ca(), enrolled.fingerprint).write(path)
    return enrolled


class Registry:
    """Enrolled keys of a security folder; several processes and threads may use it.

    Args:
        folder: The security folder.

    Raises:
        LedgerError: The journal cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        place = folder / "journal"
        make_folder(place)
        known = database_of(place) or (sqlite_url(place / FILE), str(place / FILE))
        self._database = Database(*known)
        if not self._database.has_tables():
            self._database.create_tables()
        self._lock = threading.Lock()
        self._keys: dict[str, Enrolled] = {}
        self._read_to, self._looked = 0, -FRESH_S
        self._noted: OrderedDict[tuple[str, str], float] = OrderedDict()
        # times of the newest recorded refusals: of strangers, and of keys of the registry
        self._written: dict[bool, deque[float]] = {
            known: deque(maxlen=MOST_A_MINUTE) for known in (False, True)
        }

    def close(self) -> None:
        """Close the journal."""
        self._database.close()

    def enrol(self, site: str, key: PublicKey) -> Enrolled:
        """Enrol a hospital by its key; enrolling the same pair again changes nothing.

        Raises:
            ConfigError: The name, or the key, is taken, or the key was revoked.
        """
        check_site_name(site, "NAME")
        mark = fingerprint(key)
        with self._lock, self._database.writing() as connection:
            self._read(connection)
            known = self._keys.get(mark)
            if known and known.active and known.site == site:
                return known
            if known:
                revoked = f"was revoked ({known.reason})"
                problem = f"is the key of {known.site}" if known.active else revoked
                raise ConfigError(
                    f"The key {mark} {problem}. "
                    f"Have {site} make a new key with `polyclinic-client keygen`."
                )
            if (other := self._active_key(site)) is not None:
                raise ConfigError(
                    f"{site} is enrolled with another key ({other.fingerprint}). "
                    f"Revoke that first: polyclinic-server enrol revoke {site} --reason TEXT"
                )
            append(connection, "enrolled", site, mark, {"key": public_text(key)})
            self._read(connection)
            return self._keys[mark]

    def revoke(self, site: str, reason: str) -> Enrolled:
        """Revoke the site's key; a connected hospital is refused at its next call.

        Raises:
            ConfigError: The site has no active key.
        """
        with self._lock, self._database.writing() as connection:
            self._read(connection)
            known = self._active_key(site)
            if known is None:
                sites = sorted(key.site for key in self._keys.values() if key.active)
                names = ", ".join(sites) or "nobody"
                raise ConfigError(f"{site} has no key that could be revoked. Enrolled: {names}.")
            append(connection, "revoked", site, known.fingerprint, {"reason": reason})
            self._read(connection)
            return self._keys[known.fingerprint]

    def follow(self, other: "Registry") -> None:
        """Enrol and revoke as another registry did; what this one has already is left alone.

        Args:
            other: The registry that determines who is enrolled.
        """
        with other._database.reading() as connection:
            kinds = JOURNAL.c.kind.in_(("enrolled", "revoked"))
            chosen = select(JOURNAL).where(kinds).order_by(JOURNAL.c.sequence)
            lines = connection.execute(chosen).mappings().all()
        with self._lock, self._database.writing() as connection:
            self._read(connection)
            for line in lines:
                mark, body = line["subject"], as_line(line).body
                known = self._keys.get(mark)
                missing = known is None if line["kind"] == "enrolled" else known and known.active
                if missing:
                    append(connection, line["kind"], line["site"], mark, body)
                    self._read(connection)

    def everybody(self) -> list[Enrolled]:
        """Return every key ever enrolled, by site and time."""
        with self._lock:
            self._refresh(0.0)
            return sorted(self._keys.values(), key=lambda key: (key.site, key.since))

    def find(self, mark: str) -> Enrolled | None:
        """Return the key of a fingerprint.

        The answer may be one second old; that there is no such key, a twentieth of a second.
        """
        with self._lock:
            self._refresh(FRESH_S if mark in self._keys else SOON_S)
            return self._keys.get(mark)

    def note(self, refusal: AdmissionRefused, who: str, site: str = "") -> None:
        """Record a refusal in the journal.

        The same refusal of the same client is recorded at most once a minute, and of a flood only
        the first hundred in a minute: a hundred of strangers, and a hundred of keys of the
        registry.

        Args:
            refusal: Why the client was refused.
            who: The client: a key's fingerprint, or an address.
            site: Whose key it proved to have, active or revoked; empty for a stranger.
        """
        key, moment = (refusal.code, who), time.monotonic()
        with self._lock:
            written = self._written[bool(site)]
            flooded = len(written) == MOST_A_MINUTE and moment - written[0] < QUIET_S
            if flooded or moment - self._noted.get(key, -QUIET_S) < QUIET_S:
                return
            written.append(moment)
            self._noted[key] = moment
            self._noted.move_to_end(key)
            while len(self._noted) > MAX_REMEMBERED:
                self._noted.popitem(last=False)
        body = {"type": type(refusal).__name__, "sentence": refusal.told()}
        with self._database.writing() as connection:
            append(connection, "refused", site, who, body)

    def record(self, deed: str, site: str, who: str, reason: str = "") -> None:
        """Record what somebody asks for on the page, before it is done.

        Args:
            deed: What is done: enrol, revoke, withdraw, start, stop or resume.
            site: The hospital that it concerns; empty for none.
            who: Address of the person's browser.
            reason: Why, or to what.
        """
        with self._database.writing() as connection:
            append(connection, "deed", site, who, {"deed": deed, "reason": reason})

    def refusals(self, after: int) -> tuple[int, list[str]]:
        """Return the last line's number, and the sentences of the refusals after a line."""
        chosen = select(JOURNAL).where(JOURNAL.c.sequence > after).order_by(JOURNAL.c.sequence)
        with self._database.reading() as connection:
            lines = [as_line(row) for row in connection.execute(chosen).mappings()]
        refused = [line.body["sentence"] for line in lines if line.kind == "refused"]
        return max([after, *(line.sequence for line in lines)]), refused

    def _active_key(self, site: str) -> Enrolled | None:
        return next((key for key in self._keys.values() if key.site == site and key.active), None)

    def _refresh(self, age_s: float) -> None:
        if time.monotonic() - self._looked < age_s:
            return
        with self._database.reading() as connection:
            self._read(connection)
        self._looked = time.monotonic()

    def _read(self, connection: Any) -> None:
        """Read the journal's new lines."""
        newer = select(JOURNAL).where(JOURNAL.c.sequence > self._read_to)
        for row in connection.execute(newer.order_by(JOURNAL.c.sequence)).mappings().all():
            mark, body = row["subject"], as_line(row).body
            if row["kind"] == "enrolled":
                self._keys[mark] = Enrolled(row["site"], mark, row["time"])
            elif row["kind"] == "revoked" and mark in self._keys:
                self._keys[mark] = replace(
                    self._keys[mark], revoked=row["time"], reason=body["reason"]
                )
            self._read_to = row["sequence"]
