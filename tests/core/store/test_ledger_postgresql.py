"""The same cases in a real PostgreSQL, which the tests start on loopback and stop at the end."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from polyclinic.errors import LedgerError
from polyclinic.store.journal import ADDRESS, write_address
from polyclinic.store.ledger import Ledger
from polyclinic.system.processes import free_port
from tests.core.store.ledger_cases import hand_over, sound
from tests.core.store.ledger_damage import CASES, execute

psycopg = pytest.importorskip("psycopg")


def find_program(name: str) -> str | None:
    """Debian keeps PostgreSQL's own programs off the path."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(installed[-1]) if installed else shutil.which(name)


def account() -> str | None:
    """PostgreSQL refuses to run as root; None where we are somebody else already."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in known), None)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Return the address of a running PostgreSQL, without the name of a database."""
    initdb, pg_ctl = find_program("initdb"), find_program("pg_ctl")
    if not initdb or not pg_ctl:
        pytest.skip("PostgreSQL's programs initdb and pg_ctl are not installed")
    user = account()
    if os.geteuid() == 0 and user is None:
        pytest.skip(
            "PostgreSQL does not run as root, and there is no account 'postgres' or 'nobody'"
        )
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    if user:
        shutil.chown(folder, user)
    owner: dict[str, Any] = (
        {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}
    )

    def call(*command: str) -> None:
        subprocess.run(
            command,
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            timeout=60,
            **owner,
        )

    data, port = folder / "data", free_port()
    options = f"-c listen_addresses=127.0.0.1 -p {port} -c unix_socket_directories=''"
    try:
        call(initdb, "-D", str(data), "-U", "polyclinic", "-A", "trust", "-E", "UTF8", "--locale=C")
        call(pg_ctl, "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql://polyclinic@127.0.0.1:{port}"
        finally:
            call(pg_ctl, "-D", str(data), "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def place(server: str, tmp_path: Path) -> Iterator[Path]:
    """Make a ledger folder with a database of its own."""
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS ledger WITH (FORCE)")
        connection.execute("CREATE DATABASE ledger")
    folder = tmp_path / "ledger"
    write_address(folder, f"{server}/ledger")
    yield folder
    assert not list(tmp_path.glob("ledger/*.sqlite"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_in_postgresql(case: Callable[[Path], None], place: Path) -> None:
    case(place)


def test_the_tables_cannot_be_emptied(place: Path) -> None:
    with Ledger.open(place) as ledger:
        hand_over(ledger, "north")
        for table in ("journal", "contributions"):
            with pytest.raises(psycopg.errors.RaiseException, match="only grows"):
                execute(place, f"TRUNCATE {table}")
        assert sound(ledger)


def test_a_connection_that_was_cut_is_made_anew(place: Path) -> None:
    with Ledger.open(place) as ledger:
        hand_over(ledger, "north")
        execute(
            place,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'ledger' AND "
            "pid <> pg_backend_pid()",
        )
        assert hand_over(ledger, "south").new
        assert sound(ledger)


def test_a_database_that_does_not_answer_is_said(tmp_path: Path) -> None:
    (tmp_path / ADDRESS).write_text(
        f"postgresql+psycopg://user:secret@127.0.0.1:{free_port()}/ledger\n"
    )
    with pytest.raises(LedgerError, match="does not answer") as refused:
        Ledger.open(tmp_path)
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)
