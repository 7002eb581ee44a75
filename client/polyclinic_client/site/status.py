"""What a hospital's processes say of themselves in their state folder, for whoever waits for them.

    STATE/status.json        the worker, which answers the coordinator
    STATE/fine_tuning.json   fine-tuning, a process of its own
    STATE/connection.json    the client, which is connected to the coordinator, or not
    STATE/machine.json       what the worker computes with

Written and read here alone; a file that is missing or damaged reads as an empty status.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from polyclinic.system.durable import write_durably

WORKER, FINE_TUNING = "status.json", "fine_tuning.json"
CONNECTION, MACHINE = "connection.json", "machine.json"
CONNECTED, LOST = "connected", "lost"  # what it says
Steps = Annotated[int, Field(ge=0, le=10**12)]
EVERY_S = 0.25  # between two writings, unless one is forced


@dataclass(frozen=True)
class Status:
    """What a process does.

    Attributes:
        time: Seconds since 1970.
        doing: One word, such as waiting, training, refused; empty where nothing is known.
        details: Everything else: run, arm, round, rounds, step, steps, seconds of a
            step (`step_s`) and of what is left (`left_s`), loss, score, reason.
    """

    time: float = 0.0
    doing: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """Why something was refused, or failed; empty otherwise."""
        return str(self.details.get("reason") or "")

    @property
    def percent(self) -> int | None:
        """Share of the steps that are done, 0 to 100; None where there are none."""
        steps = self.details.get("steps")
        return min(100, 100 * self.details.get("step", 0) // steps) if steps else None


class _Said(BaseModel):
    """The bounds of what a status file says; what is not listed is shown at most."""

    model_config = ConfigDict(extra="allow")

    time: FiniteFloat
    doing: str
    step: Steps = 0
    steps: Steps = 0
    loss: float | None = None
    step_s: Annotated[FiniteFloat, Field(ge=0, le=10**9)] | None = None
    left_s: Annotated[FiniteFloat, Field(ge=0, le=10**12)] | None = None


class Machine(BaseModel):
    """What the worker computes with; empty where nothing is known.

    Attributes:
        device: Name of the GPU, or the number of cores.
        memory_bytes: That the worker may take; 0 with a GPU, whose name says what it has.
    """

    model_config = ConfigDict(frozen=True)

    device: Annotated[str, Field(max_length=80)] = ""
    memory_bytes: Annotated[int, Field(ge=0, le=2**50)] = 0


def write_machine(state: Path, machine: Machine) -> None:
    """Note in the state folder what the worker computes with."""
    write_durably(state / MACHINE, machine.model_dump_json())


def read_machine(state: Path) -> Machine:
    """Read what the worker noted."""
    try:
        return Machine.model_validate_json((state / MACHINE).read_bytes())
    except (OSError, ValueError):
        return Machine()


class StatusFile:
    """One of the files.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = 0.0

    def write(self, doing: str, details: Mapping[str, Any], *, force: bool = False) -> None:
        """Write what is done, a few times a second at most unless forced; all of it or nothing."""
        moment = time.time()
        if not force and moment - self._written < EVERY_S:
            return
        self._written = moment
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps({"time": moment, "doing": doing, **details}))
        partial.replace(self._path)

    def read(self) -> Status:
        """Read what the process last wrote."""
        try:
            said = _Said.model_validate_json(self._path.read_bytes())
        except (OSError, ValueError):
            return Status()
        details = said.model_dump(exclude={"time", "doing"}, exclude_unset=True)
        return Status(said.time, said.doing, details)


class StatusNews:
    """Says what a status file says, each time that it is news.

    Args:
        path: The file.
        describe: Turns a status into a line, and the part of it whose change is news; or None.
        say: Told each line.
    """

    def __init__(
        self,
        path: Path,
        describe: Callable[[Status], tuple[str, str] | None],
        say: Callable[[str], None],
    ) -> None:
        self._file, self._describe, self._say = StatusFile(path), describe, say
        self._told = ""

    def tend(self) -> None:
        """Look once."""
        found = self._describe(self._file.read())
        if found is not None and found[1] != self._told:
            self._told = found[1]
            self._say(found[0])


def worker_news(status: Status) -> tuple[str, str] | None:
    """Tell what the worker does, unless it waits."""
    if status.doing in ("", "waiting"):
        return None
    about = status.details
    reason = f": {status.reason}" if status.reason else ""
    line = (
        f"{about.get('run')} {about.get('arm')} round {about.get('round')} of "
        f"{about.get('rounds')}: {status.doing}{reason}"
    )
    return line, line


def fine_tuning_news(status: Status) -> tuple[str, str] | None:
    """Tell how far fine-tuning is, in steps of ten percent."""
    if status.doing != "training" or status.percent is None:
        return None
    done = f"fine-tuning: {10 * (status.percent // 10)} %"
    step_s = status.details.get("step_s")
    pace = f", {step_s:.2g} s a step" if step_s else ""
    return f"{done}, loss {status.details.get('loss') or 0.0:.3f}{pace}", done
