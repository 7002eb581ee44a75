"""Nursery: a process that imports what is slow once, and forks children that have it already.

A machine that plays the coordinator and all hospitals starts a dozen Python processes, and each
would import torch and MONAI. While the environment names a nursery, `Child` asks it instead of
starting an interpreter. The fork has the command, environment, session, output and open files that
the interpreter would have had. Demos and tests keep a nursery; a real federation has none.

Request on a Unix socket: JSON {"command", "environment", "folder", "files", "starter"} with the
open files [stdout, stderr, *files]. Answer: the process's id, later its exit status, each in 4
bytes. To the request {} without files it says who lives: JSON [[starter, process, command], ...].
"""

import atexit
import gc
import json
import os
import random
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

NURSERY = "POLYCLINIC_NURSERY"  # environment variable: the socket's path
FORK = "POLYCLINIC_FORK"  # environment variable of a fork: its own id
# read by the interpreter or by libraries when they begin: a fork cannot have others
FIXED = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "PYTHONPATH", "PYTHONHASHSEED")
READY = ".ready"  # ends the name of a file that is there once everything is imported
NUMBER = struct.Struct(">i")
LARGEST_BYTES = 1 << 17  # of a request
MOST_FILES = 8
FORK_SAFE = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}  # a look for a GPU does not open it
HIGH = 1000  # file numbers from here on are free


class Forked:
    """A process that a nursery forked, with the part of `subprocess.Popen` that is needed."""

    def __init__(self, link: socket.socket, pid: int) -> None:
        self._link = link
        self.pid = pid
        self.returncode: int | None = None

    def __del__(self) -> None:
        self._link.close()

    def poll(self) -> int | None:
        """Return its exit status; None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return its exit status.

        Raises:
            subprocess.TimeoutExpired: It still runs after so many seconds.
        """
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._link, selectors.EVENT_READ)
                if not selector.select(timeout):
                    raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            # left there: several threads may wait
            status = self._link.recv(NUMBER.size, socket.MSG_PEEK)
            # a nursery that was killed takes what it knows along
            self.returncode = NUMBER.unpack(status)[0] if status else -signal.SIGKILL
        return self.returncode


def fork_module(
    command: Sequence[str],
    environment: Mapping[str, str],
    outputs: tuple[int, int],
    files: Sequence[int],
    folder: Path | None,
) -> Forked | None:
    """Start `PYTHON -m MODULE ARGUMENT...` as a fork of the nursery.

    Args:
        command: What to run.
        environment: Its whole environment.
        outputs: Numbers of the open files that take stdout and stderr.
        files: Numbers of further open files, which it has under the same numbers.
        folder: Where it runs; here if None.

    Returns:
        The process; None where there is no nursery, or the command is none for a fork.
    """
    path = environment.get(NURSERY)
    if not path or list(command[:2]) != [sys.executable, "-m"]:
        return None
    request = {
        "command": list(command),
        "environment": dict(environment),
        "folder": str(folder or Path.cwd()),
        "files": list(files),
        "starter": os.getpid(),
    }
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        link.connect(path)
        socket.send_fds(link, [json.dumps(request).encode()], [*outputs, *files])
        answer = link.recv(NUMBER.size)
    except OSError:  # it ended, as its starter did
        answer = b""
    if not answer:
        link.close()
        return None
    return Forked(link, NUMBER.unpack(answer)[0])


def forks_of(pid: int) -> dict[int, list[str]]:
    """Return the forks that a process asked for and that live, with their commands."""
    path = os.environ.get(NURSERY)
    if not path:
        return {}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link, suppress(OSError):
        link.connect(path)
        link.send(b"{}")
        living = json.loads(link.recv(LARGEST_BYTES) or b"[]")
        return {fork: command for starter, fork, command in living if starter == pid}
    return {}


@contextmanager
def nursery(modules: Sequence[str]) -> Iterator[Callable[[], bool]]:
    """Keep a nursery; children that are started meanwhile are forked from it.

    It imports while the caller goes on. To start a child waits until it is ready.

    Args:
        modules: What it imports.

    Yields:
        Tells whether it is ready.
    """
    if not hasattr(os, "pidfd_open") or os.environ.get(NURSERY):
        yield lambda: True
        return
    with TemporaryDirectory(prefix="polyclinic-") as folder:
        path = str(Path(folder) / "nursery")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
            listening.bind(path)
            listening.listen(128)
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(listening.fileno()), path, *modules],
                env={**os.environ, "OMP_NUM_THREADS": "1", **FORK_SAFE},
                stdin=subprocess.PIPE,  # which closes when this process ends, however it does
                pass_fds=[listening.fileno()],
                start_new_session=True,
            )
        os.environ[NURSERY] = path
        try:
            yield lambda: Path(path + READY).exists()
        finally:
            os.environ.pop(NURSERY, None)
            process.terminate()
            process.communicate()


