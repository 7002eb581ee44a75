"""A progress bar for a simulated run."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from polyclinic.federation.events import DOING, Event
from polyclinic.federation.live_state import LiveState
from polyclinic.system.console import LineConsole


class ProgressBar:
    """Shows which strategy is at work, how far the run is, and which hospital computes.

    Args:
        shown: Whether there is a bar; None: on a terminal and in a notebook.
        console: Where it is drawn; standard error if not given.
    """

    def __init__(self, shown: bool | None = None, console: Console | None = None) -> None:
        console = console or LineConsole(stderr=True)
        seen = console.is_terminal or console.is_jupyter
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[doing]}", markup=False),
            console=console,
            disable=not (seen if shown is None else shown),
        )
        self._task = self.progress.add_task("starting", total=1.0, doing="")
        self._live: LiveState | None = None

    def follow(self, live: LiveState) -> None:
        """Show this run."""
        self._live = live

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.progress.update(self._task, completed=1.0, doing="")
        self.progress.stop()

    def handle(self, event: Event) -> None:
        """Take in what happened."""
        if self._live is None:
            return
        event.tell(self._live)
        live = self._live
        title = live.arms.get(live.arm, live.arm) or "starting"
        where = f", round {live.round} of {live.rounds}" if live.in_rounds and live.round else ""
        self.progress.update(self._task, description=f"{title}{where}", completed=live.share)

    def note_work(self, site: str, what: str) -> None:
        """Show that a hospital begins to work; `what` is the type of the message that asks."""
        self.progress.update(self._task, doing=f"{site}: {DOING.get(what, what)}")
