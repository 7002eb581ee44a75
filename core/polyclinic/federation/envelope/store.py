"""What envelopes need of a store of blobs; `polyclinic.fleet.blobs.BlobStore` is one."""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from polyclinic.fleet.protocol import FRAME_BYTES, INLINE_BYTES

ENVELOPE_BYTES = FRAME_BYTES - 64 * 1024  # largest envelope: a frame holds it, and little else
# With more bytes inside than this, an envelope is crowded: a frame holds up heartbeats for as long
# as it travels, and a line of 1 Mbit/s that is silent for 30 s counts as cut.
CROWDED_BYTES = 512 * 1024
CROWDED_INLINE_BYTES = 4 * 1024  # what is longer travels beside a crowded envelope
FULL_BYTES = 2 * CROWDED_BYTES  # with more bytes inside than this, an envelope is full
FULL_INLINE_BYTES = 64  # what is longer travels beside a full envelope


class StoredBlob(Protocol):
    """Bytes that lie in a store.

    Attributes:
        digest: Their BLAKE3, in hexadecimal.
        size: Their number.
    """

    @property
    def digest(self) -> str:
        """Return the BLAKE3, in hexadecimal."""
        ...

    @property
    def size(self) -> int:
        """Return the number of bytes."""
        ...


class Store(Protocol):
    """A folder of blobs."""

    def put(self, buffers: Iterable[memoryview | bytes], /) -> StoredBlob:
        """Store bytes."""
        ...

    def path(self, digest: str, /) -> Path:
        """Return where a blob lies."""
        ...


class Room:
    """The room for arrays and byte values inside one envelope."""

    def __init__(self) -> None:
        self._used = 0

    def take(self, size: int) -> bool:
        """Return whether so many bytes travel inside the envelope, and count them if so."""
        limit, used = INLINE_BYTES, self._used + size
        if used > CROWDED_BYTES:
            limit = CROWDED_INLINE_BYTES if used <= FULL_BYTES else FULL_INLINE_BYTES
        inside = size <= limit
        self._used += size if inside else 0
        return inside
