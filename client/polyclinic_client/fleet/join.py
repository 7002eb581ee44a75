"""`polyclinic-client join`: SuperNode, worker and fine-tuning, watched over until the hospital leaves.

They are processes of their own; this one needs neither Flower nor torch, and imports neither.
"""

import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from polyclinic.errors import ProcessDied, ResourceError, RunError, ServerUnreachable
from polyclinic.system.processes import (
    Child,
    free_port,
    lock_file,
    pause_s,
    python_module,
    stop_all,
)
from polyclinic_client.fleet.connection import Connection, Welcome
from polyclinic_client.site.outbox import REFINED, Outbox

STEADY_S = 60.0  # a process that lived so long has started well
DEATHS = 5  # in a row, each sooner than that: then something is wrong here
LOOK_S = 1.0  # between two looks at what is to be done
FAREWELL_S = 2.0
PATIENT_KNOCK_S = 10.0
EXPIRY_DAYS = 30
Say = Callable[[str], None]


def join(connection: Connection, data: Path, state: Path, wait_s: float, say: Say) -> None:
    """Serve the coordinator until interrupted; a process that dies is started again, a lost coordinator is waited for.

    Args:
        connection: The coordinator, and what this hospital is called there.
        data: The folder with dataset.json.
        state: Where the hospital keeps its models, pictures and logs.
        wait_s: How long to wait for a coordinator that does not answer yet.
        say: Told what happens, a line at a time.

    Raises:
        AdmissionRefused: One of the two does not want the other.
        ServerUnreachable: Nobody answered in time.
        ProcessDied: A process of ours dies again and again.
    """
    with only_client(state):
        welcome = meet(connection, wait_s, say)
        say(f"{connection.site}: the coordinator answers; joining. Ctrl-C leaves.")
        pair = Pair(connection, data.resolve(), state.resolve())
        trainer = Trainer(connection.site, data.resolve(), state.resolve(), say)
        trainer.outbox.forget_failure()
        watch = PairWatch(pair, welcome, say)
        try:
            pair.start()
            while True:
                time.sleep(0.25)
                watch.tend()
                trainer.tend()
        finally:
            stop_all(
                [trainer.child, *pair.children], patience_s=4.0
            )  # the SuperNode says goodbye to the coordinator


def describe(connection: Connection, data: Path, state: Path, wait_s: float, say: Say) -> Path:
    """Say what the images are like, receive the model that is made for them, and leave.

    Args:
        connection: The coordinator, and what this hospital is called there.
        data: The folder with dataset.json; labels are not needed, and not read.
        state: Where the model is kept.
        wait_s: How long to wait for a coordinator that does not answer yet.
        say: Told what happens, a line at a time.

    Returns:
        The model's file.

    Raises:
        RunError: The coordinator, or this hospital's own data or minimum of subjects, did not allow it.
        AdmissionRefused: One of the two does not want the other.
        ServerUnreachable: Nobody answered in time.
        ProcessDied: A process of ours dies again and again.
    """
    with only_client(state):
        welcome = meet(connection, wait_s, say)
        say(
            f"{connection.site}: the coordinator answers; it asks what the images are like once it has models to refine. Ctrl-C leaves."
        )
        pair = Pair(connection, data.resolve(), state.resolve(), "describe")
        watch, path = PairWatch(pair, welcome, say), state / REFINED
        before, began = _changed_at(path), time.time()
        try:
            pair.start()
            while _changed_at(path) == before:
                time.sleep(0.1)
                watch.tend()
                _check_status(state / "status.json", began)
            time.sleep(FAREWELL_S)  # the coordinator learns that the model has arrived
        finally:
            stop_all(pair.children, patience_s=4.0)
    return path


def meet(connection: Connection, wait_s: float, say: Say) -> Welcome:
    """Knock until the coordinator answers; tell what the hospital's IT person should know.

    Raises:
        AdmissionRefused: One of the two does not want the other.
        ServerUnreachable: Nobody answered in time.
    """
    say(f"{connection.site}: looking for the coordinator at {connection.server}")
    welcome = connection.wait(wait_s)
    if welcome.days_left is not None and welcome.days_left < EXPIRY_DAYS:
        say(
            f"warning: the coordinator's certificate expires in {welcome.days_left} days; it should renew it"
        )
    if welcome.version != version("polyclinic"):
        say(
            f"warning: the coordinator runs polyclinic {welcome.version}, this is {version('polyclinic')}"
        )
    return welcome


def _check_status(path: Path, began: float) -> None:
    """End where the hospital's worker could not go on."""
    status = _read_status(path)
    if status.get("doing") in ("refused", "failed") and status["time"] >= began:
        raise RunError(f"No model could be had: {status['reason']}")


