"""A ledger: its database as a file, the lines of its journal, its address."""

import json
import sqlite3
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch

from polyclinic.errors import LedgerError
from polyclinic.store.journal import FILE as LEDGER_FILE
from polyclinic.store.journal import line_hash, parse_url
from polyclinic.store.ledger import Ledger
from polyclinic_server.cli.ledger_tables import _job_of, _summary
from tests.fuzz.messages import NAMES
from tests.fuzz.mutation import as_json, damaged, fault
from tests.fuzz.reader import Reader, text_reader


@cache
def _journal() -> tuple[bytes, tuple[dict[str, Any], ...]]:
    """Return a ledger's file, and the lines of its journal."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        with Ledger.open(folder) as ledger:
            state = {"a": torch.zeros(3)}
            ledger.add_base(state, json.dumps({"names": NAMES, "settings": {}}))
            ledger.publish({"a": torch.ones(3)}, {"rule": "mean", "parameters": {}}, [])
        with sqlite3.connect(folder / LEDGER_FILE) as plain:
            plain.execute("PRAGMA journal_mode=DELETE")
            plain.row_factory = sqlite3.Row
            lines = [dict(row) for row in plain.execute("SELECT * FROM journal")]
        plain.close()
        return (folder / LEDGER_FILE).read_bytes(), tuple(lines)


def _draw_journal(random: Random) -> bytes:
    """Write the file with other lines; half of them have a sound chain of hashes."""
    content, lines = _journal()
    if random.random() < 0.2:
        return damaged(content, random)
    others = [dict(line) for line in lines]
    chosen = random.choice(others)
    if random.random() < 0.7:
        chosen["body"] = as_json(json.loads(chosen["body"]), random).decode("utf-8", "replace")
    else:
        column = random.choice(("time", "kind", "site", "subject", "sequence"))
        chosen[column] = fault(random)
    plain = sqlite3.connect(":memory:")
    plain.deserialize(content)
    try:
        for (trigger,) in plain.execute(
            "SELECT name FROM sqlite_master WHERE type='trigger'"
        ).fetchall():
            plain.execute(f"DROP TRIGGER {trigger}")
        plain.execute("DELETE FROM journal")
        _insert(plain, others, chained=random.random() < 0.5)
        plain.commit()
        return plain.serialize()
    finally:
        plain.close()


def _insert(plain: sqlite3.Connection, lines: list[dict[str, Any]], *, chained: bool) -> None:
    previous = "0" * 64
    for line in lines:
        stored = {key: _storable(value) for key, value in line.items()}
        if chained:
            stored["previous"] = previous
            stored["hash"] = previous = line_hash(stored)
        marks = ", ".join("?" * len(stored))
        try:
            plain.execute(f"INSERT OR REPLACE INTO journal VALUES ({marks})", list(stored.values()))
        except sqlite3.Error:
            continue


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if value is None or isinstance(value, float) or (type(value) is int and abs(value) < 2**63):
        return value
    return str(value)


def _read_ledger(content: bytes, folder: Path) -> None:
    for old in folder.glob(f"{LEDGER_FILE}*"):
        old.unlink()
    (folder / LEDGER_FILE).write_bytes(content)
    with Ledger.open(folder, create=False) as ledger:
        for line in ledger.history():
            assert _summary(line) is not None
        ledger.publications(), ledger.entries(), ledger.active(), ledger.base_notes()
        assert ledger.identity
        for digest in ledger.bases():
            _job_of(ledger, digest)
        ledger.verify()


READERS = (
    Reader("ledger", _journal()[0], _draw_journal, _read_ledger, (LedgerError,)),
    Reader(
        "database-url",
        b"postgresql://user:password@host:5432/name",
        lambda random: damaged(b"postgresql://user:password@host:5432/name", random),
        text_reader(parse_url),
        (LedgerError,),
    ),
)