@dataclass(frozen=True)
class _Living:
    """A child that lives; `link` leads to who asked for it."""

    starter: int
    pid: int
    command: list[str]
    link: socket.socket


class _Nursery:
    """The forking side.

    Args:
        listening: Where requests arrive.
        life: Number of a file that reaches its end when the nursery shall end.
    """

    def __init__(self, listening: socket.socket, life: int) -> None:
        self._listening = listening
        self._selector = selectors.DefaultSelector()
        self._selector.register(listening, selectors.EVENT_READ)
        self._selector.register(life, selectors.EVENT_READ, "end")
        self._children: dict[int, _Living] = {}  # by their handles

    def serve(self) -> dict[str, Any] | None:
        """Fork child after child.

        Returns:
            In a child, its request; in the nursery itself, at its end, None.
        """
        while True:
            for key, _ in self._selector.select():
                if key.data == "end":
                    return None
                if key.fileobj is not self._listening:
                    self._bury(key.fd)
                elif (request := self._fork()) is not None:
                    return request

    def _fork(self) -> dict[str, Any] | None:
        link, _ = self._listening.accept()
        content, files, _, _ = socket.recv_fds(link, LARGEST_BYTES, MOST_FILES)
        request: dict[str, Any] = json.loads(content) if content else {}
        pid = os.fork() if request and _is_possible(request) else None
        if pid == 0:
            self._close(link)
            _take_over(request, files)
            return request
        for number in files:
            os.close(number)
        if pid is None:
            with link, suppress(OSError):
                if not files:
                    children = self._children.values()
                    listed = [[each.starter, each.pid, each.command] for each in children]
                    link.send(json.dumps(listed).encode())
            return None
        handle = os.pidfd_open(pid)
        self._children[handle] = _Living(request["starter"], pid, request["command"], link)
        self._selector.register(handle, selectors.EVENT_READ)
        with suppress(OSError):  # who asked may be gone
            link.send(NUMBER.pack(pid))
        return None

    def _close(self, link: socket.socket) -> None:
        """In a child: close what is the nursery's, now and not when it is collected."""
        self._selector.close()
        self._listening.close()
        for each in (link, *(child.link for child in self._children.values())):
            each.close()

    def _bury(self, handle: int) -> None:
        """Pass on how a child ended."""
        child = self._children.pop(handle)
        self._selector.unregister(handle)
        os.close(handle)
        status = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
        with child.link, suppress(OSError):
            child.link.send(NUMBER.pack(status))


def _is_possible(request: Mapping[str, Any]) -> bool:
    """Tell whether a fork can have the interpreter and the environment that are asked for."""
    wanted = request["environment"]
    return bool(request["command"][0] == sys.executable) and all(
        wanted.get(name) == os.environ.get(name) for name in FIXED
    )


def _take_over(request: Mapping[str, Any], files: Sequence[int]) -> None:
    """Become the process that was asked for: its session, files, environment and chance."""
    os.setsid()
    for number, taken in enumerate(files, HIGH):
        os.dup2(taken, number)
    os.closerange(3, HIGH)
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(HIGH, 1)
    os.dup2(HIGH + 1, 2)
    for number, wanted in enumerate(request["files"], HIGH + 2):
        os.dup2(number, wanted)
    os.closerange(HIGH, HIGH + len(files))
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"], **{FORK: str(os.getpid())})
    sys.path[0] = request["folder"]
    random.seed()
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()


def main() -> None:
    """Run `python -m polyclinic.system.nursery SOCKET PATH MODULE...`, until its input ends."""
    for name in sys.argv[3:]:
        import_module(name)
    Path(sys.argv[2] + READY).touch()
    gc.freeze()  # a fork's collector leaves alone, and so shares, what was imported
    with socket.socket(fileno=int(sys.argv[1])) as listening:
        request = _Nursery(listening, 0).serve()
    if request is None:
        return
    _, _, module, *sys.argv[1:] = request["command"]
    sys.modules.pop(module, None)  # it runs anew, as what it is started as
    status = [0]
    atexit.register(_leave, status)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as error:
        status[0] = error.code if isinstance(error.code, int) else int(error.code is not None)
        raise
    except BaseException:
        status[0] = 1
        raise


def _leave(status: Sequence[int]) -> None:
    """End a fork after its own exit functions, without taking apart all that was imported."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status[0] & 0xFF)


if __name__ == "__main__":
    main()
