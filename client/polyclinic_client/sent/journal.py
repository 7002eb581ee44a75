"""The hospital's journal of everything that ever left: STATE/sent.jsonl, an entry a line.

An entry is on the disk before what it tells is sent. So the journal may tell of something that
did not leave after all, because the process died in between; never the other way round. Every entry
holds the hash of the one before: one that was changed, removed or moved breaks the chain. Removing
the last entries leaves a sound, shorter chain: keep the newest hash elsewhere, such as in an export
for the data-protection officer, to notice that too.

A process that dies while it writes leaves a last line without an end. Nothing of that line has
left, as its writer never went on. The next writer cuts it off, and says so in an entry of its own.
Several processes may write: each locks the file.
"""

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from polyclinic.errors import DiskFull, ResourceError, StorageFailed
from polyclinic.system.durable import DIGEST, flush, make_folder, sync_folder
from polyclinic.system.faults import FULL
from polyclinic.system.text import canonical_json, json_digest

FILE = "sent.jsonl"
START = "0" * 64  # the previous hash of the first entry
MENDED = "mended"  # kind of the entry that tells of a line without an end
LINE_BYTES = 16_384  # longest line: four texts of 200 characters, each escaped in 12 bytes
Digest = Annotated[str, Field(pattern=f"^{DIGEST.pattern}$")]
Words = Annotated[str, Field(max_length=200)]
Number = Annotated[int, Field(ge=0, lt=2**63)]


class JournalDamaged(ResourceError):
    """The journal of what left is not what was written: nothing leaves."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(
            f"{path} is damaged ({problem}), so nothing leaves this hospital. Restore it from a "
            "backup; or show it to the data-protection officer and move it away to begin anew."
        )


@dataclass(frozen=True)
class Leaving:
    """Something that is about to leave.

    Attributes:
        kind: What it is, see `polyclinic_client.sent.kinds`.
        bytes: Its size.
        digest: BLAKE3 of its bytes.
        to: Address that it is sent to.
        run: Name of the run that asked for it; empty outside runs.
        strategy: Name of the run's strategy.
        round: Number of the round, from 1; 0 outside rounds.
        epsilon: What it tells about one patient at most, if it is differentially private; None
            where it is not.
        note: What is told of it besides; empty where there is nothing.
    """

    kind: str
    bytes: int
    digest: str
    to: str = ""
    run: str = ""
    strategy: str = ""
    round: int = 0
    epsilon: float | None = None
    note: str = ""


class Entry(BaseModel):
    """A line of the journal: what left, when, and its place in the chain."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    number: Annotated[int, Field(ge=1, lt=2**63)]
    time: FiniteFloat
    kind: Words
    bytes: Number
    digest: Digest
    to: Words
    run: Words
    strategy: Words
    round: Number
    epsilon: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    note: Words = ""
    previous: Digest
    hash: Digest


class Verdict(NamedTuple):
    """What a verification found.

    Attributes:
        entries: Number of entries that are sound, from the first on.
        newest: Hash of the last of these; `START` where there is none.
        fault: What is wrong with the next one; empty where nothing is.
        torn_bytes: Length of a last line without an end, which never left.
        holds: Whether the hash that was asked for is in the chain.
    """

    entries: int
    newest: str
    fault: str
    torn_bytes: int
    holds: bool


