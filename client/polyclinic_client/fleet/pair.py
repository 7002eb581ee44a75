"""SuperNode and worker: the two child processes that take part in a federation together."""

import secrets
import time
from pathlib import Path

from polyclinic.errors import ProcessDied, ServerUnreachable
from polyclinic.system.processes import Child, free_port, pause_s, python_module, stop_all
from polyclinic_client.fleet.connection import Connection, Say, Welcome
from polyclinic_client.site.status import WORKER, StatusNews, worker_news

STEADY_S = 60.0  # a process that lived so long has started well
DEATHS = 5  # in a row, each sooner than that: then something is wrong here
HANDSHAKE_S = 10.0


class Pair:
    """SuperNode and worker, which are started and ended together.

    Args:
        connection: The coordinator.
        data: Folder with dataset.json.
        state: Folder of logs, secret and status.
        mode: train or describe, see `polyclinic_client.site.site.Site`.
    """

    def __init__(
        self, connection: Connection, data: Path, state: Path, mode: str = "train"
    ) -> None:
        self.connection = connection
        self._node_config = {
            "site": connection.site,
            "data": str(data),
            "state": str(state),
            "mode": mode,
        }
        self.state = state
        self.children: list[Child] = []

    def start(self) -> None:
        """Start both, with a new secret and port."""
        secret = self.state / "secret"
        secret.touch(mode=0o600)
        secret.write_bytes(secrets.token_bytes(32))
        port = free_port()
        self.children = [
            supernode(self.connection, port, self.state, secret, self._node_config),
            worker(port, self.state, secret),
        ]
        for child in self.children:
            child.start()

    def dead(self) -> Child | None:
        """Return the one that ended, if one did."""
        return next((child for child in self.children if child.status() is not None), None)

    def stop(self) -> None:
        """End both."""
        stop_all(self.children, patience_s=4.0)


class PairWatch:
    """Starts the pair again when one of them dies, and waits for a lost coordinator without end.

    Args:
        pair: Started by the caller.
        welcome: What the coordinator last said.
        say: Told what happens, and what the worker does.
    """

    def __init__(self, pair: Pair, welcome: Welcome, say: Say) -> None:
        self._pair = pair
        self._instance = welcome.instance
        self._say = say
        self._news = StatusNews(pair.state / WORKER, worker_news, say)
        self._falls, self._started = 0, time.monotonic()
        self._down_since: float | None = None  # since when the pair is stopped
        self._not_before = 0.0

    def tend(self) -> None:
        """Look once.

        Raises:
            AdmissionRefused: The coordinator does not let this hospital in any more.
            ProcessDied: The worker dies again and again. A SuperNode may die as often as it likes:
                that is a matter of the connection.
        """
        self._news.tend()
        if self._down_since is not None:
            self._return()
        elif (dead := self._pair.dead()) is not None:
            self._fall(dead)

    def _fall(self, dead: Child) -> None:
        """Stop both, and decide when to come back."""
        status, words = dead.status() or 0, dead.last_words()
        self._pair.stop()
        self._falls = 1 if time.monotonic() - self._started > STEADY_S else self._falls + 1
        if self._falls >= DEATHS and dead is not self._pair.children[0]:
            raise ProcessDied(dead.name, status, words)
        self._down_since = time.monotonic()
        self._not_before = self._down_since + pause_s(20.0 * 2**self._falls, 0.1, 30.0)
        self._say(
            f"{dead.name} ended with status {status}: {words}. Joining again as soon as the "
            "coordinator answers."
        )

    def _return(self) -> None:
        """Start the pair again once the coordinator answers a handshake."""
        moment = time.monotonic()
        if moment < self._not_before:
            return
        try:
            welcome = self._pair.connection.handshake(HANDSHAKE_S)
        except ServerUnreachable:
            down_s = moment - (self._down_since or moment)
            self._not_before = time.monotonic() + pause_s(down_s, 0.5, 15.0)
            return
        if welcome.instance != self._instance:  # it was the coordinator that was started again
            self._instance, self._falls = welcome.instance, 0
        self._say("the coordinator answers; joining again")
        self._pair.start()
        self._started, self._down_since = time.monotonic(), None


def supernode(
    connection: Connection,
    runtime_port: int,
    folder: Path,
    secret: Path,
    node_config: dict[str, str],
) -> Child:
    """Make a SuperNode that dials the coordinator and offers its work to a worker on loopback.

    Args:
        connection: The coordinator.
        runtime_port: Loopback port of the Runtime API.
        folder: Keeps its log.
        secret: File with the secret that the worker must know.
        node_config: What the ClientApp is told about this hospital; stays on this machine.
    """
    settings = " ".join(f"{key}={_quote(value)}" for key, value in node_config.items())
    command = python_module(
        "polyclinic_client.fleet.supernode",
        *connection.supernode_arguments(folder),
        *("--isolation", "process"),
        *("--host", "127.0.0.1", "--port", str(runtime_port)),
        *("--superexec-auth-secret-file", str(secret)),
        *("--node-config", settings),
    )
    environment = {"FLWR_HOME": str(folder / "flwr")}
    return Child("Flower's SuperNode", command, folder / "supernode.log", environment)


def worker(runtime_port: int, folder: Path, secret: Path) -> Child:
    """Make the worker that answers the coordinator's questions."""
    command = python_module(
        "polyclinic_client.fleet.worker", f"127.0.0.1:{runtime_port}", str(secret)
    )
    return Child("the hospital's worker", command, folder / "worker.log", {"OMP_NUM_THREADS": "1"})


def _quote(value: str) -> str:
    """Write a TOML string."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
