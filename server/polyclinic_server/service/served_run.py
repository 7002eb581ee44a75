"""A run of a service, as the service sees it: a process of its own."""

import threading
import time
from collections import deque
from pathlib import Path

from polyclinic.errors import RunError
from polyclinic.federation.run_folder import RunFolder
from polyclinic.system.exit_codes import INTERRUPTED
from polyclinic.system.processes import Child, how_it_ended, python_module
from polyclinic_server.fleet.post import OwnPost
from polyclinic_server.service.served_post import staged
from polyclinic_server.service.task import RunTask

MODULE = "polyclinic_server.service.run_process"
START_S = 600.0  # for torch to be imported, and settings to be checked, on a busy machine
LOOK_S = 0.1
MOST_NOTES = 1000  # that a run has not taken


class RunRefused(RunError):
    """A run did not start; the exit code is that of the reason."""

    def __init__(self, reason: str, exit_code: int) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


class ServedRun:
    """The process of a run; several threads may use it.

    Args:
        task: What it does.
        folder: Where relative paths in its settings begin.
        log: Takes what it writes.
        blobs: Folder of all blobs of the service.

    Attributes:
        name: Name of the run.
        folder: As above.
        is_new: Whether it is no earlier run that goes on.
        child: The process.
        stopped: Whether somebody stopped it.
        stays: Whether the next service takes it up.
        staged: Folder with the blobs of its questions.
    """

    def __init__(self, task: RunTask, folder: Path, log: Path, blobs: Path) -> None:
        self.name, self.folder, self.is_new = task.name, folder, not task.resume
        self.staged = staged(blobs, task.name)
        command = python_module(MODULE, task.model_dump_json())
        self.child = Child(f"the run {task.name}", command, log, folder=folder)
        self.stopped = self.stays = False
        self._post: OwnPost | None = None
        self._notes: deque[str] = deque(maxlen=MOST_NOTES)
        self._decided = threading.Event()  # it takes part, or cannot
        self._refusal: tuple[str, int] | None = None  # why, and the exit code

    @property
    def is_attached(self) -> bool:
        """Whether its process takes part."""
        return self._post is not None

    @property
    def is_refused(self) -> bool:
        """Whether its process said why it cannot take part."""
        return self._refusal is not None

    @property
    def post(self) -> OwnPost:
        """Its way to the hospitals.

        Raises:
            RunError: It takes no part any more.
        """
        if self._post is None:
            raise RunError(f"The run {self.name} takes no part any more.")
        return self._post

    @property
    def state(self) -> str:
        """Say how far it is."""
        return "running" if self.is_attached else "starting"

    def attach(self, post: OwnPost) -> None:
        """Note that its process takes part."""
        self._post = post
        self._decided.set()

    def detach(self) -> dict[str, list[str]]:
        """Note that its process takes part no more; return by site what nobody wants any more."""
        post, self._post = self._post, None
        return {} if post is None else post.close()

    def refuse(self, reason: str, exit_code: int) -> None:
        """Note why it cannot take part."""
        self._refusal = reason, exit_code

    def note(self, text: str) -> None:
        """Keep a sentence for its journal."""
        self._notes.append(text)

    def notes(self) -> list[str]:
        """Return what is to be known in its journal, once."""
        found = []
        while self._notes:
            found.append(self._notes.popleft())
        return found

    def wait_until_attached(self) -> None:
        """Wait until its process takes part.

        Raises:
            RunRefused: It cannot; the text says why.
        """
        deadline = time.monotonic() + START_S
        while not self._decided.wait(LOOK_S):
            if self.child.status() is not None and not self.is_attached:
                raise RunRefused(*(self._refusal or (self.child.last_words(), RunError.exit_code)))
            if time.monotonic() > deadline:
                self.child.stop()
                raise RunRefused(f"The run {self.name} did not start in time.", RunError.exit_code)

    def conclude(self, runs: Path) -> str:
        """Say how its process ended; write it into run.json if the process could not."""
        status = self.child.status() or 0
        if status == 0:
            return f"run {self.name} is finished"
        if self._refusal is not None:
            return f"run {self.name} did not start: {self._refusal[0]}"
        if self.stays:
            return f"run {self.name} waits for the next service"
        remedy = f"`polyclinic-server resume {self.name}` resumes it"
        if self.stopped or status == INTERRUPTED:
            return f"run {self.name} was stopped; {remedy}"
        return self._conclude_failed(RunFolder(runs / self.name), status, remedy)

    def _conclude_failed(self, run: RunFolder, status: int, remedy: str) -> str:
        described = run.describe() if (run.path / "run.json").exists() else {}
        if described.get("state") == "finished":
            return f"run {self.name} is finished, without a report: {self.child.last_words()}"
        if described.get("state") in ("waiting", "running"):
            ended = how_it_ended(status, f"the process of run {self.name} ended")
            run.end(RunError(f"{ended}; {remedy}."))
            return f"{ended}; {remedy}"
        return f"run {self.name} failed: {described.get('reason') or self.child.last_words()}"
