"""Runs as processes of this machine: stopped by a signal, resumed by the command."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil

from polyclinic.errors import ConfigError, RunError
from polyclinic.federation.run_folder import find_run
from polyclinic_server.page.fleet import RunDeeds
from polyclinic_server.runs.lock import FLEET
from polyclinic_server.runs.status import state_of
from polyclinic_server.service.place import is_served
from polyclinic_server.service.served_desk import desk_of

LOG = "resumed.log"


def deeds_of_processes(runs: Path) -> RunDeeds:
    """Return what may be done to the runs of a folder."""
    return RunDeeds(lambda name: stop(runs, name), lambda name: resume(runs, name))


def deeds_of_this_run(name: str) -> RunDeeds:
    """Return what a run's own page may do to it: stop it."""

    def stop_this(asked: str) -> None:
        if asked != name:
            raise ConfigError(f"This page's process runs {name} alone.")
        os.kill(os.getpid(), signal.SIGINT)

    return RunDeeds(stop_this, None)


def stop(runs: Path, name: str) -> None:
    """Stop a run by its service; or interrupt the process that works at it. It can be resumed.

    Raises:
        RunError: No such process works at it.
    """
    if is_served(runs / FLEET):
        with desk_of(runs / FLEET) as desk:
            desk.stop(name)
        return
    run = find_run(runs, name)
    pid = int(run.describe().get("pid") or 0)
    if state_of(run) not in ("waiting", "running") or not _is_ours(pid):
        raise RunError(f"No process of this machine works at run {name}.")
    os.kill(pid, signal.SIGINT)


def resume(runs: Path, name: str) -> None:
    """Resume a run by its service; or by the command, whose words go into the run's folder.

    Raises:
        RunError: It goes on already, or is finished.
    """
    if is_served(runs / FLEET):
        with desk_of(runs / FLEET) as desk:
            desk.resume(name)
        return
    run = find_run(runs, name)
    state = state_of(run)
    if state in ("waiting", "running", "finished"):
        raise RunError(f"Run {name} is {state}: there is nothing to resume.")
    module = "polyclinic_server.cli.main"
    command = [sys.executable, "-m", module, "run", "--resume", name, f"deployment.runs={runs}"]
    with (run.path / LOG).open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    # nobody else takes note of its end, and until then it would count as alive
    threading.Thread(target=process.wait, name=f"resumed {name}", daemon=True).start()


def _is_ours(pid: int) -> bool:
    """Tell whether a process is one of polyclinic's, and not another with the same number."""
    try:
        return any("polyclinic" in part for part in psutil.Process(pid).cmdline())
    except (psutil.Error, ValueError):
        return False
