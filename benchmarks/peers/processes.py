"""Shared parts of the peer benchmarks: child processes, and seconds per round from time stamps."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import psutil

MARK = "PEER_BENCHMARK_MARK"  # an environment variable that every descendant inherits


@dataclass(frozen=True)
class Result:
    """Seconds per round (train and evaluate) of one federation."""

    system: str
    version: str
    hospitals: int
    rounds: int
    seconds_per_round: list[float]
    median_s: float

    def to_json(self) -> str:
        """Return the result as one line of JSON."""
        return json.dumps(asdict(self))


def result_from_stamps(
    system: str, version: str, hospitals: int, stamps: Sequence[float]
) -> Result:
    """Turn the start and the ends of all rounds into a result.

    `stamps` has one entry more than there are rounds.
    """
    seconds = [round(end - start, 3) for start, end in itertools.pairwise(stamps)]
    return Result(
        system, version, hospitals, len(seconds), seconds, round(statistics.median(seconds), 3)
    )


def read_stamps(file: Path) -> list[float]:
    """Return the whole lines of a file of time stamps.

    A line that is still being written is left out.
    """
    if not file.exists():
        return []
    return [
        float(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")
    ]


def free_ports(count: int) -> list[int]:
    """Return distinct loopback ports that nobody listens on at this moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for open_socket in sockets:
            open_socket.bind(("127.0.0.1", 0))
        return [open_socket.getsockname()[1] for open_socket in sockets]
    finally:
        for open_socket in sockets:
            open_socket.close()


def leave_on_sigterm() -> None:
    """Make SIGTERM leave the `with` blocks, as Ctrl-C does, so that all processes are ended."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))


class ProcessGroup:
    """Processes that are ended, with all their descendants, when the `with` block is left.

    Both peers put some of their children into sessions of their own, where a signal to the group
    does not reach them. So every process carries a mark in its environment, and what still carries
    it at the end is ended by its id.
    """

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.mark = uuid.uuid4().hex
        self.started: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> ProcessGroup:
        self.logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path
    ) -> subprocess.Popen[bytes]:
        """Start one process in a session of its own; its output goes to `<logs>/<name>.log`."""
        with (self.logs / f"{name}.log").open("wb") as log:
            self.started[name] = subprocess.Popen(
                list(command),
                cwd=folder,
                env={**environment, MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self.started[name]

    def wait(self, done: Callable[[], bool], limit_s: float, poll_s: float = 0.25) -> None:
        """Wait until `done()`.

        Raises:
            RuntimeError: a started process ended first; the message holds the end of its log.
            TimeoutError: `limit_s` passed; the message holds the end of the first process's log.
        """
        deadline = time.monotonic() + limit_s
        while True:
            ended = [name for name, process in self.started.items() if process.poll() is not None]
            if done():
                return
            if ended:
                raise RuntimeError(f"{ended[0]} ended early: {self.tail(ended[0])}")
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"not done after {limit_s:.0f} s: {self.tail(next(iter(self.started)))}"
                )
            time.sleep(poll_s)

    def tail(self, name: str, characters: int = 2000) -> str:
        """Return the end of a process's log."""
        return (self.logs / f"{name}.log").read_text(errors="replace")[-characters:]

    def stop(self, patience_s: float = 5.0) -> None:
        """End the groups, then every process that still carries the mark."""
        for started in self.started.values():
            if started.poll() is None:
                os.killpg(started.pid, signal.SIGTERM)
        deadline = time.monotonic() + patience_s
        while (left := self._marked()) and time.monotonic() < deadline:
            time.sleep(0.1)
        for _ in range(10):  # a process that is ended may have started another one meanwhile
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()  # psutil compares the start time first: a reused id is safe
            psutil.wait_procs(left, timeout=1.0)
            if not (left := self._marked()):
                break
        for started in self.started.values():
            started.wait(timeout=patience_s)

    def _marked(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if (
                    process.status() != psutil.STATUS_ZOMBIE
                    and process.environ().get(MARK) == self.mark
                ):
                    found.append(process)
            except (psutil.Error, OSError):  # gone meanwhile, or somebody else's
                continue
        return found