class Journal:
    """One hospital's journal.

    Args:
        path: The file; made with the first entry.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, *leaving: Leaving) -> None:
        """Write what is about to leave; it is on the disk when this returns.

        Raises:
            DiskFull, StorageFailed: It could not be written: do not send it.
            JournalDamaged: The end of the journal cannot be read: do not send it.
        """
        try:
            with self._locked() as number:
                self._append(number, leaving)
        except OSError as error:
            if error.errno in FULL:
                free_bytes = shutil.disk_usage(self.path.parent).free
                raise DiskFull(self.path.parent, free_bytes, free_bytes + 2**20) from error
            raise StorageFailed(self.path, error.strerror or str(error)) from error

    def entries(self) -> Iterator[Entry]:
        """Read the entries, oldest first; a last line without an end is none.

        Raises:
            JournalDamaged: A line is no entry.
        """
        for entry, _ in self.entries_from(0):
            yield entry

    def entries_from(self, offset: int) -> Iterator[tuple[Entry, int]]:
        """Read the entries from a place in the file on, each with the place behind it.

        Raises:
            JournalDamaged: A line is no entry.
        """
        for number, line in self._lines(offset):
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            try:
                entry = Entry.model_validate_json(line)
            except ValueError as error:
                raise JournalDamaged(self.path, f"line {number} is no entry") from error
            yield entry, offset

    def verify(self, holds: str = "") -> Verdict:
        """Check every entry and the chain through them.

        Args:
            holds: The newest hash of an earlier day, which the chain must still hold.
        """
        count, previous, torn, found = 0, START, 0, holds in ("", START)

        def wrong(problem: str) -> Verdict:
            return Verdict(count, previous, f"line {count + 1}: {problem}", 0, found)

        for _, line in self._lines():
            if not line.endswith(b"\n"):
                if len(line) > LINE_BYTES:
                    return wrong("it is too long")
                torn = len(line)
                break
            try:
                entry = Entry.model_validate_json(line)
            except ValueError:
                return wrong("it is no entry")
            if (entry.number, entry.previous) != (count + 1, previous):
                return wrong("it does not follow on the line before")
            if entry.hash != entry_hash(entry.model_dump()):
                return wrong("it was changed")
            count, previous = entry.number, entry.hash
            found = found or entry.hash == holds
        return Verdict(count, previous, "", torn, found)

    def _lines(self, offset: int = 0) -> Iterator[tuple[int, bytes]]:
        """Read lines with their numbers; one that is too long comes in part, and is the last."""
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                number = 0
                while line := file.readline(LINE_BYTES + 1):
                    number += 1
                    yield number, line
                    if not line.endswith(b"\n"):
                        return
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageFailed(self.path, error.strerror or str(error)) from error

    @contextmanager
    def _locked(self) -> Iterator[int]:
        new = not self.path.exists()
        make_folder(self.path.parent)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        number = os.open(self.path, flags, 0o600)
        try:
            fcntl.flock(number, fcntl.LOCK_EX)
            yield number
            if new:
                sync_folder(self.path.parent)
        finally:
            os.close(number)

    def _append(self, number: int, leaving: Sequence[Leaving]) -> None:
        size = os.fstat(number).st_size
        last, torn = self._end(number, size)
        whole = size - len(torn)
        if torn:
            os.ftruncate(number, whole)
            leaving = [Leaving(MENDED, len(torn), blake3(torn).hexdigest()), *leaving]
        place, previous = (0, START) if last is None else (last.number, last.hash)
        lines = []
        for each in leaving:
            place += 1
            told = {"number": place, "time": time.time(), **asdict(each), "previous": previous}
            previous = entry_hash(told)
            lines.append(canonical_json({**told, "hash": previous}) + "\n")
        try:
            _write(number, "".join(lines).encode())
            flush(number)
        except OSError:
            os.ftruncate(number, whole)  # nothing of it leaves, so nothing of it is told
            raise

    def _end(self, number: int, size: int) -> tuple[Entry | None, bytes]:
        """Return the last entry, and the bytes of a line without an end behind it."""
        start = max(0, size - 2 * LINE_BYTES)
        head, _, torn = os.pread(number, size - start, start).rpartition(b"\n")
        line = head.rpartition(b"\n")[2]
        if len(torn) > LINE_BYTES:
            raise JournalDamaged(self.path, "its last line is too long")
        if not line:
            if size > len(torn):
                raise JournalDamaged(self.path, "its last line is empty")
            return None, torn
        try:
            last = Entry.model_validate_json(line)
        except ValueError as error:
            raise JournalDamaged(self.path, "its last line is no entry") from error
        if last.hash != entry_hash(last.model_dump()):
            raise JournalDamaged(self.path, "its last line was changed")
        return last, torn


def entry_hash(told: dict[str, object]) -> str:
    """Return the SHA-256 of the canonical JSON of all that an entry tells but its own hash.

    A note that is empty is not told: older entries have none.
    """
    left_out = {"hash"} if told.get("note") else {"hash", "note"}
    return json_digest({key: value for key, value in told.items() if key not in left_out})


def _write(number: int, data: bytes) -> None:
    done = 0
    while done < len(data):
        written = os.write(number, data[done:])
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done += written
