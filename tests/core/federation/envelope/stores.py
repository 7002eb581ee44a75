"""A store of blobs that is a plain folder."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace


class FolderStore:
    """Writes what it gets, and counts how often."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.puts = folder, 0

    def put(self, buffers: Iterable[memoryview | bytes]) -> SimpleNamespace:
        self.puts += 1
        data = b"".join(bytes(each) for each in buffers)
        digest = hashlib.sha256(data).hexdigest()
        (self.folder / digest).write_bytes(data)
        return SimpleNamespace(digest=digest, size=len(data))

    def path(self, digest: str) -> Path:
        return self.folder / digest
