"""Verification that a ledger still holds what was written: the hash chain, the rows, the files."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from sqlalchemy import Connection, RowMapping, select
from torch import Tensor

from polyclinic.learning.state_dict import state_digest
from polyclinic.store.entries import as_line
from polyclinic.store.journal import CONTRIBUTIONS, JOURNAL, START, line_hash
from polyclinic.system.durable import file_digest
from polyclinic.system.text import canonical_json, first_line

OPEN: Any = safe_open  # safetensors is only partly typed
Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class Fault:
    """The first difference between what a ledger holds and what was written."""

    what: str
    where: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.what} ({self.where}): expected {self.expected}, found {self.found}"


class StoredModel(Mapping[str, Tensor]):
    """Tensors of a model, read from its file one at a time."""

    def __init__(self, path: Path) -> None:
        self._file = OPEN(path, framework="pt")
        self._names = sorted(self._file.keys())

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def find_fault(
    connection: Connection, path_of: Callable[[str, str], Path], on_progress: Progress | None = None
) -> Fault | None:
    """Return the first fault, or None.

    Args:
        connection: A connection that sees one unchanging state of the tables.
        path_of: Where the file of a digest belongs; the first argument is `contributions` or
            `models`.
        on_progress: Called after each `line`, `file` and `model` with the number checked so far.
    """
    told = on_progress or (lambda _what, _count: None)
    fault = _check_chain(connection, told)
    if fault:
        return fault
    try:
        lines = _bodies(connection)
    except ValueError as error:
        return Fault("a journal line cannot be read", "journal", "as it was written", str(error))
    return (
        _check_rows(connection, lines)
        or _check_files(connection, path_of, told)
        or _check_models(lines, path_of, told)
    )


def _check_chain(connection: Connection, told: Progress) -> Fault | None:
    previous, count = START, 0
    for line in connection.execute(select(JOURNAL).order_by(JOURNAL.c.sequence)).mappings():
        count += 1
        where = f"journal line {line['sequence']}"
        if line["sequence"] != count:
            return Fault(
                "a journal line is missing",
                f"before {where}",
                f"line {count}",
                f"line {line['sequence']}",
            )
        if line["previous"] != previous:
            return Fault(
                "the chain is broken", where, f"previous hash {previous}", str(line["previous"])
            )
        if line["hash"] != (hashed := line_hash(dict(line))):
            return Fault("a journal line was changed", where, f"hash {line['hash']}", hashed)
        previous = str(line["hash"])
        told("line", count)
    if count:
        return None
    return Fault("the journal is empty", "journal", "at least the line that opened it", "no line")


def _bodies(connection: Connection) -> dict[int, dict[str, Any]]:
    """Return the journal lines that name files or rows, by sequence, with their bodies parsed."""
    chosen = (
        select(JOURNAL)
        .where(JOURNAL.c.kind.in_(("base", "contribution", "published")))
        .order_by(JOURNAL.c.sequence)
    )
    return {
        line["sequence"]: {**line, "body": as_line(line).body}
        for line in connection.execute(chosen).mappings()
    }


def _check_rows(connection: Connection, lines: Mapping[int, Mapping[str, Any]]) -> Fault | None:
    """Check that every row has a line that says the same, and every line a row."""
    announced = {
        sequence: line for sequence, line in lines.items() if line["kind"] == "contribution"
    }
    for row in connection.execute(
        select(CONTRIBUTIONS).order_by(CONTRIBUTIONS.c.sequence)
    ).mappings():
        where = f"contribution {row['digest'][:12]} of {row['site']}"
        line = announced.pop(row["sequence"], None)
        if line is None:
            return Fault(
                "a contribution has no journal line",
                where,
                f"journal line {row['sequence']}",
                "none for it",
            )
        said = {**line["body"], "site": line["site"], "digest": line["subject"]}
        for key, value in body_of(row).items():
            if said.get(key) != value:
                return Fault(
                    f"a contribution's {key} was changed", where, str(said.get(key)), str(value)
                )
    for sequence, line in announced.items():
        where = f"contribution {line['subject'][:12]} of {line['site']}"
        return Fault(
            "a contribution is missing from its table",
            where,
            f"the row of journal line {sequence}",
            "no row",
        )
    return None


def body_of(row: RowMapping | Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of a contribution's journal line: its row without the sequence."""
    return {key: row[key] for key in CONTRIBUTIONS.columns.keys() if key != "sequence"}  # noqa: SIM118


def _check_files(
    connection: Connection, path_of: Callable[[str, str], Path], told: Progress
) -> Fault | None:
    chosen = select(CONTRIBUTIONS.c.digest, CONTRIBUTIONS.c.site).order_by(CONTRIBUTIONS.c.sequence)
    for count, row in enumerate(connection.execute(chosen), start=1):
        path = path_of("contributions", row.digest)
        where = f"contribution of {row.site}, {path}"
        if not path.is_file():
            return Fault("a contribution's file is missing", where, "a file", "none")
        if (found := file_digest(path)) != row.digest:
            return Fault("a contribution's file was changed", where, f"SHA-256 {row.digest}", found)
        told("file", count)
    return None


def _check_models(
    lines: Mapping[int, Mapping[str, Any]], path_of: Callable[[str, str], Path], told: Progress
) -> Fault | None:
    received = {line["subject"] for line in lines.values() if line["kind"] == "contribution"}
    checked: set[str] = set()
    number = 0
    for sequence, line in lines.items():
        if line["kind"] == "contribution":
            continue
        if line["kind"] == "published":
            number += 1
            where = f"journal line {sequence}"
            if line["body"]["number"] != number:
                return Fault(
                    "publications are not numbered in order",
                    where,
                    str(number),
                    canonical_json({"number": line["body"]["number"]}),
                )
            if unknown := [
                digest for digest in line["body"]["contributions"] if digest not in received
            ]:
                return Fault(
                    "a model was made from an unknown contribution",
                    where,
                    "a contribution of this ledger",
                    unknown[0],
                )
        if line["subject"] not in checked:
            if fault := _check_model(line["subject"], path_of("models", line["subject"])):
                return fault
            checked.add(line["subject"])
            told("model", len(checked))
    return None


def holds_model(path: Path, digest: str) -> bool:
    """Tell whether a model's file is there and whole."""
    return _check_model(digest, path) is None


def _check_model(digest: str, path: Path) -> Fault | None:
    if not path.is_file():
        return Fault("a model's file is missing", str(path), "a file", "none")
    try:
        found = state_digest(StoredModel(path))
    except (OSError, SafetensorError) as error:
        found = first_line(error)
    if found == digest:
        return None
    return Fault("a model's file was changed", str(path), f"digest {digest}", found)
