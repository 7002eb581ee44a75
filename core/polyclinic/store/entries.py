"""Queries on a ledger's tables: journal lines, publications, contributions and their state.

The active contribution of a site is the one with the greatest (created, digest) among those that no
withdrawal covers, so the order of arrival does not matter. A withdrawal covers everything that the
site had handed over before.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, Row, RowMapping, Subquery, case, func, select

from polyclinic.store.journal import CONTRIBUTIONS, JOURNAL, LineInvalid
from polyclinic.system.text import parse_json

State = Literal["active", "superseded", "withdrawn"]
AT_ONCE = 500  # digests in one question
# what the bodies of lines hold, by their kind; of a security folder's journal, too
FIELDS: Mapping[str, Mapping[str, Any]] = {
    "opened": {"format": int},
    "contribution": {"num_examples": int, "bytes": int, "norm": int | float},
    "batch": {"members": dict},
    "refused": {"type": str, "sentence": str},
    "withdrawn": {"reason": str},
    "published": {"number": int, "recipe": dict, "contributions": list},
    "enrolled": {"key": str},
    "revoked": {"reason": str},
    "deed": {"deed": str, "reason": str},
}


@dataclass(frozen=True)
class Receipt:
    """Answer to a contribution: whether it is new, and whether it is its site's active one."""

    digest: str
    sequence: int
    new: bool
    active: bool


@dataclass(frozen=True)
class Entry:
    """A contribution in the ledger.

    `received` and `created` are seconds since 1970, by the coordinator's and the hospital's clock.
    """

    digest: str
    sequence: int
    site: str
    base: str
    task: str
    num_examples: int
    metrics: Mapping[str, float]
    created: float
    version: str
    bytes: int
    norm: float
    staleness: int
    state: State
    received: float
    path: Path


@dataclass(frozen=True)
class Batch:
    """A secure sum of several hospitals' contributions, which is one contribution of the ledger.

    Attributes:
        name: What stands for a hospital's name; no hospital can have it.
        digest: The contribution.
        members: Hospitals in the sum, each with the digest of what it put into it.
    """

    name: str
    digest: str
    members: Mapping[str, str]


@dataclass(frozen=True)
class Publication:
    """A published model: its digest, how it was made, and from which contributions."""

    number: int
    time: float
    digest: str
    recipe: Mapping[str, Any]
    contributions: tuple[str, ...]


@dataclass(frozen=True)
class JournalLine:
    """A line of the journal."""

    sequence: int
    time: float
    kind: str
    site: str
    subject: str
    body: Mapping[str, Any]
    previous: str
    hash: str


def read_lines(
    connection: Connection, kinds: Sequence[str] = (), limit: int | None = None
) -> list[JournalLine]:
    """Return lines of the journal, oldest first; with `limit`, only the last ones."""
    number = JOURNAL.c.sequence
    last = select(number).order_by(number.desc()).limit(limit)
    if kinds:
        last = last.where(JOURNAL.c.kind.in_(kinds))
    # chosen by their numbers alone: a line of a large federation is long
    chosen = select(JOURNAL).where(number.in_(last)).order_by(number)
    return [as_line(row) for row in connection.execute(chosen).mappings()]


def newest_hash(connection: Connection) -> str:
    """Return the hash of the journal's last line, which changes with everything that is written."""
    chosen = select(JOURNAL.c.hash).order_by(JOURNAL.c.sequence.desc()).limit(1)
    return str(connection.execute(chosen).scalar())


def as_line(row: RowMapping) -> JournalLine:
    """Return a row of the journal with its body parsed.

    Raises:
        LineInvalid: It is not what was written.
    """
    where = f"line {str(row['sequence'])[:20]} of its journal was changed"
    texts = (row["kind"], row["site"], row["subject"], row["body"], row["previous"], row["hash"])
    numbers = isinstance(row["sequence"], int) and isinstance(row["time"], int | float)
    if not numbers or not all(isinstance(text, str) for text in texts):
        raise LineInvalid(where)
    try:
        body = parse_json(row["body"])
    except ValueError as error:
        raise LineInvalid(f"{where}: its body is not JSON") from error
    fields = FIELDS.get(row["kind"], {})
    if not isinstance(body, dict) or not all(
        isinstance(body.get(name), kind) for name, kind in fields.items()
    ):
        raise LineInvalid(f"{where}: its body lacks {', '.join(fields) or 'fields'}")
    return JournalLine(**{**row, "body": body})


def note_of(line: JournalLine) -> dict[str, Any]:
    """Return the note of a `base` line if it is a JSON object; else an empty one."""
    try:
        note = parse_json(str(line.body.get("note")))
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}


def as_publication(line: JournalLine) -> Publication:
    """Return the publication that a `published` line describes."""
    return Publication(
        line.body["number"],
        line.time,
        line.subject,
        line.body["recipe"],
        tuple(line.body["contributions"]),
    )


