"""Flower's SuperLink as a child process, and the grid through which a coordinator's run reaches it.

All of Flower that is private and that the coordinator needs is met here. The SuperLink runs with `--isolation process`: it starts no
code itself. This process asks it for the task of a run and does the run itself, so that either may die
alone: a SuperLink that dies is started again, `SuperLinkLost` tells the coordinator, and the run is taken up after its last round. Its
state is kept in memory on purpose (docs/decisions/superlink-in-memory.md): what must last lies in the run's folder.
"""

import hashlib
import io
import os
import secrets
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from flwr.common.constant import SubStatus
from flwr.common.serde import fab_to_proto, run_from_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.inflatable.inflatable_utils import pull_objects
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.retry import RetryInvoker, exponential
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid

from polyclinic.errors import PolyclinicError, ProcessDied, RunError, ServerUnreachable
from polyclinic.system.processes import (
    PROMPT,
    Child,
    claim_port,
    free_port,
    pause_s,
    python_module,
    wait_for_port,
)
from polyclinic_server.fleet.http_grid import PatientHttpGrid

SECURITY, SOCKETS = (
    "POLYCLINIC_SECURITY_FOLDER",
    "POLYCLINIC_SOCKETS_FOLDER",
)  # what `polyclinic_server.fleet.fleet` reads
LOOPBACK = "127.0.0.1"
START_S = 180.0  # a busy machine needs long to import it
PATIENCE_S = 60.0  # with a SuperLink that does not answer
RESTARTS = 5  # of the SuperLink within a minute, then something is wrong with it
pull_objects.__kwdefaults__.update(PROMPT)  # type: ignore[union-attr]


class SuperLinkLost(RunError):
    """The SuperLink died and another one runs now: open a new run on it."""

    def __init__(self) -> None:
        super().__init__("Flower's SuperLink died and was started again.")


