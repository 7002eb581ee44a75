"""`polyclinic-client join`: SuperNode and worker, watched over until the hospital leaves.

The two are processes of their own; this one needs neither Flower nor torch, and imports neither.
"""

import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from polyclinic.errors import ProcessDied, ResourceError
from polyclinic.processes import Child, free_port, parse_address, pause_s, python_module, stop_all, wait_for_port

STEADY_S = 60.0  # a process that lived so long has started well
DEATHS = 5  # in a row, each sooner than that: then something is wrong here
Say = Callable[[str], None]


def join(server: str, data: Path, name: str, state: Path, wait_s: float, say: Say) -> None:
    """Serve the coordinator until interrupted; a process that dies is started again.

    Args:
        server: HOST:PORT.
        data: The folder with dataset.json.
        name: What this hospital is called.
        state: Where it keeps its models, pictures and logs.
        wait_s: How long to wait for a coordinator that does not answer yet.
        say: Told what happens, a line at a time.

    Raises:
        ServerUnreachable: Nobody answered in time.
        ProcessDied: A process of ours dies again and again.
    """
    parse_address(server)
    with _lock(state):
        say(f"{name}: looking for the coordinator at {server}")
        wait_for_port(server, wait_s)
        say(f"{name}: the coordinator answers; joining. Ctrl-C leaves.")
        pair = _Pair(server, data.resolve(), name, state.resolve())
        try:
            pair.start()
            _watch(pair, say)
        finally:
            pair.stop()


class _Pair:
    """SuperNode and worker: one is of no use without the other, and they are started and ended together."""

    def __init__(self, server: str, data: Path, name: str, state: Path) -> None:
        self._arguments = server, data, name, state
        self.state = state
        self.children: list[Child] = []

    def start(self) -> None:
        """Start both, with a new secret and port."""
        server, data, name, state = self._arguments
        secret = state / "secret"
        secret.touch(mode=0o600)
        secret.write_bytes(secrets.token_bytes(32))
        port = free_port()
        node_config = {"site": name, "data": str(data), "state": str(state)}
        self.children = [supernode(server, port, state, secret, node_config), worker(port, state, secret)]
        for child in self.children:
            child.start()

    def dead(self) -> Child | None:
        """The one that ended, if one did."""
        return next((child for child in self.children if child.status() is not None), None)

    def stop(self) -> None:
        """End both; the SuperNode says goodbye to the coordinator."""
        stop_all(self.children, patience_s=4.0)


def supernode(server: str, runtime_port: int, folder: Path, secret: Path, node_config: dict[str, str]) -> Child:
    """A SuperNode that dials `server` and offers its work to a worker on loopback.

    Args:
        server: HOST:PORT of the coordinator's Fleet API.
        runtime_port: Loopback port of the Runtime API.
        folder: Keeps its log.
        secret: File with the secret that the worker must know.
        node_config: What the ClientApp is told about this hospital; stays on this machine.
    """
    settings = " ".join(f"{key}={_quote(value)}" for key, value in node_config.items())
    command = python_module(
        "client.supernode", "--insecure", "--superlink", server, "--isolation", "process", "--host", "127.0.0.1",
        "--port", str(runtime_port), "--superexec-auth-secret-file", str(secret), "--node-config", settings,
    )  # fmt: skip
    return Child("Flower's SuperNode", command, folder / "supernode.log", {"FLWR_HOME": str(folder / "flwr")})


def _quote(value: str) -> str:
    """A TOML string."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def worker(runtime_port: int, folder: Path, secret: Path) -> Child:
    """The worker as a child process of the hospital's client."""
    command = python_module("client.worker", f"127.0.0.1:{runtime_port}", str(secret))
    return Child("the hospital's worker", command, folder / "worker.log", {"OMP_NUM_THREADS": "1"})


def _watch(pair: _Pair, say: Say) -> None:
    """Start the pair again when one of them dies, with growing pauses; tell what the worker does."""
    deaths, started, told = 0, time.monotonic(), ""
    while True:
        time.sleep(0.25)
        told = _tell(pair.state / "status.json", told, say)
        dead = pair.dead()
        if dead is None:
            continue
        deaths = 1 if time.monotonic() - started > STEADY_S else deaths + 1
        status, words = dead.status() or 0, dead.last_words()
        pair.stop()
        if deaths >= DEATHS:
            raise ProcessDied(dead.name, status, words)
        rest = pause_s(20.0 * 2**deaths, 0.1, 30.0)
        say(f"{dead.name} ended with status {status}: {words}. Starting again in {rest:.0f} s.")
        time.sleep(rest)
        pair.start()
        started = time.monotonic()


def _tell(path: Path, told: str, say: Say) -> str:
    """Say what status.json says, if it is news."""
    try:
        status = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return told
    news = f"{status['run']} {status['arm']} round {status['round']} of {status['rounds']}: {status['doing']}"
    if status["doing"] != "waiting" and news != told:
        say(news)
        return news
    return told


@contextmanager
def _lock(state: Path) -> Iterator[None]:
    """One client for one state folder."""
    import fcntl

    try:
        state.mkdir(parents=True, exist_ok=True)
        file = (state / "lock").open("w")
    except OSError as error:
        raise ResourceError(f"{state}: cannot keep state there ({error.strerror}). Choose another folder with --state.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ResourceError(
                f"{state}: another client is running with this folder. End it, or choose another --name or --state."
            ) from error
        yield
