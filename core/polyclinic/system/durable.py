"""Files that are there as a whole or not at all.

Every function here writes under a temporary name in the target's folder and renames the file.
A durable write also flushes the file's bytes and the folder's list of names to the disk: once the
function has returned, the file survives a power cut. `write_atomically` does not flush, which is
faster and enough for reports and status files.
"""

import errno
import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from polyclinic.errors import DiskFull
from polyclinic.system.faults import FULL

CHUNK_BYTES = 1 << 20
DIGEST = re.compile(r"[0-9a-f]{64}")  # a SHA-256, as every file here is named by it
UNABLE = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # network shares flush no folder
LEFTOVER_S = 86_400.0  # a temporary file older than a day belongs to a process that died


def file_digest(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's bytes; the file is read in pieces."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK_BYTES):
            found.update(block)
    return found.hexdigest()


@contextmanager
def replacing(
    target: Path, *, durable: bool = True, private: bool = False, needed_bytes: int = 0
) -> Iterator[Path]:
    """Yield a temporary path, and rename it to `target` when the block ends without an error.

        with replacing(folder / "scores.csv") as unfinished:
            table.to_csv(unfinished)

    Args:
        target: The file to write; its folder is made if need be. It is replaced if present.
        durable: Flush the file and its folder to the disk.
        private: Create the file so that only its owner can read it.
        needed_bytes: Size of what is written, for the message when the disk is full.

    Raises:
        DiskFull: No room.
    """
    try:
        if durable:
            make_folder(target.parent)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
        with temporary_file(target.parent, target.name, private=private) as unfinished:
            yield unfinished
            put_in_place(unfinished, target, durable=durable)
    except OSError as error:
        if error.errno not in FULL:
            raise
        free_bytes = shutil.disk_usage(target.parent).free
        raise DiskFull(target.parent, free_bytes, needed_bytes or free_bytes + 2**20) from error


@contextmanager
def temporary_file(folder: Path, name: str, *, private: bool = False) -> Iterator[Path]:
    """Yield a path in a folder for a file that has no name yet; what is left there is removed.

    Use `put_in_place` to give the file its name, or `replacing` where the name is known before.
    """
    path = folder / f".{name}.{uuid.uuid4().hex[:12]}.partial"
    try:
        if private:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        yield path
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def put_in_place(unfinished: Path, target: Path, *, durable: bool = True) -> None:
    """Rename a complete file to its name, in the same folder."""
    if durable:
        with unfinished.open("rb") as file:
            flush(file.fileno())
    unfinished.replace(target)
    if durable:
        sync_folder(target.parent)


def write_atomically(target: Path, content: bytes | str) -> None:
    """Write a small file, whole or not at all; a power cut may still lose it. Text is UTF-8.

    Raises:
        DiskFull: No room.
    """
    _write(target, content, durable=False, private=False)


def write_durably(target: Path, content: bytes | str, *, private: bool = True) -> None:
    """Write a small file, whole or not at all, that survives a power cut. Text is UTF-8.

    Args:
        target: The file; replaced if present.
        content: All of it.
        private: Whether only the file's owner can read it.

    Raises:
        DiskFull: No room.
    """
    _write(target, content, durable=True, private=private)


def _write(target: Path, content: bytes | str, *, durable: bool, private: bool) -> None:
    data = content.encode() if isinstance(content, str) else content
    with replacing(target, durable=durable, private=private, needed_bytes=len(data)) as unfinished:
        unfinished.write_bytes(data)


def copy_durably(source: Path, target: Path) -> str:
    """Copy a file so that `target` is whole or absent; only its owner can read it.

    Returns:
        The SHA-256 (hex) of the bytes that were copied.

    Raises:
        DiskFull: No room.
    """
    found = hashlib.sha256()
    with (
        replacing(target, private=True, needed_bytes=source.stat().st_size) as unfinished,
        source.open("rb") as reading,
        unfinished.open("wb") as writing,
    ):
        while block := reading.read(CHUNK_BYTES):
            found.update(block)
            writing.write(block)
    return found.hexdigest()


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, so that they survive a power cut."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def make_private_folder(folder: Path) -> None:
    """Make a folder that no other user can look into, where its modes are ours to set.

    They are not in a folder of another user, like the root of a volume that a cluster mounts for a
    group, and on a share that knows no modes.
    """
    make_folder(folder)
    with suppress(OSError):
        folder.chmod(0o700)


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        flush(number)
    finally:
        os.close(number)


def flush(number: int) -> None:
    """Flush an open file, or an open folder, to the disk; as far as its file system can."""
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in UNABLE:
            raise


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files, older than a day, of processes that died while they wrote."""
    for path in folder.rglob(".*.partial"):
        try:
            if path.stat().st_mtime < time.time() - LEFTOVER_S:
                path.unlink()
        except FileNotFoundError:
            continue
