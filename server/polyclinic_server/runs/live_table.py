"""The live table of a run in a terminal; without a terminal, one line per event."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from polyclinic.federation.events import DOING, Event
from polyclinic.federation.live_state import LiveState, SiteRow
from polyclinic.reporting.formats import show_span
from polyclinic.system.text import clean, clean_lines

Statuses = Callable[[], Mapping[str, Mapping[str, Any]]]
IN_STEPS = frozenset({*DOING.values(), "training again"})  # work that is counted in steps
LONGEST_S = 1e9  # that is shown


class LiveTable:
    """The table that shows the state of a run, kept up to date by events.

    Args:
        state: Live state of the run.
        statuses: Returns the status of each hospital by site, where it is known (on one machine).
    """

    def __init__(self, state: LiveState, statuses: Statuses = dict) -> None:
        self.state = state
        self._statuses = statuses

    def handle(self, event: Event) -> str | None:
        """Update the state by one event; return a line to print, or None."""
        line = event.tell(self.state)
        if line is not None:
            line = self.state.news = clean_lines(line)
        return line

    def __rich__(self) -> RenderableType:
        """Draw the table."""
        state, statuses = self.state, self._statuses()
        table = Table(expand=False, show_edge=False, pad_edge=False)
        for title in ("hospital", "doing", "loss", state.score_name):
            table.add_column(title, justify="left" if title in ("hospital", "doing") else "right")
        for site, row in sorted(state.rows.items()):
            doing = Text(clean(_describe(row, statuses.get(site, {}))))
            table.add_row(Text(clean(site)), doing, _figure(row.loss), _figure(row.score))
        bar = ProgressBar(total=1.0, completed=state.share, width=60)
        return Group(self._head(), bar, table, Text(state.news, style="dim"))

    def _head(self) -> Text:
        """Return the head line: strategy, round or contributions, elapsed and remaining time."""
        state = self.state
        names = list(state.arms)
        which = ""
        if state.arm in state.arms:
            which = f"{state.arms[state.arm]} ({names.index(state.arm) + 1} of {len(names)}), "
        where = f"round {state.round} of {state.rounds}" if state.in_rounds else state.tally()
        if not state.rounds and not state.expected:  # nothing is trained
            where = "scoring"
        elapsed_s = time.monotonic() - state.started
        clock = f"{elapsed_s // 60:.0f}:{elapsed_s % 60:02.0f}"
        return Text(f"{which}{where}   {clock}{state.time_left()}", style="bold")


def _describe(row: SiteRow, status: Mapping[str, Any]) -> str:
    """Return what a hospital is doing, with steps and seconds where they are known."""
    if row.doing not in IN_STEPS and not row.amount:
        return row.doing
    same = status.get("doing") == row.doing and "step" in status
    steps = f" of {row.amount}" if row.amount else ""
    if same:
        steps = f" step {status['step']} of {status['steps']}"
    pace = f", {status['step_s']:.2g} s each" if same and _is_number(status, "step_s") else ""
    left = f", {show_span(status['left_s'])} left" if same and _is_number(status, "left_s") else ""
    return f"{row.doing}{steps}{pace}{left} ({time.monotonic() - row.since:.0f} s)"


def _is_number(status: Mapping[str, Any], key: str) -> bool:
    value = status.get(key)
    return isinstance(value, int | float) and 0 <= value < LONGEST_S


def _figure(value: float | None) -> str:
    return f"{value:.3f}" if isinstance(value, float) else ""


@contextmanager
def show(table: LiveTable, console: Console) -> Iterator[Callable[[Event], None]]:
    """Show the table inside the `with` block; yield the function to call with every event."""
    if not console.is_terminal:
        yield lambda event: _print(table.handle(event), console)
        return
    with Live(table, console=console, refresh_per_second=4, transient=True):
        yield lambda event: _print(table.handle(event), console)


def _print(line: str | None, console: Console) -> None:
    if line:
        console.print(line, markup=False)
