"""The journal of what left: complete, chained, and whole after any crash."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from polyclinic.errors import DiskFull, StorageFailed
from polyclinic_client.sent import journal as module
from polyclinic_client.sent.journal import (
    FILE,
    MENDED,
    START,
    Journal,
    JournalDamaged,
    Leaving,
    entry_hash,
)

DIGEST = "d" * 64
WRITER = """
import sys
from pathlib import Path
from polyclinic_client.sent.journal import Journal, Leaving
journal = Journal(Path(sys.argv[1]))
for number in range(100_000):
    journal.append(Leaving("update", number, "d" * 64, "there", "run", "arm", number))
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


def leaving(number: int) -> Leaving:
    return Leaving("update", number, DIGEST, "there:1", "run", "arm", number)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    found = Journal(tmp_path / "state" / FILE)
    for number in range(1, 6):
        found.append(leaving(number))
    return found


def test_entries_are_read_as_they_were_written(journal: Journal) -> None:
    entries = list(journal.entries())
    assert [each.bytes for each in entries] == [1, 2, 3, 4, 5]
    assert [each.number for each in entries] == [1, 2, 3, 4, 5]
    assert {(each.run, each.to, each.digest) for each in entries} == {("run", "there:1", DIGEST)}
    assert entries[0].previous == START
    assert all(abs(each.time - time.time()) < 60 for each in entries)
    assert journal.path.stat().st_mode & 0o777 == 0o600
    found = journal.verify()
    assert (found.entries, found.newest, found.fault) == (5, entries[-1].hash, "")


def test_an_entry_tells_a_note_only_where_there_is_one(journal: Journal) -> None:
    """Entries of a version that knew no notes keep their hash."""
    journal.append(Leaving("warped scan", 3, "a" * 64, note="displaced by 3 mm"))
    *before, last = journal.entries()
    assert last.note == "displaced by 3 mm" and journal.verify().fault == ""
    told = before[-1].model_dump(exclude={"note"})
    assert entry_hash(told) == before[-1].hash
    changed = last.model_dump() | {"note": "displaced by 9 mm"}
    assert entry_hash(changed) != last.hash


def test_a_journal_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert list(Journal(tmp_path / FILE).entries()) == []
    assert Journal(tmp_path / FILE).verify() == (0, START, "", 0, True)


def test_whatever_is_changed_removed_or_moved_is_found(journal: Journal) -> None:
    lines = journal.path.read_bytes().splitlines(keepends=True)
    draw = random.Random(0)
    for _ in range(300):
        changed = list(lines)
        place = draw.randrange(len(lines))
        kind = draw.choice(["bit", "remove", "swap", "repeat", "value"])
        if kind == "bit":
            line = bytearray(changed[place])
            spot = draw.randrange(len(line) - 1)
            line[spot] ^= 1 << draw.randrange(7)
            changed[place] = bytes(line)
        elif kind == "remove" and place < len(lines) - 1:
            del changed[place]
        elif kind == "swap" and place:
            changed[place - 1], changed[place] = changed[place], changed[place - 1]
        elif kind == "repeat":
            changed.insert(place, changed[place])
        else:
            told = {**json.loads(changed[place]), "bytes": 0}
            changed[place] = (
                json.dumps(told, sort_keys=True, separators=(",", ":")).encode() + b"\n"
            )
        if changed == lines:
            continue
        journal.path.write_bytes(b"".join(changed))
        assert journal.verify().fault, (kind, place)


def test_lines_that_were_removed_at_the_end_are_noticed_with_a_hash_of_earlier(
    journal: Journal,
) -> None:
    noted = journal.verify().newest
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.append(leaving(6))
    assert journal.verify(noted).holds
    journal.path.write_bytes(b"".join(lines[:-1]))
    assert journal.verify().fault == "" and not journal.verify(noted).holds


@pytest.mark.parametrize("kept", [1, 100, -1])
def test_a_torn_last_line_is_said_and_cut_off(journal: Journal, kept: int) -> None:
    whole = journal.path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    torn = last[:kept]
    journal.path.write_bytes(whole[: -len(last)] + torn)
    found = journal.verify()
    assert (found.entries, found.fault, found.torn_bytes) == (4, "", len(torn))
    assert len(list(journal.entries())) == 4
    journal.append(leaving(7))
    entries = list(journal.entries())
    assert [each.kind for each in entries[4:]] == [MENDED, "update"]
    assert entries[4].bytes == len(torn)
    assert journal.verify().fault == ""


@pytest.mark.parametrize("damage", [b"\n", b"no entry\n", b"{}\n", b"x" * 20_000])
def test_nothing_is_added_to_a_damaged_end(journal: Journal, damage: bytes) -> None:
    with journal.path.open("ab") as file:
        file.write(damage)
    before = journal.path.read_bytes()
    with pytest.raises(JournalDamaged, match="nothing leaves"):
        journal.append(leaving(6))
    assert journal.path.read_bytes() == before
    assert journal.verify().fault


@pytest.mark.parametrize("after", [0, 40, 300])
def test_a_full_disk_leaves_no_trace_and_is_said(
    journal: Journal, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let the disk take so many bytes more."""
    room, write = after, os.write

    def full(number: int, data: bytes) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = data[:room]
        room -= len(taken)
        return write(number, taken)

    before = journal.path.read_bytes()
    monkeypatch.setattr(module.os, "write", full)
    with pytest.raises(DiskFull):
        journal.append(leaving(6))
    monkeypatch.undo()
    assert journal.path.read_bytes() == before
    journal.append(leaving(6))
    assert journal.verify() == (6, list(journal.entries())[-1].hash, "", 0, True)


def test_a_flush_that_fails_keeps_everything_back(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(number: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    before = journal.path.read_bytes()
    monkeypatch.setattr(module, "flush", fails)
    with pytest.raises(StorageFailed):
        journal.append(leaving(6))
    assert journal.path.read_bytes() == before


def test_a_writer_that_is_killed_at_any_moment_loses_nothing_that_it_told(tmp_path: Path) -> None:
    """What was told after `append` is what may have left: each must be in the journal."""
    path, draw = tmp_path / FILE, random.Random(1)
    told: list[int] = []
    for _ in range(8):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        first = writer.stdout.readline()  # it has begun
        time.sleep(draw.uniform(0.0, 0.05))
        writer.send_signal(signal.SIGKILL)
        rest = [line for line in writer.stdout.read().split("\n")[:-1] if line]
        writer.stdout.close()
        writer.wait()
        told = [int(first), *map(int, rest)]
        written = [each.bytes for each in Journal(path).entries() if each.kind == "update"]
        # it was killed once more than it told, at most
        assert written[-len(told) :] == told or written[-len(told) - 1 : -1] == told
        assert Journal(path).verify().fault == ""
    Journal(path).append(leaving(1))
    assert Journal(path).verify().fault == ""


def test_writers_beside_each_other_make_one_chain(tmp_path: Path) -> None:
    path = tmp_path / FILE
    script = WRITER.replace("100_000", "40")
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.DEVNULL)
        for _ in range(3)
    ]
    assert [each.wait(60) for each in writers] == [0, 0, 0]
    assert Journal(path).verify()[:3] == (120, list(Journal(path).entries())[-1].hash, "")
