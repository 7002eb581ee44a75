"""`polyclinic-server status`: a table of the runs."""

from pathlib import Path

import psutil
from rich.table import Table
from rich.text import Text

from polyclinic.federation.run_folder import RunFolder, list_runs, read_lines


def status_table(runs: Path) -> Table:
    """Return a table with one line per run, newest last."""
    table = Table(title=f"runs in {runs}" + ("" if any(runs.glob("*/run.json")) else " (none yet)"))
    for title in ("run", "state", "strategies", "progress", "hospitals", "note"):
        table.add_column(title)
    for run in list_runs(runs):
        described = run.describe()
        cells = (
            run.name,
            state_of(run),
            ", ".join(arm["title"] for arm in described.get("arms", [])),
            _progress(run),
            str(len(described.get("hospitals", {}))),
            str(described.get("reason") or ""),
        )
        table.add_row(*map(Text, cells))
    return table


def state_of(run: RunFolder) -> str:
    """Return a run's state: that in run.json, or `died` if its coordinator was killed."""
    described = run.describe()
    state = str(described.get("state", "unknown"))
    if state in ("waiting", "running") and not psutil.pid_exists(int(described.get("pid", -1))):
        return "died"
    return state


def _progress(run: RunFolder) -> str:
    described = run.describe()
    events = read_lines(run.path / "events.jsonl")
    ended = [event for event in events if event["kind"] == "round_end"]
    if not ended:
        return "-"
    return f"{ended[-1]['arm']}: round {ended[-1]['round']} of {described['rounds']}"
