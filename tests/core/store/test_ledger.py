import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from polyclinic.errors import LedgerDamaged, LedgerError, LedgerNotFound
from polyclinic.store.journal import ADDRESS, FILE, database_of, write_address
from polyclinic.store.ledger import Ledger
from tests.core.store.ledger_cases import hand_over, made, sound
from tests.core.store.ledger_damage import CASES, execute


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_in_sqlite(case: Callable[[Path], None], tmp_path: Path) -> None:
    case(tmp_path / "ledger")


def test_every_transaction_is_on_the_disk(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger, ledger._database.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 30_000


def test_a_row_cannot_be_replaced(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger:
        hand_over(ledger, "north")
        for table in ("journal", "contributions"):
            with pytest.raises(sqlite3.IntegrityError, match="only grows"):
                execute(
                    tmp_path / "ledger",
                    f"INSERT OR REPLACE INTO {table} SELECT * FROM {table} LIMIT 1",
                )
        assert sound(ledger)


def test_a_file_that_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database" * 1000)
    with pytest.raises(LedgerDamaged, match="file is not a database"):
        Ledger.open(tmp_path)


def test_metrics_that_are_no_longer_json_are_damage(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        hand_over(ledger, "north")
        execute(
            tmp_path,
            "DROP TRIGGER contributions_no_UPDATE",
            "UPDATE contributions SET metrics = '{'",
        )
        with pytest.raises(LedgerDamaged, match="a row of its tables was changed"):
            ledger.active()


def test_a_ledger_of_a_newer_polyclinic_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("journal", "ledger"):
        monkeypatch.setattr(f"polyclinic.store.{module}.FORMAT", 2)
    Ledger.open(tmp_path).close()
    monkeypatch.undo()
    with pytest.raises(LedgerError, match="newer polyclinic"):
        Ledger.open(tmp_path)


def test_an_interrupted_copy_leaves_nothing_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ledger.open(tmp_path / "ledger") as ledger:
        path = made(tmp_path / "ledger", "north")

        def interrupted(*arguments: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr("polyclinic.store.ledger.append", interrupted)
            with pytest.raises(KeyboardInterrupt):
                hand_over(ledger, "north")
        assert ledger.entries() == []
        assert sound(ledger)
        assert hand_over(ledger, "north").new
        assert ledger.entries()[0].path.read_bytes() == path.read_bytes()


def test_the_address_of_a_database_is_kept_from_others(tmp_path: Path) -> None:
    write_address(tmp_path / "new", "postgresql://user:secret@127.0.0.1:1/ledger")
    assert stat.S_IMODE((tmp_path / "new" / ADDRESS).stat().st_mode) == 0o600
    found = database_of(tmp_path / "new")
    assert found is not None
    assert found[0].drivername == "postgresql+psycopg"
    assert "secret" not in found[1]


def test_a_folder_keeps_its_database(tmp_path: Path) -> None:
    Ledger.open(tmp_path).close()
    with pytest.raises(LedgerError, match="has a ledger in"):
        write_address(tmp_path, "postgresql://127.0.0.1/ledger")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nonsense", "cannot be read"),
        ("mysql://host/x", "not in mysql"),
        ("postgresql://h:port/x", "cannot be read"),
    ],
)
def test_a_useless_address_is_explained(address: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=said):
        write_address(tmp_path, address)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_missing_stays_missing(tmp_path: Path) -> None:
    with pytest.raises(LedgerNotFound):
        Ledger.open(tmp_path / "none", create=False)
    assert list(tmp_path.iterdir()) == []
