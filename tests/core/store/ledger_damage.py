"""Damage that `verify` must find, whatever the ledger's database."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from polyclinic.errors import LedgerDamaged
from polyclinic.store.journal import database_of, line_hash
from polyclinic.store.ledger import Ledger
from tests.core.store.ledger_cases import CASES, case, flip, hand_over, model, sound

__all__ = ["CASES"]


@case
def the_database_refuses_changes(place: Path) -> None:
    with Ledger.open(place) as ledger:
        hand_over(ledger, "north")
        for statement in (
            "UPDATE journal SET site = 'south'",
            "UPDATE contributions SET num_examples = 1000",
            "DELETE FROM journal",
            "DELETE FROM contributions",
        ):
            with pytest.raises(Exception, match="the ledger only grows"):
                execute(place, statement)
        assert sound(ledger)


@case
def verify_finds_every_kind_of_damage(place: Path) -> None:
    with Ledger.open(place) as ledger:
        digests = [hand_over(ledger, site).digest for site in ("north", "south")]
        published = ledger.publish(model(1.0), {"rule": "mean"}, digests)
        blob, weights = ledger.entries()[0].path, ledger.model_path(published.digest)
        for path, said in ((blob, "a contribution's file"), (weights, "a model's file")):
            whole = path.read_bytes()
            flip(path)
            assert_fault(ledger, f"{said} was changed", str(path))
            path.unlink()
            assert_fault(ledger, f"{said} is missing", str(path))
            path.write_bytes(whole)
            assert sound(ledger)


@case
def verify_finds_an_edited_row(place: Path) -> None:
    with Ledger.open(place) as ledger:
        hand_over(ledger, "north")
        tamper(place, "UPDATE contributions SET num_examples = 1000")
        assert_fault(ledger, "a contribution's num_examples was changed", "of north")


@case
def verify_finds_a_removed_row(place: Path) -> None:
    with Ledger.open(place) as ledger:
        hand_over(ledger, "north")
        tamper(place, "DELETE FROM contributions")
        assert_fault(ledger, "a contribution is missing from its table", "of north")


@case
def verify_finds_an_edited_line(place: Path) -> None:
    with Ledger.open(place) as ledger:
        for site in ("north", "south"):
            hand_over(ledger, site)
        tamper(place, "UPDATE journal SET time = time + 1 WHERE sequence = 2")
        assert_fault(ledger, "a journal line was changed", "journal line 2")


@case
def verify_finds_a_removed_line(place: Path) -> None:
    with Ledger.open(place) as ledger:
        for site in ("north", "south"):
            hand_over(ledger, site)
        ledger.withdraw("north", "")
        tamper(place, "DELETE FROM journal WHERE sequence = 2")
        assert_fault(ledger, "a journal line is missing", "before journal line 3")
        tamper(
            place,
            "UPDATE journal SET sequence = sequence - 1 WHERE sequence = 3",
            "UPDATE journal SET sequence = 3 WHERE sequence = 4",
        )
        assert_fault(ledger, "the chain is broken", "journal line 2")


@case
def verify_finds_a_removed_last_line_of_a_contribution(place: Path) -> None:
    with Ledger.open(place) as ledger:
        hand_over(ledger, "north")
        tamper(place, "DELETE FROM journal WHERE sequence = 2")
        assert_fault(ledger, "a contribution has no journal line", "of north")


@case
def verify_finds_an_emptied_journal(place: Path) -> None:
    with Ledger.open(place) as ledger:
        tamper(place, "DELETE FROM journal")
        assert_fault(ledger, "the journal is empty", "journal")
        with pytest.raises(LedgerDamaged, match="first line"):
            Ledger.open(place)


@case
def verify_finds_a_chain_in_another_order(place: Path) -> None:
    with Ledger.open(place) as ledger:
        for site in ("north", "south"):
            hand_over(ledger, site)
        tamper(
            place,
            "UPDATE journal SET sequence = 100 WHERE sequence = 2",
            "UPDATE journal SET sequence = 2 WHERE sequence = 3",
            "UPDATE journal SET sequence = 3 WHERE sequence = 100",
        )
        assert_fault(ledger, "the chain is broken", "journal line 2")


@case
def verify_finds_a_line_whose_hash_was_made_anew(place: Path) -> None:
    with Ledger.open(place) as ledger:
        for site in ("north", "south"):
            hand_over(ledger, site)
        (line,) = (line for line in ledger.history() if line.sequence == 2)
        changed = {
            **vars(line),
            "site": "west",
            "body": json.dumps(line.body, sort_keys=True, separators=(",", ":")),
        }
        tamper(
            place,
            f"UPDATE journal SET site = 'west', hash = '{line_hash(changed)}' WHERE sequence = 2",
        )
        assert_fault(ledger, "the chain is broken", "journal line 3")


def assert_fault(ledger: Ledger, what: str, where: str) -> None:
    fault = ledger.verify()
    assert fault is not None
    assert fault.what == what
    assert where in fault.where
    assert fault.expected != fault.found
    assert what in str(fault)


def execute(place: Path, *statements: str) -> None:
    """By another way than the ledger's own."""
    found = database_of(place)
    assert found is not None
    url = found[0]
    if url.get_backend_name() == "sqlite":
        connection: Any = sqlite3.connect(str(url.database))
    else:
        import psycopg

        connection = psycopg.connect(
            url.set(drivername="postgresql").render_as_string(hide_password=False)
        )
    try:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    finally:
        connection.close()


def tamper(place: Path, *statements: str) -> None:
    """As an intruder who first removes what guards the tables."""
    found = database_of(place)
    assert found is not None
    if found[0].get_backend_name() == "sqlite":
        changes = ("UPDATE", "DELETE", "replacement")
        guards = [
            f"DROP TRIGGER IF EXISTS {table}_no_{change}"
            for table in ("journal", "contributions")
            for change in changes
        ]
    else:
        guards = [
            f"DROP TRIGGER IF EXISTS {table}_grows_only ON {table}"
            for table in ("journal", "contributions")
        ]
    execute(place, *guards, *statements)
