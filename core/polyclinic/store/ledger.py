"""Ledger: the durable store of contributions and of the models made from them.

    FOLDER/ledger.sqlite                          the tables of `polyclinic.store.journal`
           database.url                           or, instead: the address of a PostgreSQL database
           contributions/ab/DIGEST.safetensors    named by the SHA-256 of the file
           models/DIGEST.safetensors              bases and published models, by `state_digest`

Nothing is changed or removed. A newer contribution of a site supersedes the older one; a withdrawal
covers everything that the site has handed over so far. The tables alone determine which
contributions are active, and the active ones determine what is published.

A file reaches the disk before the row that names it, so everything that was acknowledged is there.
A crash between the two leaves a file that no row names. It does no harm, and is used when the same
contribution comes again.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from sqlalchemy import Connection, insert, select

from polyclinic.errors import (
    InsideBatch,
    LedgerDamaged,
    LedgerError,
    LedgerNotFound,
    ModelInvalid,
    NothingToWithdraw,
)
from polyclinic.learning.state_dict import StateDict, load_state, save_state, state_digest
from polyclinic.store.entries import (
    Batch,
    Entry,
    JournalLine,
    Publication,
    Receipt,
    active_rows,
    as_batch,
    as_line,
    as_publication,
    base_digests,
    entries_version,
    first_hash,
    is_active,
    newest_hash,
    note_of,
    read_contributions,
    read_lines,
    read_standing,
)
from polyclinic.store.journal import (
    CONTRIBUTIONS,
    FILE,
    FORMAT,
    JOURNAL,
    Database,
    append,
    database_of,
    sqlite_url,
)
from polyclinic.store.refusals import ContributionDamaged, ContributionRefused
from polyclinic.store.requirements import Requirements, check_contribution, staleness_of
from polyclinic.store.verification import Fault, Progress, body_of, find_fault, holds_model
from polyclinic.system.durable import (
    DIGEST,
    copy_durably,
    file_digest,
    make_folder,
    remove_leftovers,
    replacing,
    sync_folder,
)
from polyclinic.system.text import canonical_json

Listed = TypeVar("Listed", Entry, Publication)
__all__ = ["Batch", "Entry", "Fault", "JournalLine", "Ledger", "Publication", "Receipt"]


class Ledger:
    """Ledger of one federation; several processes may have it open.

    Example:
        ```python
        with Ledger.open(Path("runs/brain/ledger"), create=False) as ledger:
            print([entry.site for entry in ledger.active()])
            ledger.withdraw("st-mary", "consent was withdrawn")
        ```
    """

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder = folder
        self._database = database
        # lists as they were read last, and their version then
        self._lists: dict[str, tuple[object, list[Any]]] = {}
        self._kept: dict[str, Entry] = {}  # by digest; of a contribution only its state changes

    @classmethod
    def open(cls, folder: Path, *, create: bool = True) -> "Ledger":
        """Open the ledger of a folder; by default, make one if there is none.

        Raises:
            LedgerNotFound: There is none and `create` is false.
            LedgerError: The database cannot be reached, or was made by a newer polyclinic.
        """
        found = database_of(folder)
        if found is None and not create:
            raise LedgerNotFound(folder)
        make_folder(folder)
        database = Database(*(found or (sqlite_url(folder / FILE), str(folder / FILE))))
        ledger = cls(folder, database)
        try:
            if not database.has_tables():
                if not create:
                    raise LedgerNotFound(folder)
                database.create_tables()
                sync_folder(folder)
            ledger._check_format()
            for name in ("contributions", "models"):
                make_folder(folder / name)
                remove_leftovers(folder / name)
        except BaseException:
            database.close()
            raise
        return ledger

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def identity(self) -> str:
        """Return the hash of the first line, which no other ledger has."""
        with self._database.reading() as connection:
            return first_hash(connection)

    def add_base(self, state: StateDict, note: str = "") -> str:
        """Make a model the current base and return its digest.

        Adding the newest base again changes nothing.
        """
        digest = self._store_model(state)
        with self._database.writing() as connection:
            if base_digests(connection)[-1:] != [digest]:
                append(connection, "base", "", digest, {"note": note})
        return digest

    def bases(self) -> list[str]:
        """Return the digests of all bases, oldest first; the last one is current."""
        with self._database.reading() as connection:
            return base_digests(connection)

    def roots(self) -> dict[str, str]:
        """Return the base on which each published model was made first, by the model's digest."""
        found: dict[str, str] = {}
        base = ""
        with self._database.reading() as connection:
            for line in read_lines(connection, ("base", "published")):
                if line.kind == "base":
                    base = line.subject
                else:
                    found.setdefault(line.subject, base)
        return found

    def base_notes(self) -> list[tuple[str, dict[str, Any]]]:
        """Return every base's digest and note, oldest first.

        A note that is not a JSON object is returned as an empty one.
        """
        with self._database.reading() as connection:
            return [(line.subject, note_of(line)) for line in read_lines(connection, ("base",))]

    def model_path(self, digest: str) -> Path:
        """Return the file of a base or of a published model.

        Raises:
            ModelInvalid: The ledger holds no model of that digest.
        """
        path = self._path_of("models", digest)
        if not DIGEST.fullmatch(digest) or not path.is_file():
            raise ModelInvalid(
                f"{self.folder}: the ledger has no model {digest[:12]}. "
                "`polyclinic-server models list` shows its models."
            )
        return path

    def contribution_path(self, digest: str) -> Path:
        """Return the file of a contribution, active or not."""
        return self._path_of("contributions", digest)

    def load_model(self, digest: str) -> StateDict:
        """Load a base or a published model.

        Raises:
            ModelInvalid: The ledger holds no model of that digest, or its file is damaged.
        """
        state, _ = load_state(self.model_path(digest))
        if (found := state_digest(state)) != digest:
            raise ModelInvalid(
                f"{self.model_path(digest)}: the file was changed, its digest is {found[:12]} now. "
                "Restore it from a backup."
            )
        return state

    def receive(
        self,
        source: Path,
        sender: str,
        requirements: Requirements,
        members: Mapping[str, str] | None = None,
    ) -> Receipt:
        """Check and store a contribution; once this returns, it survives a crash and a power cut.

        A contribution that is already stored is acknowledged again and changes nothing.

        Args:
            source: The file as it arrived; it stays where it is.
            sender: The site that sent it.
            requirements: What is accepted.
            members: Of a batch, the hospitals in it, each with the digest of its contribution.

        Raises:
            ContributionRefused: The reason why it was refused. The journal records it, once for
                each file and reason.
            DiskFull: No room.
        """
        digest = file_digest(source)
        with self._database.reading() as connection:
            known = self._receipt(connection, digest, sender)
        if known:
            return known
        try:
            norms = self._norms(sender) if requirements.max_norm_ratio else []
            contribution, norm = check_contribution(source, sender, requirements, norms)
            self._store_contribution(source, digest, sender)
        except ContributionRefused as refusal:
            self._note_refusal(sender, digest, refusal)
            raise
        row: dict[str, Any] = {
            **asdict(contribution),
            "metrics": canonical_json(contribution.metrics),
            "digest": digest,
            "norm": norm,
        }
        row |= {
            "bytes": source.stat().st_size,
            "staleness": staleness_of(contribution.base, requirements),
        }
        with self._database.writing() as connection:
            if known := self._receipt(connection, digest, sender):  # another process was faster
                return known
            line = append(connection, "contribution", sender, digest, body_of(row))
            connection.execute(insert(CONTRIBUTIONS).values(**row, sequence=line["sequence"]))
            if members is not None:
                append(connection, "batch", sender, digest, {"members": dict(members)})
            return Receipt(digest, line["sequence"], True, is_active(connection, sender, digest))

    def active(self, base: str | None = None) -> list[Entry]:
        """Return the active contribution of every site, sorted by site.

        Args:
            base: Return only contributions made on this base; None for all.
        """
        return sorted(
            (entry for entry in self._entries(only_active=True) if base in (None, entry.base)),
            key=lambda entry: entry.site,
        )

    def entries(self, site: str | None = None) -> list[Entry]:
        """Return all contributions ever received, oldest first; of one site if given."""
        if site is None:
            return self._entries(only_active=False)
        with self._database.reading() as connection:
            return self._read_entries(connection, only_active=False, site=site)

    def batches(self) -> list[Batch]:
        """Return all batches, oldest first, withdrawn or not."""
        with self._database.reading() as connection:
            return [as_batch(line) for line in read_lines(connection, ("batch",))]

    def withdraw(self, site: str, reason: str) -> None:
        """Withdraw all contributions of a site so far; what it hands over later is active again.

        Raises:
            NothingToWithdraw: The site has no active contribution.
            InsideBatch: It is in a secure sum, which can only be withdrawn as a whole.
        """
        with self._database.writing() as connection:
            active = active_rows(connection)
            if site not in active:
                for batch in map(as_batch, read_lines(connection, ("batch",))):
                    if site in batch.members and batch.name in active:
                        raise InsideBatch(site, batch.name, sorted(batch.members))
                raise NothingToWithdraw(site, sorted(active))
            append(connection, "withdrawn", site, active[site].digest, {"reason": reason})

    def publish(
        self, state: StateDict, recipe: Mapping[str, object], contributions: Sequence[str]
    ) -> Publication:
        """Store a model and how it was made; repeating the newest publication changes nothing.

        Args:
            state: The model.
            recipe: How it was made; must be JSON.
            contributions: Digests of the contributions that it was made from.

        Raises:
            LedgerError: The ledger lacks one of the contributions.
            DiskFull: No room.
        """
        digest = self._store_model(state)
        made: dict[str, Any] = {
            "recipe": json.loads(canonical_json(recipe)),
            "contributions": list(contributions),
            "digest": digest,
        }
        with self._database.writing() as connection:
            # nothing is ever removed: what was read before is still there
            unknown = [name for name in contributions if name not in self._kept]
            if unknown:
                known = set(connection.scalars(select(CONTRIBUTIONS.c.digest)))
                unknown = [name for name in unknown if name not in known]
            if unknown:
                raise LedgerError(
                    f"{self.folder}: the ledger has no contribution {unknown[0][:12]}. Publish "
                    "only what was made from its contributions."
                )
            newest = read_lines(connection, ("published",), limit=1)
            if newest and newest[-1].body == {**made, "number": newest[-1].body["number"]}:
                return as_publication(newest[-1])
            number = newest[-1].body["number"] + 1 if newest else 1
            return as_publication(
                as_line(append(connection, "published", "", digest, {**made, "number": number}))
            )

    def publications(self) -> list[Publication]:
        """Return all published models, oldest first."""
        return self._list(
            "publications",
            lambda connection: [
                as_publication(line) for line in read_lines(connection, ("published",))
            ],
            newest_hash,
        )

    def newest(self) -> str:
        """Return the hash of the journal's last line, which changes with all that is written."""
        with self._database.reading() as connection:
            return newest_hash(connection)

    def history(self, limit: int | None = None) -> list[JournalLine]:
        """Return the journal, oldest line first; with `limit`, only its last lines."""
        with self._database.reading() as connection:
            return read_lines(connection, (), limit)

    def verify(self, on_progress: Progress | None = None) -> Fault | None:
        """Check the hash chain, the rows, and every file; return the first fault.

        See `find_fault`.
        """
        with self._database.reading() as connection:
            return find_fault(connection, self._path_of, on_progress)

    def _entries(self, *, only_active: bool) -> list[Entry]:
        return self._list(
            "active" if only_active else "entries",
            lambda connection: self._read_entries(connection, only_active=only_active),
            entries_version,
        )

    def _read_entries(
        self, connection: Connection, *, only_active: bool, site: str | None = None
    ) -> list[Entry]:
        try:
            standing = read_standing(connection, only_active=only_active, site=site)
            fresh = [digest for digest in standing if digest not in self._kept]
            for row in read_contributions(connection, fresh):
                path = self._path_of("contributions", row["digest"])
                self._kept[row["digest"]] = Entry(**row, state="active", path=path)
        except (ValueError, TypeError) as error:
            raise LedgerDamaged(
                self._database.where, f"a row of its tables was changed ({error})"
            ) from error
        kept = ((self._kept[digest], state) for digest, state in standing.items())
        return [one if one.state == state else replace(one, state=state) for one, state in kept]

    def _list(
        self,
        what: str,
        read: Callable[[Connection], list[Listed]],
        version: Callable[[Connection], object],
    ) -> list[Listed]:
        """Return a list, read anew if its version is not that of the last time."""
        with self._database.reading() as connection:
            present = version(connection)
            known, found = self._lists.get(what, (None, []))
            if known != present:
                found = read(connection)
                self._lists[what] = present, found
        return list(found)

    def _path_of(self, kind: str, digest: str) -> Path:
        """Return the path of a file of `contributions` or `models`, whether or not it is there."""
        parts = (kind, digest[:2]) if kind == "contributions" else (kind,)
        return self.folder.joinpath(*parts, f"{digest}.safetensors")

    def _store_contribution(self, source: Path, digest: str, sender: str) -> None:
        path = self._path_of("contributions", digest)
        if path.is_file() and file_digest(path) == digest:  # its row was never written
            sync_folder(path.parent)
        elif copy_durably(source, path) != digest:
            raise ContributionDamaged(sender, "it changed while it was read")

    def _store_model(self, state: StateDict) -> str:
        digest = state_digest(state)
        path = self._path_of("models", digest)
        if not holds_model(path, digest):
            with replacing(path) as unfinished:
                save_state(state, unfinished, {})
        else:
            sync_folder(path.parent)
        return digest

    def _receipt(self, connection: Connection, digest: str, sender: str) -> Receipt | None:
        """Return the receipt of a contribution that its own site has handed over before."""
        columns = CONTRIBUTIONS.c
        sequence = connection.scalar(
            select(columns.sequence).where(columns.digest == digest, columns.site == sender)
        )
        if sequence is None:
            return None
        return Receipt(digest, sequence, False, is_active(connection, sender, digest))

    def _norms(self, sender: str) -> list[float]:
        return [entry.norm for entry in self._entries(only_active=True) if entry.site != sender]

    def _note_refusal(self, sender: str, digest: str, refusal: ContributionRefused) -> None:
        body = {"type": type(refusal).__name__, "sentence": str(refusal)}
        chosen = select(JOURNAL).where(
            JOURNAL.c.kind == "refused", JOURNAL.c.subject == digest, JOURNAL.c.site == sender
        )
        with self._database.writing() as connection:
            noted = {as_line(row).body["type"] for row in connection.execute(chosen).mappings()}
            if body["type"] not in noted:
                append(connection, "refused", sender, digest, body)

    def _check_format(self) -> None:
        try:
            with self._database.reading() as connection:
                (first,) = read_lines(connection, ("opened",), limit=1)
        except ValueError as error:
            raise LedgerDamaged(
                self._database.where, "the first line of its journal is not as it was written"
            ) from error
        written = first.body["format"]
        if written > FORMAT:
            raise LedgerError(
                f"{self._database.where}: was made by a newer polyclinic. Install that version."
            )
