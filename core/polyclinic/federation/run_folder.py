"""The folder of a run, with all files that a run writes.

runs/NAME/run.json         description of the run: times, versions, strategies, how it ended
          config.yaml      resolved configuration of each strategy
          overrides.json   settings from the command line
          plan.yaml        the plan that these named, if any
          events.jsonl     events, one per line
          metrics.jsonl    figures, one per line
          arms/ARM/model.safetensors, tensorboard/
          pictures/SITE/   only in a demo: in a federation pictures stay at the hospital
          report.html
"""

import importlib.metadata
import json
import logging
import math
import platform
import time
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from polyclinic.config.compose import as_yaml
from polyclinic.config.plan_files import FILE as PLAN
from polyclinic.config.plan_files import named_plan, read_plan, write_plan
from polyclinic.config.schemas import Config
from polyclinic.errors import LedgerNotFound, RunError, RunNotFound
from polyclinic.federation.events import Answered, ArmStart, Event, EventLog, Failed, Missing
from polyclinic.federation.metrics import FILE, Metric
from polyclinic.federation.run_state import RunState, checked
from polyclinic.store.journal import database_of
from polyclinic.system.durable import flush, write_atomically
from polyclinic.system.faults import explain
from polyclinic.system.text import parse_json

SETTINGS = "overrides.json"
PACKAGES = ("polyclinic", "flwr", "torch", "monai", "nibabel", "numpy")
PHASES = {"train": "train", "evaluate": "validate", "evaluate.test": "test"}


class RunFolder:
    """The folder of one run.

    Args:
        path: The folder; its name is the run's name.

    Attributes:
        listeners: Functions that are called with every recorded event.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._arm = ""
        self._boards: dict[str, Any] = {}
        self.listeners: list[Callable[[Event], None]] = []

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.path.name

    def describe(self) -> dict[str, Any]:
        """Return the content of run.json; `state` returns it as a typed model.

        Raises:
            RunError: The file is missing or damaged.
        """
        path = self.path / "run.json"
        try:
            described = parse_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(
                f"{self.path}: this is not a run's folder, it has no run.json."
            ) from None
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: cannot be read ({error}).") from error
        if not isinstance(described, dict):
            raise RunError(f"{path}: is damaged (an object was expected).")
        return described

    @property
    def was_open(self) -> bool:
        """Whether the run's coordinator ever let hospitals connect."""
        path = self.path / "run.json"
        return path.exists() and "address" in self.describe()

    def update(self, **changes: object) -> None:
        """Set fields of run.json."""
        described = self.describe() if (self.path / "run.json").exists() else {}
        write_atomically(self.path / "run.json", json.dumps({**described, **changes}, indent=1))

    def keep_settings(self, expanded: Sequence[Sequence[str]], configs: Sequence[Config]) -> None:
        """Write what was asked for each strategy, and the configuration that came of it."""
        asked = json.dumps([list(each) for each in expanded])
        write_atomically(self.path / SETTINGS, asked)
        write_atomically(self.path / "config.yaml", "---\n".join(map(as_yaml, configs)))

    def keep_plan(self, overrides: Sequence[str]) -> None:
        """Keep the plan that settings name by `data=FILE.yaml`, and its digest, if they do.

        Raises:
            ConfigError: The plan cannot be read, or was changed.
        """
        if (named := named_plan(overrides)) is not None:
            plan = write_plan(read_plan(named), self.path / PLAN)
            self.update(plan={"name": named.name, "digest": plan.digest})

    def settings(self) -> list[list[str]]:
        """Read what was asked for each strategy; nothing if nothing was kept.

        Raises:
            RunError: The file is damaged.
        """
        path = self.path / SETTINGS
        if not path.exists():
            return []
        return checked(path, lambda: _SETTINGS.validate_json(path.read_bytes()))

    def state(self) -> RunState:
        """Read run.json.

        Raises:
            RunError: It is missing or damaged.
        """
        described = self.describe()
        return checked(self.path / "run.json", lambda: RunState.model_validate(described))

    def events(self) -> tuple[Event, ...]:
        """Read the events so far, in the order of time."""
        return EventLog().read(self.path / "events.jsonl")

    def record(self, event: Event) -> None:
        """Append an event to events.jsonl, with the present time, and call the listeners.

        Figures in the event are also written to metrics.jsonl and TensorBoard. An event without a
        strategy gets the name of the present one.
        """
        given = {"time": time.time(), "arm": event.arm or self._arm}
        event = event.model_copy(update=given)
        if isinstance(event, ArmStart):
            self._arm = event.arm
        _append(self.path / "events.jsonl", event.to_line())
        if isinstance(event, Answered | Failed | Missing) and event.phase in PHASES:
            self._record_figures(event)
        for listener in self.listeners:
            listener(event)

    def add_metrics(self, line: Mapping[str, object]) -> None:
        """Append a line to metrics.jsonl for a figure that came without a message."""
        metric = Metric.model_validate({"time": time.time(), **line})
        _append(self.path / FILE, metric.to_line())

    def _record_figures(self, event: Answered | Failed | Missing) -> None:
        phase = PHASES[event.phase]
        given = {**event.to_line(), "phase": phase}
        if not isinstance(event, Answered):
            given["missing"] = event.reason
        _append(self.path / FILE, Metric.model_validate(given).to_line())
        if not isinstance(event, Answered):
            return
        board = self._board(event.arm)
        for key, value in (("loss", event.loss), ("score", event.score)):
            if value is not None:
                board.add_scalar(f"{phase}/{key}/{event.site}", value, event.round)
        board.flush()

    def _board(self, arm: str) -> Any:
        if arm not in self._boards:
            from torch.utils.tensorboard import SummaryWriter

            self._boards[arm] = SummaryWriter(str(self.path / "arms" / arm / "tensorboard"))
        return self._boards[arm]

    def end(self, error: BaseException | None, remedy: str = "") -> None:
        """Bring the run into a terminal state, and say why; a folder that was removed stays so.

        Args:
            error: What ended it; None if it is finished.
            remedy: What to do about an interruption.
        """
        self.close()
        if not (self.path / "run.json").exists():
            return
        if error is None:
            self.update(state="finished", finished=now())
        elif isinstance(error, KeyboardInterrupt):
            reason = f"interrupted; {remedy}" if remedy else "interrupted"
            self.update(state="interrupted", finished=now(), reason=reason)
        else:
            known = explain(error)
            reason = str(known) if known else f"{type(error).__name__}: {error}"
            self.update(state="failed", finished=now(), reason=reason)

    @contextmanager
    def logged(self, *names: str) -> Iterator[None]:
        """Write what these loggers say to coordinator.log, and no warning to the terminal."""
        handler = logging.FileHandler(self.path / "coordinator.log")
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
        loggers = [logging.getLogger(name) for name in names]
        before = [(list(logger.handlers), logger.propagate) for logger in loggers]
        for logger in loggers:
            logger.handlers, logger.propagate = [handler], False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                yield
            finally:
                for logger, (handlers, propagate) in zip(loggers, before, strict=True):
                    logger.handlers, logger.propagate = handlers, propagate
                handler.close()

    def close(self) -> None:
        """Close the TensorBoard files."""
        for board in self._boards.values():
            board.close()
        self._boards.clear()


