"""The ledger's database: two tables that only grow, one hash chain through them, and what SQLite and PostgreSQL each need for that.

Every line of the journal carries the hash of the line before, so that a line that was changed,
removed or moved breaks the chain from there on. Only the removal of the last lines leaves a sound,
shorter chain: keep the newest hash elsewhere to notice that too.
"""

import json
import sqlite3
import time
import uuid
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

from polyclinic.config.compose import digest
from polyclinic.errors import LedgerDamaged, LedgerError
from polyclinic.system.durable import write_durably

FORMAT = 1
FILE, ADDRESS = "ledger.sqlite", "database.url"
START = "0" * 64  # what the first line names as the hash before it
PATIENCE_S = 30.0  # for another writer
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


class Database:
    """Where the two tables are.

    Args:
        url: Of SQLAlchemy, for SQLite or PostgreSQL.
        where: What errors call it; without a password.

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

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def has_tables(self) -> bool:
        """Whether the tables are there."""
        with self.reading() as connection:
            return inspect(connection).has_table("journal")

    def create_tables(self) -> None:
        """Make the tables and write the journal's first line, unless another process has."""
        with self.writing(tables=False) as connection:
            if inspect(connection).has_table("journal"):
                return
            TABLES.create_all(connection)
            for statement in _postgresql_triggers() if self._postgresql else _sqlite_triggers():
                connection.exec_driver_sql(statement)
            append(
                connection,
                "opened",
                "",
                "",
                {"format": FORMAT, "version": version("polyclinic"), "name": uuid.uuid4().hex},
            )

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One unchanging view of both tables."""
        options: dict[str, Any] = {"isolation_level": "REPEATABLE READ"} if self._postgresql else {}
        with self._plain_errors(), self._engine.connect() as connection:
            chosen = connection.execution_options(**options)
            with chosen.begin():
                yield chosen

    @contextmanager
    def writing(self, *, tables: bool = True) -> Iterator[Connection]:
        """One transaction, all or nothing, on the disk when it ends; one writer at a time."""
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
        except OperationalError as error:
            raise LedgerError(
                f"{self.where}: the database does not answer ({_first_line(error)}). Check it, "
                "then try again."
            ) from error
        except DatabaseError as error:
            if GROWS_ONLY in str(error.orig):
                raise LedgerError(
                    f"{self.where}: {GROWS_ONLY}, nothing in it is changed or removed."
                ) from error
            raise LedgerDamaged(
                self.where, f"the database reports an error ({_first_line(error)})"
            ) from error


def database_of(folder: Path) -> tuple[URL, str] | None:
    """A ledger folder's database, and what to call it; None if the folder has none.

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
    """The address of an SQLite file."""
    return URL.create("sqlite", database=str(path.absolute()))


def parse_url(text: str) -> URL:
    """A database's address; PostgreSQL is reached by psycopg.

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
    """Let a new ledger folder use another database; only the owner can read the address, which may hold a password.

    Raises:
        LedgerError: The address is of no use, or the folder has a ledger already.
    """
    url = parse_url(text).render_as_string(hide_password=False)
    found = database_of(folder)
    if found and found[0].render_as_string(hide_password=False) != url:
        raise LedgerError(f"{folder}: has a ledger in {found[1]} already. Choose a new folder.")
    write_durably(folder / ADDRESS, f"{url}\n".encode())


def append(
    connection: Connection, kind: str, site: str, subject: str, body: Mapping[str, object]
) -> RowMapping:
    """Add a line to the journal; returns it.

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
        "body": canonical(body),
        "previous": last.hash if last else START,
    }
    connection.execute(insert(JOURNAL).values(**line, hash=line_hash(line)))
    return (
        connection.execute(select(JOURNAL).where(JOURNAL.c.sequence == line["sequence"]))
        .mappings()
        .one()
    )


def line_hash(line: Mapping[str, object]) -> str:
    """SHA-256 of the canonical JSON of a line's other columns."""
    return digest({key: line[key] for key in JOURNAL.columns.keys() if key != "hash"})  # noqa: SIM118


def canonical(body: Mapping[str, object]) -> str:
    """JSON of which there is one way to write it.

    Raises:
        ValueError: NaN or Inf inside.
    """
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _prepare_sqlite(engine: Engine) -> None:
    """Transactions that we begin ourselves, each on the disk before it counts as done."""

    @event.listens_for(engine, "connect")
    def _connect(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself
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
    """Refuse changes and removals, and an insertion that would replace a row."""
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
    """Refuse changes, removals and emptying."""
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


def _first_line(error: DatabaseError) -> str:
    return str(error.orig).strip().split("\n", maxsplit=1)[0]
