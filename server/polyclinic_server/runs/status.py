"""`polyclinic-server status`: a table of the runs."""

from pathlib import Path

import psutil
from rich.table import Table
from rich.text import Text

from polyclinic.federation.events import EventLog, RoundEnd
from polyclinic.federation.run_folder import RunFolder, list_runs
from polyclinic.system.text import clean

HEADS = ("run", "state", "strategies", "progress", "hospitals", "note")


def status_table(runs: Path) -> Table:
    """Make the table of the runs in a folder, newest last."""
    found = list_runs(runs)
    table = Table(title=f"runs in {runs}{'' if found else ' (none yet)'}")
    for head in HEADS:
        table.add_column(head)
    for run in found:
        described = run.describe()
        cells = (
            run.name,
            state_of(run),
            ", ".join(arm["title"] for arm in described.get("arms", [])),
            _progress(run),
            str(len(described.get("hospitals", {}))),
            str(described.get("reason") or ""),
        )
        table.add_row(*(Text(clean(cell)) for cell in cells))
    return table


def state_of(run: RunFolder) -> str:
    """Return a run's state; a coordinator that was killed could not write that it ended."""
    described = run.describe()
    state = str(described.get("state", "unknown"))
    if state in ("waiting", "running") and not psutil.pid_exists(int(described.get("pid", -1))):
        return "died"
    return state


def _progress(run: RunFolder) -> str:
    events = EventLog().read(run.path / "events.jsonl")
    ended = [event for event in events if isinstance(event, RoundEnd)]
    if not ended:
        return "-"
    return f"{ended[-1].arm}: round {ended[-1].round} of {run.describe()['rounds']}"
