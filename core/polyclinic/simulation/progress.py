"""A progress bar for every strategy of a simulated run."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

STEPS = ("round_end", "contribution", "delivered")  # events that bring a strategy nearer to its end


class ProgressBar(AbstractContextManager["ProgressBar"]):
    """Shows which strategy is at work, how far it is, and which hospital computes.

    Args:
        shown: Whether there is a bar; None: on a terminal and in a notebook.
        console: Where; rich's own if not given.
    """

    def __init__(self, shown: bool | None = None, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        seen = console.is_terminal or console.is_jupyter
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[doing]}", markup=False),
        )
        disable = not (seen if shown is None else shown)
        self.progress = Progress(*columns, console=console, disable=disable)
        self._task: TaskID | None = None

    def __enter__(self) -> "ProgressBar":
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()

    def handle(self, line: Mapping[str, Any]) -> None:
        """Take in an event of the run."""
        kind = line["kind"]
        if kind == "arm_start":
            total = line.get("expected") or line.get("rounds") or None
            title = str(line.get("title") or line["arm"])
            done = line.get("offset", 0)
            self._task = self.progress.add_task(title, total=total, completed=done, doing="")
        elif self._task is None:
            return
        elif kind in STEPS:
            self.progress.advance(self._task)
        elif kind == "arm_end":
            self.end()

    def note_work(self, site: str, what: str) -> None:
        """A hospital begins to work."""
        if self._task is not None:
            self.progress.update(self._task, doing=f"{site}: {what}")

    def end(self) -> None:
        """The strategy is at its end."""
        if self._task is not None:
            total = self.progress.tasks[self._task].completed or 1
            self.progress.update(self._task, total=total, completed=total, doing="")
            self._task = None