def as_batch(line: JournalLine) -> Batch:
    """Return the batch that a `batch` line describes."""
    members = {str(site): str(digest) for site, digest in line.body["members"].items()}
    return Batch(line.site, line.subject, members)


def first_hash(connection: Connection) -> str:
    """Return the hash of the line that opened the journal.

    Raises:
        LineInvalid: There is none.
    """
    chosen = select(JOURNAL.c.hash).order_by(JOURNAL.c.sequence).limit(1)
    found = connection.execute(chosen).scalar()
    if not isinstance(found, str):
        raise LineInvalid("the first line of its journal is missing")
    return found


def base_digests(connection: Connection) -> list[str]:
    """Return the digests of all bases, oldest first."""
    bases = select(JOURNAL.c.subject).where(JOURNAL.c.kind == "base")
    return list(connection.scalars(bases.order_by(JOURNAL.c.sequence)))


def is_active(connection: Connection, site: str, digest: str) -> bool:
    """Tell whether a contribution is its site's active one."""
    newest = active_rows(connection, site).get(site)
    return newest is not None and newest.digest == digest


def active_rows(connection: Connection, site: str | None = None) -> dict[str, Row[Any]]:
    """Return digest, site and norm of every active contribution, by site; of one site if given."""
    return {row.site: row for row in connection.execute(select(_active(site)))}


def entries_version(connection: Connection) -> tuple[int, int]:
    """Return the newest contribution and the newest withdrawal: with neither, no entry changes."""
    withdrawn = select(func.max(JOURNAL.c.sequence)).where(JOURNAL.c.kind == "withdrawn")
    newest = connection.execute(select(func.max(CONTRIBUTIONS.c.sequence))).scalar()
    return int(newest or 0), int(connection.execute(withdrawn).scalar() or 0)


def read_standing(
    connection: Connection, *, only_active: bool, site: str | None = None
) -> dict[str, State]:
    """Return whether each contribution is active, superseded or withdrawn, oldest first.

    Args:
        connection: Of the ledger.
        only_active: Whether to leave out the others.
        site: Only this one's, if given.
    """
    active, withdrawals = _active(site), _withdrawals()
    standing = case(
        (active.c.digest.is_not(None), "active"),
        (CONTRIBUTIONS.c.sequence < withdrawals.c.sequence, "withdrawn"),
        else_="superseded",
    )
    chosen = (
        select(CONTRIBUTIONS.c.digest, standing)
        .join(active, active.c.digest == CONTRIBUTIONS.c.digest, isouter=not only_active)
        .join(withdrawals, withdrawals.c.site == CONTRIBUTIONS.c.site, isouter=True)
        .order_by(CONTRIBUTIONS.c.sequence)
    )
    if site is not None:
        chosen = chosen.where(CONTRIBUTIONS.c.site == site)
    return {row[0]: row[1] for row in connection.execute(chosen)}


def read_contributions(connection: Connection, digests: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield contributions as the fields of an `Entry` without its state and its path.

    Raises:
        ValueError: A row's metrics are not JSON.
    """
    chosen = select(CONTRIBUTIONS, JOURNAL.c.time.label("received")).join(
        JOURNAL, JOURNAL.c.sequence == CONTRIBUTIONS.c.sequence
    )
    for start in range(0, len(digests), AT_ONCE):
        some = digests[start : start + AT_ONCE]
        rows = connection.execute(chosen.where(CONTRIBUTIONS.c.digest.in_(some)))
        for row in rows.mappings():
            yield {**row, "metrics": parse_json(row["metrics"])}


def _withdrawals() -> Subquery:
    """Select the newest withdrawal of every site that has one."""
    newest = func.max(JOURNAL.c.sequence).label("sequence")
    return (
        select(JOURNAL.c.site, newest)
        .where(JOURNAL.c.kind == "withdrawn")
        .group_by(JOURNAL.c.site)
        .subquery()
    )


def _active(site: str | None = None) -> Subquery:
    """Select, for every site, the greatest (created, digest) that no withdrawal covers."""
    columns, withdrawals = CONTRIBUTIONS.c, _withdrawals()
    rank = func.row_number().over(
        partition_by=columns.site, order_by=(columns.created.desc(), columns.digest.desc())
    )
    ranked = (
        select(columns.digest, columns.site, columns.norm, rank.label("rank"))
        .join(withdrawals, withdrawals.c.site == columns.site, isouter=True)
        .where(columns.sequence > func.coalesce(withdrawals.c.sequence, 0))
    )
    if site is not None:
        ranked = ranked.where(columns.site == site)
    found = ranked.subquery()
    return select(found.c.digest, found.c.site, found.c.norm).where(found.c.rank == 1).subquery()
