"""Fine-tuning as a child process of the hospital's client."""

import time
from pathlib import Path

from polyclinic.system.machine import thread_settings
from polyclinic.system.processes import Child, how_it_ended, pause_s, python_module
from polyclinic_client.network.connection import Say
from polyclinic_client.site.outbox import Outbox

DEATHS = 5  # crashes in a row after which the work is given up
LOOK_S = 1.0  # between two looks at what is to be done


class FineTuner:
    """Starts fine-tuning when the outbox has something to do, and again after a crash.

    Args:
        name: What this hospital is called.
        data: Folder with dataset.json.
        state: Folder of the hospital's models, logs and outbox.
        say: Told what happens.
    """

    def __init__(self, name: str, data: Path, state: Path, say: Say) -> None:
        self.outbox = Outbox(state, data)
        self._say = say
        self._arguments = name, str(data), str(state)
        self._log = state / "fine_tuning.log"
        self.child = self._child("")
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
            self.child = self._child(key)
            self.child.start()

    def _child(self, key: str) -> Child:
        command = python_module("polyclinic_client.site.fine_tuning", *self._arguments, key)
        return Child("fine-tuning", command, self._log, thread_settings())

    def _conclude(self, status: int) -> None:
        """Say how the work ended. Work that crashed is tried again, work that failed is not."""
        key, self.working = self.working, ""
        failure = self.outbox.failure(key)
        if status == 0:
            self._crashes = 0
            self._say(
                "fine-tuning is done; the contribution waits in the outbox for the coordinator's "
                "next question"
            )
        elif failure is not None:
            self._say(f"fine-tuning failed: {self.child.last_words()}")
        else:
            self._crash(key, status)

    def _crash(self, key: str, status: int) -> None:
        self._crashes += 1
        self._not_before = time.monotonic() + pause_s(20.0 * 2**self._crashes, 0.1, 30.0)
        self._say(
            f"{how_it_ended(status, 'fine-tuning ended')}: {self.child.last_words()}. It goes on "
            "after its last pass."
        )
        if self._crashes >= DEATHS:
            self.outbox.fail(
                key,
                f"{how_it_ended(status, 'the training process died again and again, last')}; the "
                "hospital's log has the details",
            )
