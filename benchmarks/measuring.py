"""What benchmarks say of the machine and of processes."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import psutil

LOOK_S = 0.02


def memory_mb(pid: int | None, field: str) -> float:
    """Return a figure of a process's memory, in MB (10^6 bytes).

    Args:
        pid: The process; None for this one.
        field: Of /proc/PID/status: VmHWM for the most resident memory so far, RssAnon for what is
            anonymous now.
    """
    status = Path(f"/proc/{pid or 'self'}/status").read_text()
    return next(
        int(line.split()[1]) * 1024 / 1e6
        for line in status.splitlines()
        if line.startswith(f"{field}:")
    )


def peak_mb(pid: int | None) -> float:
    """Return the peak memory of a process, in MB (10^6 bytes)."""
    return memory_mb(pid, "VmHWM")


def machine() -> str:
    """Describe the machine."""
    memory, load = psutil.virtual_memory().total / 2**30, psutil.getloadavg()[0]
    return f"{psutil.cpu_count()} cores, {memory:.0f} GB, load {load:.1f} before"


class AnonymousPeaks:
    """The most anonymous memory of processes while this is entered, looked at often.

    Args:
        find: Returns process ids by what they are called.
    """

    def __init__(self, find: Callable[[], Mapping[str, int | None]]) -> None:
        self._find = find
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peaks: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        self._thread.join()

    def _watch(self) -> None:
        found = self._find()
        while not self._leaving.wait(LOOK_S):
            for name, pid in found.items():
                try:
                    now = memory_mb(pid, "RssAnon")
                except (OSError, StopIteration):  # it has ended
                    continue
                self.peaks[name] = max(self.peaks.get(name, 0.0), now)
