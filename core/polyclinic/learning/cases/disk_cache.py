"""Prepared cases on the disk: found by what they were made of, mapped and not read.

Each entry is a folder that only its owner can read, written whole or not at all:

    FOLDER/KEY/image.npy, label.npy, ...

A key is a digest of the files (path, size, time of the last change) and of all that preparing them
depends on. Entries survive the process, and several processes may use the same folder. When there
is no room, entries that were not used for longest are removed; those that this process uses are
not.
"""

import os
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from polyclinic.config.schemas import DataConfig
from polyclinic.system.durable import LEFTOVER_S, flush, sync_folder
from polyclinic.system.faults import FULL
from polyclinic.system.text import json_digest

VERSION = 1  # of what is prepared, and how it lies on the disk
KEY_LENGTH = 64  # of a SHA-256 in hexadecimal
LATER = (  # settings that matter only after a case is prepared
    "augment", "samples_per_case", "cache_gb", "overlap", "mirrored_inference", "mirroring",
    "region_values",
)  # fmt: skip


class DiskCache:
    """A folder of prepared cases.

    Args:
        folder: Made when the first entry is kept.
        most_bytes: The most that all entries take together.
    """

    def __init__(self, folder: Path, most_bytes: float) -> None:
        self.folder, self.most_bytes = folder, most_bytes
        self._used: set[str] = set()
        self._remove_leftovers()

    def load(self, key: str) -> dict[str, Tensor] | None:
        """Map the tensors of an entry; None where there is none, or it is damaged.

        Writing to them changes memory alone, not the file. Pages are read when they are looked at.
        """
        entry = self.folder / key
        try:
            found = {
                path.stem: torch.from_numpy(open_memmap(path, mode="c"))
                for path in sorted(entry.glob("*.npy"))
            }
            os.utime(entry)
        except FileNotFoundError:
            return None
        except Exception:  # a damaged header raises many kinds; the case is prepared again
            self._remove(entry)
            return None
        self._used.add(key)
        return found

    def save(self, key: str, tensors: Mapping[str, Tensor]) -> bool:
        """Keep tensors; return whether there was room.

        Args:
            key: From `case_key`.
            tensors: By names that may be files'.
        """
        needed = sum(tensor.nbytes for tensor in tensors.values())
        if not self._make_room(key, needed):
            return False
        unfinished = self.folder / f".{key[:8]}.{uuid.uuid4().hex[:12]}.partial"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            unfinished.mkdir(mode=0o700)
            for name, tensor in tensors.items():
                with (unfinished / f"{name}.npy").open("wb") as file:
                    np.save(file, tensor.contiguous().numpy(), allow_pickle=False)
                    file.flush()
                    flush(file.fileno())
            with suppress(FileExistsError):  # another process was faster
                unfinished.rename(self.folder / key)
            sync_folder(self.folder)
        except OSError as error:
            if error.errno not in FULL and not (self.folder / key).is_dir():
                raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        self._used.add(key)
        return (self.folder / key).is_dir()

    @property
    def bytes(self) -> int:
        """Size of all entries."""
        return sum(size for _, size, _ in self._entries())

    def _make_room(self, key: str, needed: int) -> bool:
        """Remove what others used before, oldest first, until there is room."""
        entries = sorted(self._entries())
        total = sum(size for _, size, _ in entries)
        spare = sum(size for _, size, path in entries if path.name not in self._used | {key})
        if total - spare + needed > self.most_bytes:
            return False
        for _, size, path in entries:
            if total + needed <= self.most_bytes:
                break
            if path.name not in self._used | {key}:
                self._remove(path)
                total -= size
        return True

    def _entries(self) -> list[tuple[float, int, Path]]:
        """List time of the last use, size and folder of every entry."""
        found = []
        for path in self.folder.glob("[!.]*"):
            with suppress(FileNotFoundError, NotADirectoryError):  # removed meanwhile
                if len(path.name) == KEY_LENGTH:
                    size = sum(each.stat().st_size for each in path.iterdir())
                    found.append((path.stat().st_mtime, size, path))
        return found

    def _remove(self, entry: Path) -> None:
        """Remove an entry; whoever has mapped it keeps what it mapped."""
        doomed = self.folder / f".{uuid.uuid4().hex}.removed"
        with suppress(OSError):
            entry.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def _remove_leftovers(self) -> None:
        """Remove what processes that died left."""
        moment = time.time()
        for path in self.folder.glob(".*"):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < moment - LEFTOVER_S:
                    shutil.rmtree(path, ignore_errors=True)


def case_key(files: Sequence[Path], labels: object, data: DataConfig) -> str:
    """Compute the name of a case's entry.

    Args:
        files: All files of the case.
        labels: What its label map's numbers mean, as JSON may write it.
        data: How it is prepared.
    """
    settings = {key: value for key, value in asdict(data).items() if key not in LATER}
    stats = [(str(path.resolve()), path.stat()) for path in files]
    described = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
    return json_digest([VERSION, described, labels, settings])
