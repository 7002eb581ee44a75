"""Large contents of messages: files named by their BLAKE3, which resume after a cut.

    FOLDER/DIGEST         a whole blob; it appears under this name only after it was verified
    FOLDER/DIGEST.part    what has arrived of one that is under way
    FOLDER/boot           start of the machine in which whole blobs were verified

A process may be killed at any moment: what it had written of a blob stays a part, and goes on from
there. Nothing is flushed to the disk; after a power cut whole blobs are parts again, and are
verified when they are needed. Several threads may use one store, and a second process may `put` and
read in the same folder.
"""

import errno
import os
import shutil
import threading
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from blake3 import blake3

from polyclinic.errors import DiskFull, LinkError
from polyclinic.fleet.wire.fleet_pb2 import Blob
from polyclinic.system.durable import CHUNK_BYTES, DIGEST, temporary_file, write_atomically

PART = ".part"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
STRIPES = 64  # locks; blobs whose digests begin alike share one
Buffer = bytes | bytearray | memoryview


class BlobMissing(LinkError):
    """A blob that is needed is not there, or not all of it."""

    def __init__(self, digest: str) -> None:
        super().__init__(
            f"The content {digest[:12]} of a message is not there, or not all of it: it has to be "
            "sent again."
        )


class BlobDamaged(LinkError):
    """What arrived is not what its digest says; it was removed."""

    def __init__(self, digest: str) -> None:
        super().__init__(
            f"The content {digest[:12]} of a message arrived damaged and was removed: it has to be "
            "sent again."
        )


class BlobRefused(LinkError):
    """Bytes that cannot belong to a blob: a malformed digest, or a gap before them."""


