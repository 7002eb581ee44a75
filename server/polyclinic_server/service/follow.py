"""A run of a service, followed in a terminal as if this process had it."""

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from polyclinic.errors import RunError
from polyclinic.federation.run_folder import RunFolder, find_run
from polyclinic_server.runs.event_tail import EventTail
from polyclinic_server.runs.live_table import LiveTable, show
from polyclinic_server.service.served_desk import ServedDesk

LOOK_S = 0.25


def begin_and_follow(
    desk: ServedDesk, runs: Path, begin: Callable[[], str], known: str | None, console: Console
) -> RunFolder:
    """Start or resume a run, and follow it to its end.

    Args:
        desk: Of the service.
        runs: Folder of the runs.
        begin: Starts or resumes it, and returns its name.
        known: Name of the run that is resumed; None for a new one.
        console: Shows the progress.

    Raises:
        RunError: It did not start, or it ended without being finished.
        KeyboardInterrupt: Somebody ended this process; the run goes on.
    """
    begun = 0
    if known is not None:
        events = find_run(runs, known).path / "events.jsonl"
        begun = events.stat().st_size if events.exists() else 0
    with console.status("the service starts the run"):
        name = begin()
    return follow(desk, find_run(runs, name), console, begun)


def follow(desk: ServedDesk, folder: RunFolder, console: Console, begun: int = 0) -> RunFolder:
    """Show the progress of a run until it has ended.

    Args:
        desk: Of the service.
        folder: The run's.
        console: Shows the progress.
        begun: Number of bytes of its events.jsonl that are passed over.

    Raises:
        RunError: It ended without being finished.
        KeyboardInterrupt: Somebody ended this process; the run goes on.
    """
    console.print(f"run {folder.name} in {folder.path}, by the service", markup=False)
    tail = EventTail(folder.path / "events.jsonl", begun)
    try:
        with show(LiveTable(folder.state().live_state()), console) as handle:
            goes_on = True
            while goes_on:  # once more after its end, for its last events
                goes_on = any(run.name == folder.name for run in desk.runs())
                for event in tail.read():
                    handle(event)
                if goes_on:
                    time.sleep(LOOK_S)
    except KeyboardInterrupt:
        console.print(
            f"The run {folder.name} goes on. `polyclinic-server follow {folder.name}` shows it "
            f"again, `polyclinic-server stop {folder.name}` stops it.",
            markup=False,
        )
        raise
    ended = folder.state()
    if ended.state != "finished":
        raise RunError(f"Run {folder.name}: {ended.state}. {ended.reason}")
    return folder
