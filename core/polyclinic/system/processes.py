"""Child processes that end with their parent, ports, and pauses between two questions.

Server and client start their processes here (docs/decisions/child-processes.md).
"""

import faulthandler
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from polyclinic.errors import AddressInvalid, ProcessDied, ServerUnreachable, StorageFailed
from polyclinic.system.nursery import FORK, Forked, fork_module
from polyclinic.system.text import clean

ADDRESS_CHARACTERS = 100  # of an address, in a message
PARENT = "POLYCLINIC_PARENT"  # environment variable: id of the process that started this one
GOODBYE_S = 5.0  # time for a process to end in order after its parent is gone
SHARE = 0.05  # length of the next pause, as a share of the time already waited
# Flower sends nothing to its makers
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}


def pause_s(waited_s: float, shortest_s: float = 0.02, longest_s: float = 3.0) -> float:
    """Return how long to sleep before asking again, after waiting `waited_s` for an answer.

    The pause is 5 % of the time waited, within the limits: short while an answer is expected at
    once, long when nothing has happened for long, and never more than 5 % late.
    """
    return min(longest_s, max(shortest_s, SHARE * waited_s))


def start_process(
    command: Sequence[str],
    environment: Mapping[str, str],
    outputs: tuple[int, int],
    files: Sequence[int] = (),
    folder: Path | None = None,
) -> subprocess.Popen[bytes] | Forked:
    """Start a process in a session of its own: a fork, where a nursery is kept.

    Args:
        command: What to run.
        environment: Its whole environment.
        outputs: Numbers of the open files that take stdout and stderr.
        files: Numbers of further open files that it has, too.
        folder: Where it runs; here if None.
    """
    stdout, stderr = outputs
    return fork_module(command, environment, outputs, files, folder) or subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        env=environment,
        cwd=folder,
        start_new_session=True,
        pass_fds=files,
    )


class Child:
    """A child process in a session of its own, with its output in a file.

    A terminal's Ctrl-C does not reach it: the parent ends its children itself, in order.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        env: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self._folder = folder
        self._env = {**QUIET, **(env or {})}
        self._process: subprocess.Popen[bytes] | Forked | None = None

    def start(self, pass_fds: Sequence[int] = ()) -> None:
        """Start the process; its output is appended to the log.

        Args:
            pass_fds: Numbers of open files that it has, too.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            environment = {**os.environ, **self._env, PARENT: str(os.getpid())}
            self._process = start_process(
                self.command, environment, (log.fileno(), log.fileno()), pass_fds, self._folder
            )

    @property
    def pid(self) -> int:
        """Process id; 0 before the start."""
        return self._process.pid if self._process else 0

    def status(self) -> int | None:
        """Return its exit status; None while it runs."""
        return self._process.poll() if self._process else None

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for its end and return its exit status; None if it still runs after `timeout_s`."""
        try:
            return self._process.wait(timeout_s) if self._process else None
        except subprocess.TimeoutExpired:
            return None

    def check(self) -> None:
        """Raise `ProcessDied`, with the last line of the log, if the process has ended."""
        status = self.status()
        if status is not None:
            raise ProcessDied(self.name, status, self.last_words())

    def last_words(self) -> str:
        """Return the last line of its log that holds a letter or a digit."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        words = [line.strip() for line in lines if any(map(str.isalnum, line))]
        return (
            f"{words[-1][:400]} (more in {self.log})"
            if words
            else f"it said nothing (see {self.log})"
        )

    def stop(self, patience_s: float = 5.0) -> None:
        """Ask the process to end (SIGTERM), then kill it; calling this twice does no harm."""
        stop_all([self], patience_s)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole session, so that nothing that the process started is left."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return


def stop_all(children: Sequence[Child], patience_s: float = 5.0) -> None:
    """Ask all processes to end at once (SIGTERM), then kill the rest; safe to call twice."""
    alive = [child for child in children if child.pid and child.status() is None]
    deadline = time.monotonic() + patience_s
    for child in alive:
        child.signal(signal.SIGTERM)
    for child in alive:
        if child.wait(max(0.0, deadline - time.monotonic())) is None:
            child.signal(signal.SIGKILL)
            child.wait(5.0)


def how_it_ended(status: int, beginning: str) -> str:
    """Say how a process ended.

    Args:
        status: Its exit status; the negative number of a signal.
        beginning: Of the sentence, with a verb.
    """
    if status == -signal.SIGKILL:
        return f"{beginning} with status {status}: probably memory ran out"
    return f"{beginning} with status {status}"


def end_with_parent() -> None:
    """Start a thread that ends this process when its parent is gone.

    This holds for a parent killed by SIGKILL, and for one that was gone before this call.
    """
    parent = os.getppid()
    starter = int(os.environ.get(PARENT) or parent)
    forked = os.environ.get(FORK) == str(os.getpid())  # the nursery is no parent to end with
    if starter != parent and not Path(f"/proc/{starter}").exists():
        # it died while this process was still importing; somebody else is the parent now
        parent = starter

    def lives() -> bool:
        return _is_alive(starter) if forked else os.getppid() == parent

    def watch() -> None:
        while lives():
            time.sleep(0.5)
        # gRPC can hang while the interpreter shuts down, when Python threads no longer run: this
        # watchdog is not one
        faulthandler.dump_traceback_later(GOODBYE_S, exit=True)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def _is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and was not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@contextmanager
def lock_file(path: Path) -> Iterator[bool]:
    """Lock a file if no other process has; yields whether the lock is ours.

    The lock ends with the block, or with the process, however that ends.
    """
    with path.open("a") as file:
        yield try_lock(file)


def try_lock(file: IO[str]) -> bool:
    """Lock an open file unless another process has; return success. Closing it unlocks it.

    Raises:
        StorageFailed: The file system locks no files.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StorageFailed(Path(file.name), f"it cannot be locked: {error.strerror}") from error
    return True


def python_module(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a Python module with this interpreter."""
    return [sys.executable, "-m", module, *arguments]


def parse_address(address: str) -> tuple[str, int]:
    """Split HOST:PORT into a pair.

    Raises:
        AddressInvalid: The address has another form.
    """
    host, colon, port = address.rpartition(":")
    shown = clean(address)[:ADDRESS_CHARACTERS]
    if not colon or not host:
        raise AddressInvalid(shown, "no port" if not colon else "no host")
    if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise AddressInvalid(shown, f"'{clean(port)[:ADDRESS_CHARACTERS]}' is not a port number")
    return host.strip("[]"), int(port)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port on which nobody listens at this moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def wait_for_port(address: str, timeout_s: float, child: Child | None = None) -> None:
    """Wait until something accepts connections at an address.

    Args:
        address: HOST:PORT.
        timeout_s: How long to wait.
        child: The process that is expected to listen, if it is ours.

    Raises:
        ServerUnreachable: Nothing accepted a connection in time.
        ProcessDied: `child` has ended.
    """
    host, port = parse_address(address)
    start = time.monotonic()
    while True:
        try:
            with socket.create_connection((host, port), timeout=5.0):
                return
        except OSError as error:
            if child is not None:
                child.check()
            waited_s = time.monotonic() - start
            if waited_s >= timeout_s:
                raise ServerUnreachable(address, error.strerror or str(error)) from error
            time.sleep(min(pause_s(waited_s, 0.05, 1.0), max(timeout_s - waited_s, 0.0)))