class SuperLink:
    """A running SuperLink; leaves nothing behind when left.

    Args:
        folder: Keeps its log and its secret; one folder, one SuperLink.
        host, port: Where hospitals dial (the Fleet API); port 0 takes a free one.
        on_event: Told about restarts, as (kind, text).
        security: The coordinator's keys and certificates; None serves loopback in plain text.
    """

    def __init__(
        self, folder: Path, host: str, port: int, on_event: Callable[[str, str], None] = lambda _kind, _text: None,
        security: Path | None = None,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.host = host
        self.port = claim_port(host, port, "deployment.port=NUMBER")
        self._control = f"{LOOPBACK}:{free_port()}"
        self._on_event = on_event
        self._secret = secrets.token_bytes(32)
        self._leaving = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="superlink-watch", daemon=True)
        self.restarts = 0
        self.failure: ProcessDied | None = None  # why it is not started again
        self._sockets = tempfile.TemporaryDirectory(
            prefix="polyclinic-", ignore_cleanup_errors=True
        )  # a socket's path must be short
        environment = {
            "FLWR_HOME": str(folder / "flwr"),
            SECURITY: str(security.resolve()) if security else "",
            SOCKETS: self._sockets.name,
        }
        self.child = Child(
            "Flower's SuperLink", self._command(), folder / "superlink.log", environment
        )

    def __enter__(self) -> Self:
        self._start()
        self._watcher.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leaving.set()
        self.child.stop()
        self._sockets.cleanup()

    @property
    def address(self) -> str:
        """HOST:PORT for the hospitals."""
        return f"{self.host}:{self.port}"

    def _command(self) -> list[str]:
        _, control_port = self._control.split(":")
        return python_module(
            "polyclinic_server.fleet.fleet", "--insecure", "--isolation", "process", "--disable-runtime-dependency-installation",
            "--host", LOOPBACK, "--port", control_port, "--fleet-api-address", self.address,
            "--superexec-auth-secret-file", str(self.folder / "secret"),
        )  # fmt: skip

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        secret = os.open(self.folder / "secret", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(secret, "wb") as file:
            file.write(self._secret)
        self.child.start()
        try:
            for address in (self._control, self.address):
                wait_for_port(address, START_S, self.child)
        except ServerUnreachable as error:
            self.child.stop()
            raise RunError(
                f"Flower's SuperLink was not up after {START_S:.0f} s; see {self.child.log}."
            ) from error

    def _watch(self) -> None:
        """Start the SuperLink again when it dies; give up when it keeps dying."""
        deaths: list[float] = []
        while not self._leaving.wait(0.5):
            status = self.child.status()
            if status is None or self._leaving.is_set():
                continue
            deaths = [moment for moment in deaths if time.monotonic() - moment < 60.0] + [
                time.monotonic()
            ]
            if len(deaths) > RESTARTS:
                self.failure = ProcessDied("Flower's SuperLink", status, self.child.last_words())
                return
            self._on_event(
                "superlink", f"the SuperLink ended with status {status}; starting it again"
            )
            time.sleep(0.2 * len(deaths))
            self.restarts += 1
            try:
                self._start()
            except (PolyclinicError, OSError):
                continue

    @contextmanager
    def open_run(self) -> Iterator[HttpGrid]:
        """A run of its own: its grid.

        Leaving reports the outcome to the SuperLink: completed, or failed when an exception passes.

        Raises:
            SuperLinkLost: It died meanwhile, and another one runs now.
            ProcessDied: It died too often.
        """
        restarts = self.restarts
        run_id = self._start_run()
        token = self._acquire(run_id)
        grid = PatientHttpGrid(self._control, insecure=True, token=token)
        # Flower's own retries interrupt the whole process when a token is no longer known; these only bridge a restart.
        grid._retry_invoker = RetryInvoker(
            lambda: exponential(0.1, max_delay=2),
            httpx.TransportError,
            max_tries=None,
            max_time=PATIENCE_S,
        )
        heartbeat = HeartbeatSender(lambda: _beat(grid))
        heartbeat.start()
        outcome, details = SubStatus.FAILED, "interrupted"
        try:
            self._attach(grid)
            yield grid
            outcome, details = SubStatus.COMPLETED, ""
        except httpx.HTTPError as error:
            raise self.failure or (
                SuperLinkLost() if self.restarts > restarts else _unreachable(error, self.child)
            ) from error
        except Exception as error:
            details = type(error).__name__
            raise
        finally:
            heartbeat.stop()
            self._report(grid, outcome, details)
            grid.close()

    def _start_run(self) -> int:
        content = _empty_bundle()
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        client = ControlHttpClient.from_server_address(
            self._control, True, None, [RuntimeVersionHttpInterceptor("flwr-cli")]
        )
        try:
            answer = client.StartRun(StartRunRequest(fab=fab_to_proto(fab)))
        except httpx.HTTPError as error:
            raise _unreachable(error, self.child) from error
        finally:
            client.close()
        return int(answer.run_id)

    def _acquire(self, run_id: int) -> str:
        """The token of the run's ServerApp task."""
        method = "/flwr.proto.Runtime/AcquireTask"
        signer = SuperExecAuthHttpInterceptor(
            master_secret=self._secret, protected_methods={method}
        )
        version = RuntimeVersionHttpInterceptor("flwr-serverapp")
        client = RuntimeHttpClient.from_server_address(self._control, True, None, [version, signer])
        start = time.monotonic()
        try:
            while time.monotonic() - start < 30.0:
                answer = client.AcquireTask(
                    AcquireTaskRequest(supported_task_types=["flwr-serverapp"])
                )
                if answer.token and answer.task.run_id == run_id:
                    return str(answer.token)
                time.sleep(pause_s(time.monotonic() - start, 0.05, 1.0))
        finally:
            client.close()
        raise RunError(f"The SuperLink offers no task for run {run_id}; see {self.child.log}.")

    def _attach(self, grid: HttpGrid) -> None:
        """Take up the run's task, as Flower's executor would for a ServerApp."""
        answer = grid._runtime_client.PullTaskInput(PullTaskInputRequest())
        TaskIdentity.task_id = answer.task_id
        TaskIdentity.run_id = answer.run.run_id
        TaskIdentity.node_id = answer.context.node_id
        grid.set_run(run_from_proto(answer.run))

    def _report(self, grid: HttpGrid, outcome: str, details: str) -> None:
        grid._retry_invoker.max_tries = 1
        try:
            grid._runtime_client.PushTaskOutput(
                PushTaskOutputRequest(sub_status=outcome, details=details)
            )
        except (httpx.HTTPError, RuntimeError):
            return  # it will notice by the missing heartbeat


def _beat(grid: HttpGrid) -> bool:
    """One heartbeat; a refused one only means that the run will end by itself."""
    try:
        grid._runtime_client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
    except httpx.TransportError:
        return False
    except httpx.HTTPError:
        return True
    return True


def _unreachable(error: Exception, child: Child) -> RunError:
    return RunError(
        f"The SuperLink does not answer as it should ({type(error).__name__}); see {child.log}."
    )


def _empty_bundle() -> bytes:
    """A Flower App Bundle without code: both sides run what is installed there."""
    project = (
        '[project]\nname = "polyclinic"\nversion = "0.1.0"\nlicense = "Apache-2.0"\n'
        '[tool.flwr.app]\npublisher = "polyclinic"\n'
        '[tool.flwr.app.components]\nserverapp = "polyclinic_server.runs.app:coordinate"\nclientapp = "polyclinic_client.fleet.app:app"\n'
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        bundle.writestr("pyproject.toml", project)
    return buffer.getvalue()
