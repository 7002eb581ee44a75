"""What a ledger's tables say: lines, publications, contributions, and which of those are active.

A site's active contribution is the one with the greatest (created, digest) of those that no withdrawal covers, so the order of arrival
does not matter. A withdrawal covers what the site had handed over before it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, Row, RowMapping, func, select

from polyclinic.journal import CONTRIBUTIONS, JOURNAL

State = Literal["active", "superseded", "withdrawn"]


@dataclass(frozen=True)
class Receipt:
    """What became of a contribution: whether it is new, and whether it is the one of its site that counts."""

    digest: str
    sequence: int
    new: bool
    active: bool


@dataclass(frozen=True)
class Entry:
    """A contribution in the ledger; `received` and `created` in seconds since 1970, by the coordinator's and the hospital's clock."""

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
class Publication:
    """A published model: its digest, and how and from which contributions it was made."""

    number: int
    time: float
    digest: str
    recipe: Mapping[str, Any]
    contributions: tuple[str, ...]


@dataclass(frozen=True)
class Line:
    """A line of the journal."""

    sequence: int
    time: float
    kind: str
    site: str
    subject: str
    body: Mapping[str, Any]
    previous: str
    hash: str


def read_lines(connection: Connection, kinds: Sequence[str] = (), limit: int | None = None) -> list[Line]:
    """Lines of the journal, oldest first; the last `limit` of them."""
    chosen = select(JOURNAL).order_by(JOURNAL.c.sequence.desc()).limit(limit)
    if kinds:
        chosen = chosen.where(JOURNAL.c.kind.in_(kinds))
    return [as_line(row) for row in connection.execute(chosen).mappings()][::-1]


def as_line(row: RowMapping) -> Line:
    """A row of the journal, its body parsed."""
    return Line(**{**row, "body": json.loads(row["body"])})


def as_publication(line: Line) -> Publication:
    """What a `published` line says."""
    return Publication(line.body["number"], line.time, line.subject, line.body["recipe"], tuple(line.body["contributions"]))


def first_row(connection: Connection) -> Mapping[str, Any]:
    """The line that opened the journal; empty if there is none."""
    return dict(connection.execute(select(JOURNAL).order_by(JOURNAL.c.sequence).limit(1)).mappings().first() or {})


def base_digests(connection: Connection) -> list[str]:
    """Digests of all bases, oldest first."""
    return list(connection.scalars(select(JOURNAL.c.subject).where(JOURNAL.c.kind == "base").order_by(JOURNAL.c.sequence)))


def is_active(connection: Connection, site: str, digest: str) -> bool:
    """Whether a contribution is the one of its site that counts."""
    newest = active_rows(connection, site).get(site)
    return newest is not None and newest.digest == digest


def active_rows(connection: Connection, site: str | None = None) -> dict[str, Row[Any]]:
    """Digest, site, sequence, created and norm of every active contribution, by site; of one site alone, if it is given."""
    columns = CONTRIBUTIONS.c
    chosen = select(columns.digest, columns.site, columns.sequence, columns.created, columns.norm)
    if site is not None:
        chosen = chosen.where(columns.site == site)
    return _newest(connection.execute(chosen), _withdrawals(connection))


def read_entries(connection: Connection) -> list[dict[str, Any]]:
    """Every contribution as the fields of an `Entry` but its path, oldest first."""
    withdrawals = _withdrawals(connection)
    chosen = select(CONTRIBUTIONS, JOURNAL.c.time.label("received")).join(JOURNAL, JOURNAL.c.sequence == CONTRIBUTIONS.c.sequence)
    rows = connection.execute(chosen.order_by(CONTRIBUTIONS.c.sequence)).all()
    active = {row.digest for row in _newest(rows, withdrawals).values()}
    found = []
    for row in rows:
        standing = "withdrawn" if row.sequence < withdrawals.get(row.site, 0) else "active" if row.digest in active else "superseded"
        found.append({**row._mapping, "metrics": json.loads(row.metrics), "state": standing})
    return found


def _withdrawals(connection: Connection) -> dict[str, int]:
    """The newest withdrawal of every site that has one."""
    chosen = (
        select(JOURNAL.c.site, func.max(JOURNAL.c.sequence).label("newest")).where(JOURNAL.c.kind == "withdrawn").group_by(JOURNAL.c.site)
    )
    return {row.site: row.newest for row in connection.execute(chosen)}


def _newest(rows: Iterable[Row[Any]], withdrawals: Mapping[str, int]) -> dict[str, Row[Any]]:
    found: dict[str, Row[Any]] = {}
    for row in rows:
        if row.sequence < withdrawals.get(row.site, 0):
            continue
        if row.site not in found or (row.created, row.digest) > (found[row.site].created, found[row.site].digest):
            found[row.site] = row
    return found
