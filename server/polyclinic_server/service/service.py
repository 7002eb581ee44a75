"""`polyclinic-server serve`: it holds the hospitals' port, and starts a process for each run.

A run that fails, or whose process is killed, is told as such, and harms no other. A run in hand is
taken up again by the next service; one that somebody stopped is not.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from polyclinic.config.schemas import DeploymentConfig
from polyclinic.errors import RunError
from polyclinic.federation.run_folder import find_run, free_name
from polyclinic.system.durable import make_private_folder
from polyclinic.system.processes import stop_all
from polyclinic_server.enrolment.anchoring import Anchoring
from polyclinic_server.enrolment.endpoint import announced, endpoint_of
from polyclinic_server.enrolment.registry import Registry
from polyclinic_server.fleet.server import BLOBS, FleetServer
from polyclinic_server.runs.lock import FLEET, only_coordinator
from polyclinic_server.service.desk import HospitalSnapshot, RunSnapshot
from polyclinic_server.service.desk_server import served
from polyclinic_server.service.run_list import RunList, check_name
from polyclinic_server.service.served_run import RunRefused, ServedRun
from polyclinic_server.service.snapshots import describe_hospitals
from polyclinic_server.service.task import RunTask

PATIENCE_S = 20.0  # for runs to end in order
Say = Callable[[str], None]


class Service:
    """The service of a folder of runs; as a context manager it serves.

    Args:
        deployment: Where hospitals connect, with which keys, and the folder of the runs.
        say: Told what happens, a line at a time.
    """

    def __init__(self, deployment: DeploymentConfig, say: Say) -> None:
        self._place = endpoint_of(deployment)
        self._security = None if deployment.insecure else Path(deployment.security).resolve()
        self._runs = Path(deployment.runs).resolve()
        self._fleet = self._runs / FLEET
        self._say = say
        self._stack = ExitStack()
        self._lock = threading.RLock()
        self._in_hand: dict[str, ServedRun] = {}
        self._began = time.time()
        self.address = ""

    def __enter__(self) -> Self:
        """Open the port for hospitals, and the desk; take up the runs in hand.

        Raises:
            BindFailed: The hospitals' port or address cannot be had.
            RunError: Another coordinator works in the folder.
        """
        with ExitStack() as stack:
            make_private_folder(self._fleet)
            stack.enter_context(only_coordinator(self._fleet))
            self._list = RunList(self._fleet)
            authority = self._place.authority
            self._registry = None if authority is None else Registry(authority.folder)
            if self._registry is not None:
                stack.callback(self._registry.close)
            self._anchoring = Anchoring(authority)
            stack.callback(self._anchoring.close)
            stack.enter_context(announced(authority, self._note))
            fleet = FleetServer(
                self._place, self._fleet, lambda _kind, text: self._note(text),
                anchors=self._anchoring,
            )  # fmt: skip
            self._server = stack.enter_context(fleet)
            self.address = fleet.address
            stack.enter_context(served(self, self._fleet))
            stack.callback(self._leave)
            self._say(self._place.invitation(self.address))
            self._take_up()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def tend(self) -> None:
        """Look once at the processes of the runs."""
        with self._lock:
            ended = [run for run in self._in_hand.values() if run.child.status() is not None]
        for run in ended:
            self._conclude(run)

    # the desk

    def hospitals(self) -> tuple[HospitalSnapshot, ...]:
        """Return all hospitals that are enrolled or have come, by name."""
        enrolled = [] if self._registry is None else self._registry.everybody()
        names = [each.site for each in enrolled if each.active]
        return describe_hospitals(self._server, names, self._began)

    def runs(self) -> tuple[RunSnapshot, ...]:
        """Return the runs in hand, by name; all others are folders alone."""
        with self._lock:
            found = sorted(self._in_hand.items())
        return tuple(RunSnapshot(name, run.state, run.child.pid) for name, run in found)

    def start(self, settings: Sequence[str], name: str | None = None) -> str:
        """Start a run, and return its name once its settings were checked and its folder is made.

        Args:
            settings: As `polyclinic-server run` takes them.
            name: Name of the run's folder; the present time if None.

        Raises:
            PolyclinicError: A setting is wrong, or the name is taken.
        """
        return self.start_in(Path.cwd(), settings, name)

    def start_in(self, folder: Path, settings: Sequence[str], name: str | None) -> str:
        """Start a run whose relative paths begin in a folder; see `start`."""
        with self._lock:
            chosen = check_name(name) if name else free_name(self._runs, self._in_hand)
            run = self._begin(chosen, folder, settings, resume=False)
        self._await(run)
        return chosen

    def stop(self, name: str) -> None:
        """Stop a run; what it has is kept, and it stays stopped until somebody resumes it.

        Raises:
            RunError: There is no such run in hand.
        """
        with self._lock:
            run = self._in_hand.get(name)
        if run is None:
            raise RunError(f"No run '{name[:100]}' goes on here: `polyclinic-server status`.")
        run.stopped = True
        run.child.stop(PATIENCE_S)
        self._conclude(run)

    def resume(self, name: str, settings: Sequence[str] = ()) -> str:
        """Resume a run that was stopped, failed, or died; return its name, `latest` resolved.

        Args:
            name: Name of the run.
            settings: Those of its deployment that change.

        Raises:
            RunNotFound: There is no run of that name.
            RunError: It is finished, or goes on already.
        """
        return self.resume_in(Path.cwd(), settings, name)

    def resume_in(self, folder: Path, settings: Sequence[str], name: str) -> str:
        """Resume a run; relative paths in its settings begin in a folder, if that is not known."""
        found = find_run(self._runs, name).name
        with self._lock:
            known = self._list.folder_of(found, folder)
            run = self._begin(found, known, settings, resume=True)
        self._await(run)
        return found

    # for the runs' processes

    def attach(self, run: str, ledgers: Iterable[Path], sites: Iterable[str]) -> ServedRun:
        """Let a run's process take part.

        Raises:
            RunError: The service has not started it, or it takes part already.
        """
        with self._lock:
            found = self._in_hand.get(run)
            if found is None or found.is_attached:
                raise RunError(f"The service has not started a run '{run[:100]}'.")
            self._anchoring.follow(run, ledgers)
            self._list.keep(run, found.folder, goes_on=True)
            found.attach(self._server.post(run, tuple(sites)))
        self._say(f"run {run} has started")
        return found

    def detach(self, run: str) -> None:
        """Note that a run's process takes part no more."""
        with self._lock:
            found = self._in_hand.get(run)
        if found is not None and found.is_attached:
            self._server.drop(found.detach())
            self._anchoring.leave(run)

    def attached(self, run: str) -> ServedRun:
        """Return a run that takes part.

        Raises:
            RunError: It does not.
        """
        with self._lock:
            found = self._in_hand.get(run)
        if found is None or not found.is_attached:
            raise RunError(f"The run '{run[:100]}' takes no part in this service.")
        return found

    def give_up(self, run: str, reason: str, exit_code: int) -> None:
        """Note that a run did not come so far as to take part, and why."""
        with self._lock:
            found = self._in_hand.get(run)
        if found is not None:
            found.refuse(reason, exit_code)

    def _begin(
        self, name: str, folder: Path, settings: Sequence[str], *, resume: bool
    ) -> ServedRun:
        """Start the process of a run; the lock is held.

        Raises:
            RunError: It goes on already.
        """
        if name in self._in_hand:
            raise RunError(f"The run {name} goes on already: `polyclinic-server follow {name}`.")
        task = RunTask(
            runs=str(self._runs),
            name=name,
            settings=list(settings),
            resume=resume,
            host=self._place.host,
            port=self._place.port,
            security=None if self._security is None else str(self._security),
        )
        run = ServedRun(task, folder, self._list.log(name), self._fleet / BLOBS)
        self._in_hand[name] = run
        run.child.start()
        return run

    def _await(self, run: ServedRun) -> None:
        """Wait until a run takes part.

        Raises:
            RunRefused: It cannot; the text says why.
        """
        try:
            run.wait_until_attached()
        except RunRefused:
            self._conclude(run)
            raise

    def _take_up(self) -> None:
        """Resume what an earlier service had in hand."""
        for name in self._list.in_hand():
            self._say(f"run {name} is taken up again")
            with self._lock:
                self._begin(name, self._list.folder_of(name), (), resume=True)

    def _conclude(self, run: ServedRun) -> None:
        """Note and say how a run's process ended, once."""
        with self._lock:
            if self._in_hand.get(run.name) is not run:
                return
            self.detach(run.name)
            del self._in_hand[run.name]
            if not (self._runs / run.name).exists():  # it did not start
                self._list.forget(run.name)
            elif not run.stays and not (run.is_refused and run.is_new):
                self._list.keep(run.name, run.folder, goes_on=False)
        self._say(run.conclude(self._runs))

    def _leave(self) -> None:
        """End the processes of all runs; the next service takes them up."""
        with self._lock:
            runs = list(self._in_hand.values())
        for run in runs:
            run.stays = True
        stop_all([run.child for run in runs], PATIENCE_S)
        for run in runs:
            self._conclude(run)

    def _note(self, text: str) -> None:
        """Say something, and let it be known in the journal of each run."""
        self._say(text)
        with self._lock:
            runs = list(self._in_hand.values())
        for run in runs:
            run.note(text)
