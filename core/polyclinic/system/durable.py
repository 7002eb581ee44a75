"""Files that are complete, and still there after a power cut, once a function here has returned.

A file is written under a temporary name, its bytes are flushed to the disk, it is renamed, and the
rename is flushed too.
"""

import errno
import hashlib
import os
import tempfile
import time
from pathlib import Path

from polyclinic.errors import DiskFull

CHUNK_BYTES = 1 << 20
LEFTOVER_S = 86_400.0  # a temporary file older than a day belongs to a process that died


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes, read in pieces."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK_BYTES):
            found.update(block)
    return found.hexdigest()


def copy_durably(source: Path, target: Path) -> str:
    """Copy a file so that `target` is whole or absent; returns the digest of what was copied.

    Raises:
        DiskFull: No room.
    """
    make_folder(target.parent)
    number, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
    temporary, found, copied = Path(name), hashlib.sha256(), 0
    try:
        with source.open("rb") as reading, os.fdopen(number, "wb") as writing:
            while block := reading.read(CHUNK_BYTES):
                found.update(block)
                copied += writing.write(block)
            writing.flush()
            os.fsync(writing.fileno())
        temporary.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        stats = os.statvfs(target.parent)
        raise DiskFull(
            target.parent, stats.f_bavail * stats.f_frsize, source.stat().st_size
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return found.hexdigest()


def write_durably(target: Path, content: bytes) -> None:
    """Write a small file that only its owner can read, whole or not at all."""
    make_folder(target.parent)
    number, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
    with os.fdopen(number, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    Path(name).replace(target)
    sync_folder(target.parent)


def make_folder(folder: Path) -> None:
    """A folder, and those above it, that outlast a power cut."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that a process left behind when it died, more than a day ago."""
    for path in folder.rglob(".*.partial"):
        try:
            if path.stat().st_mtime < time.time() - LEFTOVER_S:
                path.unlink()
        except FileNotFoundError:
            continue
