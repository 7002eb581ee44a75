"""`polyclinic-client join`: keep the line to the coordinator, and watch worker and fine-tuning.

They are processes of their own; this one needs neither Flower nor torch, and imports neither.
"""

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from polyclinic.errors import ResourceError, RunError
from polyclinic.system.durable import make_private_folder
from polyclinic.system.processes import lock_file, stop_all
from polyclinic_client.fleet.fine_tuner import FineTuner
from polyclinic_client.fleet.supervisor import Supervisor
from polyclinic_client.network.connection import Connection, Say
from polyclinic_client.network.introduction import Welcome
from polyclinic_client.site.outbox import REFINED
from polyclinic_client.site.status import CONNECTION, LOST, WORKER, StatusFile

FAREWELL_S = 10.0
EXPIRY_DAYS = 30


def join(connection: Connection, data: Path, state: Path, wait_s: float, say: Say) -> None:
    """Serve the coordinator until interrupted.

    A process that dies is started again. A coordinator that is lost is waited for.

    Args:
        connection: The coordinator, and what this hospital is called there.
        data: Folder with dataset.json.
        state: Folder of the hospital's models, pictures and logs.
        wait_s: Seconds to wait for a coordinator that does not answer yet.
        say: Told what happens, a line at a time.

    Raises:
        AdmissionRefused: One of the two does not want the other.
        ServerUnreachable: Nobody answered in time.
        ProcessDied: A process of ours dies again and again.
    """
    with only_client(state):
        connect(connection, wait_s, say)
        say(f"{connection.site}: the coordinator answers; joining. Ctrl-C leaves.")
        supervisor = Supervisor(connection, data.resolve(), state.resolve(), say)
        trainer = FineTuner(connection.site, data.resolve(), state.resolve(), say)
        trainer.outbox.forget_failure()
        try:
            supervisor.start()
            while True:
                time.sleep(0.25)
                supervisor.tend()
                trainer.tend()
        finally:
            leave(supervisor, trainer)


def describe(connection: Connection, data: Path, state: Path, wait_s: float, say: Say) -> Path:
    """Say what the images are like, receive the model that is made for them, and leave.

    Args:
        connection: The coordinator, and what this hospital is called there.
        data: Folder with dataset.json; labels are not needed, and not read.
        state: Folder where the model is kept.
        wait_s: Seconds to wait for a coordinator that does not answer yet.
        say: Told what happens, a line at a time.

    Returns:
        The model's file.

    Raises:
        RunError: The coordinator, or this hospital's data or minimum of subjects, did not allow it.
        AdmissionRefused: One of the two does not want the other.
        ServerUnreachable: Nobody answered in time.
        ProcessDied: A process of ours dies again and again.
    """
    with only_client(state):
        connect(connection, wait_s, say)
        say(
            f"{connection.site}: the coordinator answers; it asks what the images are like once it "
            "has models to refine. Ctrl-C leaves."
        )
        supervisor = Supervisor(connection, data.resolve(), state.resolve(), say, "describe")
        path = state / REFINED
        before, began, failure = _changed_at(path), time.time(), ""
        try:
            supervisor.start()
            while not failure and _changed_at(path) == before:
                time.sleep(0.1)
                supervisor.tend()
                failure = find_failure(state, began, supervisor.failures)
            supervisor.settle(FAREWELL_S)  # the coordinator learns of the model, or of the failure
        finally:
            supervisor.leave()
    if failure:
        raise RunError(f"No model could be had: {failure}")
    return path


def connect(connection: Connection, wait_s: float, say: Say) -> Welcome:
    """Wait for the coordinator's handshake; tell what the hospital's IT person should know.

    Raises:
        AdmissionRefused: One of the two does not want the other.
        ServerUnreachable: Nobody answered in time.
    """
    if connection.kit is not None:
        say(
            f"{connection.site}: this hospital's key {connection.kit.key}, the coordinator's "
            f"authority {connection.kit.authority}. Compare both with the coordinator by telephone "
            "once."
        )
    say(f"{connection.site}: looking for the coordinator at {connection.server}")
    welcome = connection.wait(wait_s)
    if welcome.days_left is not None and welcome.days_left < EXPIRY_DAYS:
        say(
            f"warning: the coordinator's certificate expires in {welcome.days_left} days; it "
            "should renew it"
        )
    if welcome.version != version("polyclinic"):
        say(
            f"warning: the coordinator runs polyclinic {welcome.version}, this is "
            f"{version('polyclinic')}"
        )
    return welcome


def leave(supervisor: Supervisor, trainer: FineTuner) -> None:
    """Say goodbye to the coordinator, and end all processes."""
    if trainer.child.pid and trainer.child.status() is None:
        trainer.child.signal(signal.SIGTERM)  # it ends while the line does
    supervisor.leave()
    stop_all([trainer.child, *supervisor.children], patience_s=4.0)


@contextmanager
def only_client(state: Path) -> Iterator[None]:
    """Hold a state folder alone.

    Raises:
        ResourceError: Another client runs with it, or it cannot be written to.
    """
    try:
        make_private_folder(state)  # earlier versions let everybody read what lies there
        (state / "lock").touch()
    except OSError as error:
        raise ResourceError(
            f"{state}: cannot keep state there ({error.strerror}). Choose another folder with "
            "--state."
        ) from error
    with lock_file(state / "lock") as mine:
        if not mine:
            raise ResourceError(
                f"{state}: another client is running with this folder. End it, or choose another "
                "--name or --state."
            )
        # not what one that was killed last wrote
        StatusFile(state / CONNECTION).write(LOST, {}, force=True)
        yield


def find_failure(state: Path, began: float, failures: Mapping[str, str]) -> str:
    """Return why the hospital's worker could not go on; empty if it can.

    Args:
        state: The hospital's folder.
        began: When its client started.
        failures: Those of the supervisor's that matter.
    """
    status = StatusFile(state / WORKER).read()
    if status.doing in ("refused", "failed") and status.time >= began:
        return status.reason
    return next(iter(failures.values()), "")


def _changed_at(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0