def new_run(runs: Path, name: str | None = None) -> RunFolder:
    """Make the folder of a new run.

    Args:
        runs: Folder of all runs.
        name: Name of the run; the present time if None.

    Raises:
        RunError: The name is taken, or the folder cannot be made.
    """
    path = runs / (name or _by_time())
    try:
        path.mkdir(parents=True)
    except FileExistsError as error:
        raise RunError(
            f"{path} exists: choose another --name, or resume it with --resume {path.name}."
        ) from error
    except OSError as error:
        raise RunError(
            f"{path} cannot be made ({error.strerror}): choose another folder with "
            "deployment.runs=FOLDER."
        ) from error
    return RunFolder(path)


def free_name(runs: Path, taken: Container[str] = ()) -> str:
    """Return the present time as the name of a run; with a number, if there is one of that name."""
    first = name = _by_time()
    number = 1
    while name in taken or (runs / name).exists():
        number += 1
        name = f"{first}-{number}"
    return name


def find_run(runs: Path, name: str) -> RunFolder:
    """Find a run by its name; `latest` is the newest.

    Raises:
        RunNotFound: There is no run of that name.
    """
    known = list_runs(runs)
    if name == "latest" and known:
        return known[-1]
    for run in known:
        if run.name == name:
            return run
    raise RunNotFound(name, runs, [run.name for run in known])


def list_runs(runs: Path) -> list[RunFolder]:
    """Return all runs in a folder, oldest first."""
    found = [RunFolder(path.parent) for path in runs.glob("*/run.json")]
    return sorted(found, key=lambda run: str(run.describe().get("started", "")))


def find_ledger(ledger: Path | None, runs: Path = Path("runs")) -> Path:
    """Find the folder of a ledger.

    Args:
        ledger: The folder. None, or RUNS/latest/ledger, is the ledger of the newest run with one.
        runs: Folder of all runs.

    Raises:
        LedgerNotFound: No run has a ledger.
    """
    if ledger is not None and (ledger.exists() or ledger.parent.name != "latest"):
        return ledger
    for run in reversed(list_runs(runs if ledger is None else ledger.parent.parent)):
        if database_of(run.path / "ledger"):
            return run.path / "ledger"
    raise LedgerNotFound(ledger or runs / "*" / "ledger")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that figures depend on."""
    found = {package: importlib.metadata.version(package) for package in PACKAGES}
    return {**found, "python": platform.python_version()}


def now() -> str:
    """Return the present time as it is written in run.json: ISO 8601, UTC, in seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_lines(path: Path) -> Iterable[dict[str, Any]]:
    """Return the complete lines of a JSON-lines file; none if there is no file."""
    if not path.exists():
        return []
    return [parse_json(line) for line in path.read_text().split("\n")[:-1] if line.strip()]


def _by_time() -> str:
    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


_SETTINGS = TypeAdapter(list[list[str]])


def _append(path: Path, line: Mapping[str, object]) -> None:
    data = json.dumps(_plain(line), allow_nan=False) + "\n"
    with path.open("a") as file:
        file.write(data)
        file.flush()
        flush(file.fileno())


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it; NaN and infinity become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
