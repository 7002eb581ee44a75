"""`python -m polyclinic_server.service.run_process TASK`: one run of a service.

The service that started it has the hospitals; this process ends with it.
"""

import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

from polyclinic.config.schemas import Config
from polyclinic.errors import PolyclinicError, RunError
from polyclinic.federation.events import Note
from polyclinic.federation.run_folder import RunFolder
from polyclinic.system.console import LineConsole
from polyclinic.system.exit_codes import INTERRUPTED, end_like_ctrl_c
from polyclinic.system.faults import explain
from polyclinic.system.processes import end_with_parent, lock_file
from polyclinic_server.enrolment.authority import Authority
from polyclinic_server.fleet.grid import FleetGrid
from polyclinic_server.reports.page import write_report
from polyclinic_server.runs.app import coordinate
from polyclinic_server.runs.coordinator import (
    concluded,
    create_run,
    ledger_folders,
    resume_run,
    shown,
)
from polyclinic_server.runs.lock import FLEET
from polyclinic_server.runs.sites import chosen_sites
from polyclinic_server.service.run_list import RunList
from polyclinic_server.service.served_desk import give_up
from polyclinic_server.service.served_post import ServedPost, ServiceGone
from polyclinic_server.service.task import RunTask

PATIENCE_S = 30.0  # for the process of an earlier service to end
LOOK_S = 0.1


def work(task: RunTask, console: Console) -> None:
    """Run a federation to its report.

    Raises:
        PolyclinicError: It cannot start, which the service was told; or it cannot go on.
    """
    fleet = Path(task.runs) / FLEET
    with _alone(RunList(fleet).lock(task.name)):
        try:
            folder, configs, sites = _opened(task)
        except PolyclinicError as error:
            give_up(fleet, task.name, error)
            raise
        post = ServedPost(
            fleet,
            task.name,
            ledger_folders(folder.path, configs),
            sites,
            lambda text: folder.record(Note(text=text)),
        )
        _conduct(folder, configs, post, console, new=not task.resume)
        write_report(folder.path)


def _opened(task: RunTask) -> tuple[RunFolder, list[Config], tuple[str, ...]]:
    """Make or find the folder of the run; return it, the configurations, and the hospitals.

    Raises:
        PolyclinicError: The run cannot start; a new one leaves no folder.
    """
    task.check_deployment()
    settings = [*task.settings, *task.deployment]
    authority = None if task.security is None else Authority.open(Path(task.security))
    if task.resume:
        folder, configs = resume_run(task.name, settings)
        return folder, configs, chosen_sites(configs, authority)
    folder, configs = create_run(settings, task.name)
    try:
        return folder, configs, chosen_sites(configs, authority)
    except PolyclinicError:
        shutil.rmtree(folder.path, ignore_errors=True)
        raise


def _conduct(
    folder: RunFolder, configs: list[Config], post: ServedPost, console: Console, *, new: bool
) -> None:
    remedy = f"`polyclinic-server resume {folder.name}` resumes it"
    with concluded(folder, remedy, new=new):
        try:
            with shown(folder, configs, console), post:
                folder.update(address=post.address)
                coordinate(FleetGrid(post), folder)
        except ServiceGone:
            console.print("the service is gone", markup=False)
            raise KeyboardInterrupt from None


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a run; wait until the process that an earlier service started has ended.

    Raises:
        RunError: It does not end.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with lock_file(lock) as mine:
            if mine:
                yield
                return
        if time.monotonic() > deadline:
            raise RunError("Another process works on this run: end it.")
        time.sleep(LOOK_S)


def main() -> None:
    """Run the module's command."""
    signal.signal(signal.SIGTERM, end_like_ctrl_c)
    end_with_parent()
    console = LineConsole()
    try:
        work(RunTask.model_validate_json(sys.argv[1]), console)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except PolyclinicError as error:
        sys.exit(_failed(error))
    except Exception as error:
        if (found := explain(error)) is None:
            raise
        sys.exit(_failed(found))


def _failed(error: PolyclinicError) -> int:
    with suppress(OSError):
        sys.stderr.write(f"error: {error}\n")
    return error.exit_code


if __name__ == "__main__":
    main()
