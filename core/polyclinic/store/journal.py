"""Database of a ledger: two tables that only grow, and a hash chain through the journal.

Every line of the journal holds the hash of the line before, so that a line that was changed,
removed or moved breaks the chain from there on. Removing the last lines leaves a sound, shorter
chain: keep the newest hash in another place to notice that too. The module also holds what SQLite
and PostgreSQL each need for this.
"""

import sqlite3
import time
import uuid
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Engine,
    Index,
    MetaData,
    RowMapping,
    String,
    Table,
    Text,
    create_engine,
    event,
    insert,
    inspect,
    select,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError

from polyclinic.errors import LedgerDamaged, LedgerError
from polyclinic.system.durable import write_durably
from polyclinic.system.text import canonical_json, first_line, json_digest

FORMAT = 1
FILE, ADDRESS = "ledger.sqlite", "database.url"
START = "0" * 64  # the previous hash of the first line
PATIENCE_S = 30.0  # how long to wait for another writer
GROWS_ONLY = "the ledger only grows"
TABLES = MetaData()
CONTRIBUTIONS = Table(
    "contributions",
    TABLES,
    Column("digest", String(64), primary_key=True),
    Column("sequence", BigInteger, nullable=False, unique=True),
    Column("site", Text, nullable=False),
    Column("base", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("num_examples", BigInteger, nullable=False),
    Column("metrics", Text, nullable=False),
    Column("created", Double, nullable=False),
    Column("version", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("norm", Double, nullable=False),
    Column("staleness", BigInteger, nullable=False),
    Index("contributions_site", "site", "created", "digest"),
)
JOURNAL = Table(
    "journal",
    TABLES,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("time", Double, nullable=False),
    Column("kind", Text, nullable=False),
    Column("site", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Index("journal_subject", "subject"),
    Index("journal_kind", "kind"),
)
KEYS = {"contributions": "digest", "journal": "sequence"}


class LineInvalid(ValueError):
    """A line of the journal is not what its kind says; the text says how."""


class Database:
    """Connection to the two tables.

    Args:
        url: SQLAlchemy's address, for SQLite or PostgreSQL.
        where: Name of the database in error messages, without a password.

    Raises:
        LedgerError: Another kind of database, or its driver is not installed.
    """

    def __init__(self, url: URL, where: str) -> None:
        self.where = where
        try:
            self._engine = create_engine(url, pool_pre_ping=url.get_backend_name() != "sqlite")
        except ModuleNotFoundError as error:
            raise LedgerError(
                f"{where}: {error.name} is not installed. Install polyclinic with its extra "
                "'postgresql'."
            ) from error
        self._postgresql = url.get_backend_name() == "postgresql"
        if not self._postgresql:
            _prepare_sqlite(self._engine)
        # Python 3.13 warns of a connection that nobody closed
        weakref.finalize(self, self._engine.dispose)

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def has_tables(self) -> bool:
        """Tell whether the tables exist."""
        with self.reading() as connection:
            return inspect(connection).has_table("journal")

    def create_tables(self) -> None:
        """Make the tables and write the journal's first line, unless this is already done."""
        with self.writing(tables=False) as connection:
            if inspect(connection).has_table("journal"):
                return
            TABLES.create_all(connection)
            for statement in _postgresql_triggers() if self._postgresql else _sqlite_triggers():
                connection.exec_driver_sql(statement)
            body = {"format": FORMAT, "version": version("polyclinic"), "name": uuid.uuid4().hex}
            append(connection, "opened", "", "", body)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Yield a connection that sees one unchanging state of both tables."""
        options: dict[str, Any] = {"isolation_level": "REPEATABLE READ"} if self._postgresql else {}
        with self._plain_errors(), self._engine.connect() as connection:
            chosen = connection.execution_options(**options)
            with chosen.begin():
                yield chosen

    @contextmanager
    def writing(self, *, tables: bool = True) -> Iterator[Connection]:
        """Yield a connection for one transaction, all or nothing; one writer at a time.

        The transaction is on the disk when the block ends.
        """
        with self._plain_errors(), self._engine.connect() as connection:
            chosen = connection.execution_options(writes=True)
            with chosen.begin():
                if self._postgresql:
                    chosen.exec_driver_sql("SET LOCAL synchronous_commit TO on")
                    chosen.exec_driver_sql(
                        "LOCK TABLE journal IN EXCLUSIVE MODE"
                        if tables
                        else "SELECT pg_advisory_xact_lock(hashtext('polyclinic'))"
                    )
                yield chosen

    @contextmanager
    def _plain_errors(self) -> Iterator[None]:
        try:
            yield
        except LineInvalid as error:
            raise LedgerDamaged(self.where, str(error)) from error
        except OperationalError as error:
            raise LedgerError(
                f"{self.where}: the database does not answer ({first_line(error.orig)}). Check it, "
                "then try again."
            ) from error
        except DatabaseError as error:
            if GROWS_ONLY in str(error.orig):
                raise LedgerError(
                    f"{self.where}: {GROWS_ONLY}, nothing in it is changed or removed."
                ) from error
            raise LedgerDamaged(
                self.where, f"the database reports an error ({first_line(error.orig)})"
            ) from error


def database_of(folder: Path) -> tuple[URL, str] | None:
    """Return the address of a folder's database and its name in messages; None if there is none.

    Raises:
        LedgerError: `database.url` is not an address of SQLite or PostgreSQL.
    """
    if (folder / ADDRESS).is_file():
        url = parse_url((folder / ADDRESS).read_text().strip())
        return url, url.render_as_string(hide_password=True)
    if (folder / FILE).is_file():
        return sqlite_url(folder / FILE), str(folder / FILE)
    return None


def sqlite_url(path: Path) -> URL:
    """Return the address of an SQLite file."""
    return URL.create("sqlite", database=str(path.absolute()))


def parse_url(text: str) -> URL:
    """Parse a database's address; psycopg is the driver for PostgreSQL.

    Raises:
        LedgerError: Neither SQLite nor PostgreSQL.
    """
    try:
        url = make_url(text)
        kind = url.get_backend_name()
    except (ArgumentError, ValueError) as error:
        raise LedgerError(
            "The database's address cannot be read. Write "
            "postgresql://USER:PASSWORD@HOST:PORT/DATABASE."
        ) from error
    if kind not in ("sqlite", "postgresql"):
        raise LedgerError(
            f"A ledger lives in SQLite or PostgreSQL, not in {kind}. Write "
            "postgresql://USER:PASSWORD@HOST:PORT/DATABASE."
        )
    return url.set(drivername="postgresql+psycopg") if kind == "postgresql" else url


def write_address(folder: Path, text: str) -> None:
    """Make a new ledger folder use another database.

    Only the owner can read the address, which may hold a password.

    Raises:
        LedgerError: The address is invalid, or the folder has a ledger already.
    """
    url = parse_url(text).render_as_string(hide_password=False)
    found = database_of(folder)
    if found and found[0].render_as_string(hide_password=False) != url:
        raise LedgerError(f"{folder}: has a ledger in {found[1]} already. Choose a new folder.")
    write_durably(folder / ADDRESS, f"{url}\n".encode())


def append(
    connection: Connection, kind: str, site: str, subject: str, body: Mapping[str, object]
) -> RowMapping:
    """Add a line to the journal and return it.

    Raises:
        ValueError: `body` is not JSON, or holds NaN.
    """
    last = connection.execute(
        select(JOURNAL.c.sequence, JOURNAL.c.hash).order_by(JOURNAL.c.sequence.desc()).limit(1)
    ).first()
    line = {
        "sequence": last.sequence + 1 if last else 1,
        "time": time.time(),
        "kind": kind,
        "site": site,
        "subject": subject,
        "body": canonical_json(body),
        "previous": last.hash if last else START,
    }
    connection.execute(insert(JOURNAL).values(**line, hash=line_hash(line)))
    added = select(JOURNAL).where(JOURNAL.c.sequence == line["sequence"])
    return connection.execute(added).mappings().one()


def line_hash(line: Mapping[str, object]) -> str:
    """Return the SHA-256 of the canonical JSON of a line's other columns."""
    return json_digest({key: line[key] for key in JOURNAL.columns.keys() if key != "hash"})  # noqa: SIM118


def _prepare_sqlite(engine: Engine) -> None:
    """Set up SQLite: explicit transactions, each flushed to the disk before it counts as done."""

    @event.listens_for(engine, "connect")
    def _connect(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # the driver begins no transaction by itself
        for setting in (
            f"busy_timeout={int(1000 * PATIENCE_S)}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "recursive_triggers=ON",
        ):
            connection.execute(f"PRAGMA {setting}").close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(
            "BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN"
        )


def _sqlite_triggers() -> list[str]:
    """Return triggers that refuse changes, removals, and insertions that would replace a row."""
    refuse = f"BEGIN SELECT RAISE(ABORT, '{GROWS_ONLY}'); END"
    made = []
    for table, key in KEYS.items():
        made += [
            f"CREATE TRIGGER {table}_no_{change} BEFORE {change} ON {table} {refuse}"
            for change in ("UPDATE", "DELETE")
        ]
        taken = f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {key} = NEW.{key})"
        made.append(
            f"CREATE TRIGGER {table}_no_replacement BEFORE INSERT ON {table} {taken} {refuse}"
        )
    return made


def _postgresql_triggers() -> list[str]:
    """Return triggers that refuse changes, removals and emptying."""
    function = (
        "CREATE OR REPLACE FUNCTION polyclinic_grows_only() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{GROWS_ONLY}'; END $$"
    )
    call = "FOR EACH STATEMENT EXECUTE FUNCTION polyclinic_grows_only()"
    return [
        function,
        *(
            f"CREATE TRIGGER {table}_grows_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            f"{call}"
            for table in KEYS
        ),
    ]