def _changed_at(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


class Pair:
    """SuperNode and worker: one is of no use without the other, and they are started and ended together."""

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
        """The one that ended, if one did."""
        return next((child for child in self.children if child.status() is not None), None)

    def stop(self) -> None:
        """End both."""
        stop_all(self.children, patience_s=4.0)


def supernode(
    connection: Connection,
    runtime_port: int,
    folder: Path,
    secret: Path,
    node_config: dict[str, str],
) -> Child:
    """A SuperNode that dials the coordinator's Fleet API and offers its work to a worker on loopback.

    Args:
        connection: The coordinator.
        runtime_port: Loopback port of the Runtime API.
        folder: Keeps its log.
        secret: File with the secret that the worker must know.
        node_config: What the ClientApp is told about this hospital; stays on this machine.
    """
    settings = " ".join(f"{key}={_quote(value)}" for key, value in node_config.items())
    command = python_module(
        "polyclinic_client.fleet.supernode", *connection.supernode_arguments(folder), "--isolation", "process", "--host", "127.0.0.1",
        "--port", str(runtime_port), "--superexec-auth-secret-file", str(secret), "--node-config", settings,
    )  # fmt: skip
    return Child(
        "Flower's SuperNode", command, folder / "supernode.log", {"FLWR_HOME": str(folder / "flwr")}
    )


def _quote(value: str) -> str:
    """A TOML string."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def worker(runtime_port: int, folder: Path, secret: Path) -> Child:
    """The worker as a child process of the hospital's client."""
    command = python_module(
        "polyclinic_client.fleet.worker", f"127.0.0.1:{runtime_port}", str(secret)
    )
    return Child("the hospital's worker", command, folder / "worker.log", {"OMP_NUM_THREADS": "1"})


class PairWatch:
    """Starts the pair again when one of them dies; waits for a lost coordinator for ever; tells what the worker does.

    Args:
        pair: Started by the caller.
        welcome: What the coordinator last said.
        say: Told what happens.
    """

    def __init__(self, pair: Pair, welcome: Welcome, say: Say) -> None:
        self._pair = pair
        self._instance = welcome.instance
        self._say = say
        self._falls, self._started, self._told = 0, time.monotonic(), ""
        self._down_since: float | None = None  # since when the pair is stopped
        self._not_before = 0.0

    def tend(self) -> None:
        """Look once.

        Raises:
            AdmissionRefused: The coordinator does not let this hospital in any more.
            ProcessDied: The worker dies again and again; a SuperNode's death is a matter of the connection.
        """
        self._told = _tell(self._pair.state / "status.json", self._told, self._say)
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
            f"{dead.name} ended with status {status}: {words}. Joining again as soon as the coordinator answers."
        )

    def _return(self) -> None:
        """Knock, and start the pair again once the coordinator answers."""
        moment = time.monotonic()
        if moment < self._not_before:
            return
        try:
            welcome = self._pair.connection.knock(PATIENT_KNOCK_S)
        except ServerUnreachable:
            self._not_before = time.monotonic() + pause_s(
                moment - (self._down_since or moment), 0.5, 15.0
            )
            return
        if welcome.instance != self._instance:
            self._instance, self._falls = (
                welcome.instance,
                0,
            )  # it was the coordinator that was started again
        self._say("the coordinator answers; joining again")
        self._pair.start()
        self._started, self._down_since = time.monotonic(), None


class Trainer:
    """Starts fine-tuning whenever the outbox says that there is something to do; a crash is followed by another try."""

    def __init__(self, name: str, data: Path, state: Path, say: Say) -> None:
        self.outbox = Outbox(state, data)
        self._say = say
        command = python_module("polyclinic_client.site.fine_tuning", name, str(data), str(state))
        self.child = Child(
            "fine-tuning", command, state / "fine_tuning.log", {"OMP_NUM_THREADS": "1"}
        )
        self._looked = self._not_before = 0.0
        self.working = ""  # the key of the work that the child does
        self._crashes = 0

    def tend(self) -> None:
        """Look once."""
        moment = time.monotonic()
        if moment - self._looked < LOOK_S or (self.working and self.child.status() is None):
            return
        self._looked = moment
        if self.working:
            self._conclude(self.child.status() or 0)
        key = self.outbox.todo() if moment >= self._not_before else None
        if key is not None:
            self.working = key
            self._say("fine-tuning starts")
            self.child.start()

    def _conclude(self, status: int) -> None:
        """Say how the work ended; a crash is tried again, a reason is not."""
        key, self.working = self.working, ""
        failure = self.outbox.failure() or {}
        if status == 0:
            self._crashes = 0
            self._say(
                "fine-tuning is done; the contribution waits in the outbox for the coordinator's next question"
            )
        elif failure.get("key") == key:
            self._say(f"fine-tuning failed: {self.child.last_words()}")
        else:
            self._crashes += 1
            self._not_before = time.monotonic() + pause_s(20.0 * 2**self._crashes, 0.1, 30.0)
            self._say(
                f"fine-tuning ended with status {status}: {self.child.last_words()}. It goes on after its last pass."
            )
            if self._crashes >= DEATHS:
                self.outbox.fail(
                    key,
                    "the training process died again and again; the hospital's log has the details",
                )


def _tell(path: Path, told: str, say: Say) -> str:
    """Say what status.json says, if it is news."""
    status = _read_status(path)
    if status.get("doing", "waiting") == "waiting":
        return told
    reason = f": {status['reason']}" if status.get("reason") else ""
    news = f"{status['run']} {status['arm']} round {status['round']} of {status['rounds']}: {status['doing']}{reason}"
    if news != told:
        say(news)
    return news


def _read_status(path: Path) -> dict[str, Any]:
    """What the worker says that it does; nothing if it has not said anything."""
    try:
        status: dict[str, Any] = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return status


@contextmanager
def only_client(state: Path) -> Iterator[None]:
    """One client for one state folder.

    Raises:
        ResourceError: Another one runs with it, or it cannot be written to.
    """
    try:
        state.mkdir(parents=True, exist_ok=True)
        (state / "lock").touch()
    except OSError as error:
        raise ResourceError(
            f"{state}: cannot keep state there ({error.strerror}). Choose another folder with --state."
        ) from error
    with lock_file(state / "lock") as mine:
        if not mine:
            raise ResourceError(
                f"{state}: another client is running with this folder. End it, or choose another --name or --state."
            )
        yield
