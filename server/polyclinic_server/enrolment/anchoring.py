"""Newest lines of journals, which hospitals keep: a journal is not written anew, or cut, unseen.

The coordinator signs them (`polyclinic.fleet.anchor`) and hands them to every hospital that joins,
and with every answer that it takes. `polyclinic-server ledger verify --anchor FILE` compares what a
hospital kept with the journal.
"""

import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from polyclinic.errors import ConfigError, PolyclinicError
from polyclinic.fleet.anchor import KEPT, KeptJournal, is_signed, sign_anchor
from polyclinic.fleet.wire.fleet_pb2 import Anchor
from polyclinic.security.keys import authority_fingerprint
from polyclinic.store.entries import first_hash, read_lines
from polyclinic.store.journal import Database, database_of
from polyclinic.system.durable import DIGEST
from polyclinic.system.text import parse_json
from polyclinic_server.enrolment.authority import Authority

if TYPE_CHECKING:
    from polyclinic.store.ledger import Ledger

JOURNAL = "journal"  # folder of the registry's journal in the security folder
# between the two a bounded text, as the whole file may be long
LINE = re.compile(rf"(\d{{1,18}})\D{{1,200}}?\b({DIGEST.pattern})\b")
MAX_FILE_BYTES = 20_000_000


class Anchoring:
    """Signs the newest lines of journals; several threads may ask.

    Args:
        authority: The security folder, whose journal is one of them; None without keys, where
            nothing is signed.
        ledgers: Folders of ledgers; each may be made later.
    """

    def __init__(self, authority: Authority | None, ledgers: Iterable[Path] = ()) -> None:
        self._authority = authority
        self._own = () if authority is None else (authority.folder / JOURNAL,)
        self._ledgers: dict[str, tuple[Path, ...]] = {"": tuple(ledgers)}  # by run
        self._lock = threading.Lock()
        self._open: dict[Path, tuple[str, Database]] = {}
        self._signed: dict[Path, Anchor] = {}

    @property
    def _folders(self) -> list[Path]:
        found = [folder for folders in list(self._ledgers.values()) for folder in folders]
        return list(dict.fromkeys((*self._own, *found)))

    def follow(self, run: str, ledgers: Iterable[Path]) -> None:
        """Sign the newest lines of a run's ledgers, too, from now on."""
        self._ledgers[run] = tuple(ledgers)

    def leave(self, run: str) -> None:
        """Sign no more of a run's ledgers, and close those that no other run has."""
        left = self._ledgers.pop(run, ())
        with self._lock:
            for folder in set(left) - set(self._folders):
                self._signed.pop(folder, None)
                _, database = self._open.pop(folder, ("", None))
                if database is not None:
                    database.close()

    def close(self) -> None:
        """Close the journals."""
        with self._lock:
            for _, database in self._open.values():
                database.close()
            self._open.clear()

    def __call__(self) -> list[Anchor]:
        """Return the newest line of each journal; of one that cannot be read, what was known.

        While another thread looks, what was known is enough: nobody waits in a queue.
        """
        if not self._lock.acquire(blocking=not self._signed):
            return [self._signed[folder] for folder in self._folders if folder in self._signed]
        try:
            found = [self._newest(folder) for folder in self._folders]
        finally:
            self._lock.release()
        return [anchor for anchor in found if anchor is not None]

    def _newest(self, folder: Path) -> Anchor | None:
        known = self._signed.get(folder)
        try:
            opened = self._open.get(folder) or self._opened(folder)
            if opened is None:
                return known
            name, database = opened
            with database.reading() as connection:
                (line,) = read_lines(connection, limit=1)
            if known is None or (known.sequence, known.hash) != (line.sequence, line.hash):
                found = Anchor(journal=name, sequence=line.sequence, hash=line.hash)
                known = self._signed[folder] = self._sign(found)
        except (PolyclinicError, OSError, ValueError):
            pass  # the journal's own readers say what is wrong with it
        return known

    def _opened(self, folder: Path) -> tuple[str, Database] | None:
        """Open a journal, if there is one by now."""
        found = database_of(folder)
        if found is None:
            return None
        database = Database(*found)
        if not database.has_tables():
            database.close()
            return None
        with database.reading() as connection:
            identity = first_hash(connection)
        self._open[folder] = journal_name(folder, identity), database
        return self._open[folder]

    def _sign(self, anchor: Anchor) -> Anchor:
        if self._authority is None:
            return anchor
        folder = self._authority.folder
        key = load_pem_private_key((folder / "server.key").read_bytes(), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        certificate = x509.load_pem_x509_certificate((folder / "server.crt").read_bytes())
        return sign_anchor(anchor, key, certificate)


def journal_name(folder: Path, identity: str) -> str:
    """Return what a journal is called in hospitals' files.

    Args:
        folder: A ledger's folder, or the folder `journal` of a security folder.
        identity: Hash of the journal's first line.
    """
    authority = folder.parent / "ca.crt"
    if folder.name == JOURNAL and authority.is_file():
        return f"security {authority_fingerprint(authority.read_text())}"
    return f"ledger {identity[:16]}"


@dataclass(frozen=True)
class Verdict:
    """What a hospital's anchors say of a journal.

    Attributes:
        sound: Whether the journal still holds every line that the hospital was shown.
        sentence: What was found.
    """

    sound: bool
    sentence: str


def judge(path: Path, journal: "Ledger") -> Verdict:
    """Compare what a hospital kept with a journal whose chain is sound.

    Args:
        path: The hospital's anchors.json, or a file with one line: a number and a hash.
        journal: A ledger, or the journal of a security folder.

    Raises:
        ConfigError: The file is neither.
    """
    anchors, others = _read(path, journal_name(journal.folder, journal.identity()))
    if not anchors:
        return Verdict(
            False,
            f"{path} has no line of this journal; it has lines of {', '.join(others)}. If one of "
            "these should be this journal, the journal was rewritten from its first line on.",
        )
    hashes = {line.sequence: line.hash for line in journal.history()}
    for anchor in sorted(anchors, key=lambda each: each.sequence):
        shown = f"line {anchor.sequence}"
        if (problem := _signature_problem(anchor, journal.folder)) is not None:
            return Verdict(False, f"{path}, {shown}: {problem}")
        if anchor.sequence not in hashes:
            return Verdict(
                False,
                f"cut: the hospital was shown {shown} of this journal, which ends with line "
                f"{len(hashes)} now. Lines were removed from its end.",
            )
        if (found := hashes[anchor.sequence]) != anchor.hash:
            return Verdict(
                False,
                f"rewritten: {shown} had the hash {anchor.hash} when the hospital was shown it, "
                f"and has {found} now. This line, or one before it, was changed.",
            )
    return Verdict(
        True,
        f"sound: line {anchors[-1].sequence} is what the hospital was shown, so nothing up to it "
        "was changed or cut since then.",
    )


def _read(path: Path, name: str) -> tuple[list[Anchor], list[str]]:
    """Return the lines that a file has of the journal `name`, and all journals in the file."""
    text = _text(path)
    try:
        content = parse_json(text)
    except ValueError:
        found = LINE.search(text)
        if found is None:
            raise _no_anchor(path) from None
        return [Anchor(sequence=int(found[1]), hash=found[2])], []
    try:
        if isinstance(content, dict) and "sequence" in content:
            return _lines(str(content.get("journal", "")), KeptJournal(**content)), []
        kept = KEPT.validate_python(content)
        return (_lines(name, kept[name]) if name in kept else []), sorted(kept)
    except (ValueError, TypeError) as error:
        raise _no_anchor(path) from error


def _lines(name: str, kept: KeptJournal) -> list[Anchor]:
    return [
        Anchor(
            journal=name,
            sequence=line.sequence,
            hash=line.hash,
            signature=bytes.fromhex(line.signature),
        )
        for line in (*kept.earlier, kept)
    ]


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _no_anchor(path)
        return path.read_text()
    except (OSError, ValueError) as error:
        raise _no_anchor(path) from error


def _no_anchor(path: Path) -> ConfigError:
    return ConfigError(
        f"--anchor {path}: neither a hospital's anchors.json (in the folder of its --state) nor a "
        "line with a number and a hash, as `polyclinic-server ledger verify` shows it."
    )


def _signature_problem(anchor: Anchor, folder: Path) -> str | None:
    """Say whether a signed line of the security journal is not of this coordinator."""
    authority = folder.parent / "ca.crt"
    signed = anchor.signature and anchor.journal and authority.is_file()
    if not signed or is_signed(anchor, authority.read_text()):
        return None
    return "this coordinator did not sign it. The hospital's file was changed, or is of another."