class BlobStore:
    """A folder of blobs.

    A blob that was put or finished here is spared by `evict` until it was held and released.

    Args:
        folder: Made if need be; only its owner can read it.
        limit_bytes: What blobs that nobody holds may take together; the least recently used go
            first. None keeps everything.
    """

    def __init__(self, folder: Path, limit_bytes: int | None = None) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        self._table = threading.Lock()  # of what follows
        self._parts: dict[str, tuple[int, blake3]] = {}  # size and digest so far
        self._held: Counter[str] = Counter()
        self._fresh: set[str] = set()
        self._stripes = [threading.RLock() for _ in range(STRIPES)]
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._doubt_after_reboot()

    def has(self, digest: str) -> bool:
        """Return whether the whole blob is there."""
        return self._whole(digest).exists()

    def path(self, digest: str) -> Path:
        """Return the whole blob's file; hold the blob while the file is in use.

        Raises:
            BlobMissing: It is not there, or not all of it.
        """
        path = self._whole(digest)
        try:
            os.utime(path)
        except FileNotFoundError as error:
            raise BlobMissing(digest) from error
        return path

    def offset(self, digest: str) -> int:
        """Return how many of a blob's bytes are there."""
        for path in (self._whole(digest), self._part(digest), self._whole(digest)):
            with suppress(FileNotFoundError):  # it may have become whole between two looks
                return path.stat().st_size
        return 0

    def append(self, digest: str, offset: int, data: Buffer) -> int:
        """Write the next bytes, from an offset on; those that are there already are passed over.

        Returns:
            How many of the blob's bytes are there now.

        Raises:
            BlobRefused: There is a gap before the bytes.
            DiskFull: No room; what was there before stays.
        """
        with self._lock(digest):
            if self.has(digest):
                return self.offset(digest)
            size, digested = self._so_far(digest)
            if offset > size:
                raise BlobRefused(
                    f"The content {digest[:12]} of a message has {size} bytes here; what arrived "
                    f"begins at {offset}."
                )
            new = memoryview(data).cast("B")[size - offset :]
            if len(new):
                self._write(digest, size, new)
                digested.update(new)
                self._parts[digest] = size + len(new), digested
            return size + len(new)

    def finish(self, digest: str) -> Path:
        """Verify a blob of which everything has arrived, and return its file.

        Raises:
            BlobDamaged: It is not what its digest says; it was removed, to be sent from its start.
        """
        with self._lock(digest):
            if not self.has(digest):
                size, digested = self._so_far(digest)
                if digested.hexdigest() != digest:
                    with self._table:
                        self._forget(digest)
                    raise BlobDamaged(digest)
                if not size:
                    self._part(digest).touch(mode=0o600)
                with self._table:
                    self._fresh.add(digest)
                    self._part(digest).replace(self._whole(digest))
            self._parts.pop(digest, None)
        return self.path(digest)

    def put(self, buffers: Iterable[Buffer]) -> Blob:
        """Write a blob of one's own; its bytes are the buffers', one after the other.

        Raises:
            DiskFull: No room.
        """
        digested, size = blake3(), 0
        with temporary_file(self.folder, "put", private=True) as unfinished:
            try:
                with unfinished.open("r+b", buffering=0) as file:
                    for buffer in buffers:
                        view = memoryview(buffer).cast("B")
                        digested.update(view)
                        size += _write_all(file.fileno(), view)
            except OSError as error:
                raise self._full(error, size) from error
            digest = digested.hexdigest()
            with self._table:
                self._fresh.add(digest)
                unfinished.replace(self._whole(digest))
        return Blob(digest=digest, size=size)

    def adopt(self, path: Path) -> None:
        """Take over the file of a whole blob, named by its digest, on the same file system.

        Raises:
            BlobMissing: It is neither there nor here.
        """
        digest = path.name
        with self._table:
            try:
                path.replace(self._whole(digest))
                self._fresh.add(digest)
            except FileNotFoundError as error:
                if not self.has(digest):
                    raise BlobMissing(digest) from error

    def hold(self, digests: Iterable[str]) -> None:
        """Keep blobs, whole or not, from eviction until they are released as often.

        Hold a blob before looking for it.
        """
        with self._table:
            names = list(digests)
            self._held.update(names)
            self._fresh.difference_update(names)

    def release(self, digests: Iterable[str]) -> None:
        """Take back a hold, and evict what is too much."""
        with self._table:
            for digest in digests:
                self._held[digest] -= 1
                if self._held[digest] <= 0:
                    del self._held[digest]
        self.evict()

    def drop(self, digests: Iterable[str]) -> None:
        """Remove blobs that nobody holds, whole or not."""
        for digest in digests:
            with self._lock(digest), self._table:
                if digest not in self._held:
                    self._forget(digest)

    def evict(self) -> None:
        """Remove the least recently used blobs, whole or not, beyond the limit."""
        if self.limit_bytes is None:
            return
        with self._table:
            spared = {*self._held, *self._fresh}
        found = []
        for path in self.folder.iterdir():
            name = path.name.removesuffix(PART)
            if DIGEST.fullmatch(name) and name not in spared:
                with suppress(FileNotFoundError):
                    found.append((path.stat().st_mtime_ns, path.stat().st_size, name))
        excess = sum(size for _, size, _ in found) - self.limit_bytes
        for _, size, name in sorted(found):
            if excess <= 0:
                break
            self.drop([name])
            excess -= size

    def _write(self, digest: str, size: int, data: memoryview) -> None:
        """Write behind the bytes that count; whatever else a crash left there is cut off."""
        number = os.open(self._part(digest), os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.ftruncate(number, size)
            os.lseek(number, size, os.SEEK_SET)
            _write_all(number, data)
        except OSError as error:
            os.ftruncate(number, size)
            raise self._full(error, len(data)) from error
        finally:
            os.close(number)

    def _so_far(self, digest: str) -> tuple[int, blake3]:
        """Return size and digest of a part; read it again if another process wrote it."""
        known = self._parts.get(digest)
        if known is not None and known[0] == self.offset(digest):
            return known
        size, digested = 0, blake3()
        with suppress(FileNotFoundError), self._part(digest).open("rb") as file:
            while block := file.read(CHUNK_BYTES):
                digested.update(block)
                size += len(block)
        self._parts[digest] = size, digested
        return size, digested

    def _forget(self, digest: str) -> None:
        """Remove a blob; the table is locked."""
        self._fresh.discard(digest)
        self._parts.pop(digest, None)
        self._part(digest).unlink(missing_ok=True)
        self._whole(digest).unlink(missing_ok=True)

    def _full(self, error: OSError, needed: int) -> OSError | DiskFull:
        free = shutil.disk_usage(self.folder).free
        no_room = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return DiskFull(self.folder, free, needed) if no_room else error

    def _doubt_after_reboot(self) -> None:
        """Make parts of whole blobs that may not have reached the disk before a power cut."""
        boot = BOOT_ID.read_text() if BOOT_ID.exists() else ""
        mark = self.folder / "boot"
        if mark.exists() and mark.read_text() == boot:
            return
        for path in self.folder.iterdir():
            if DIGEST.fullmatch(path.name):
                path.replace(path.with_name(path.name + PART))
        write_atomically(mark, boot)

    def _lock(self, digest: str) -> threading.RLock:
        """Return the lock of those who write a blob."""
        return self._stripes[hash(self._whole(digest).name) % STRIPES]

    def _whole(self, digest: str) -> Path:
        if not DIGEST.fullmatch(digest):
            raise BlobRefused(f"'{digest[:80]}' is not a digest.")
        return self.folder / digest

    def _part(self, digest: str) -> Path:
        return self._whole(digest).with_name(digest + PART)


def _write_all(number: int, data: memoryview) -> int:
    """Write all bytes to a file that is open."""
    done = 0
    while done < len(data):
        done += os.write(number, data[done:])
    return done
