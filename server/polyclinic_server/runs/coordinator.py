"""`polyclinic-server run`: a federation, from the settings to the report."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from rich.console import Console

from polyclinic.config.compose import expand_strategies, load_config
from polyclinic.config.schemas import Config
from polyclinic.config.validation import check_channels
from polyclinic.errors import ConfigError, DiskFull, RunError
from polyclinic.federation.events import Note
from polyclinic.federation.run_folder import (
    RunFolder,
    find_run,
    new_run,
)
from polyclinic.reporting.measured.terminal import standing_table
from polyclinic.reporting.results import read_results
from polyclinic.reporting.tables import terminal_tables
from polyclinic.system.text import clean_lines
from polyclinic_server.enrolment.endpoint import announced, endpoint_of
from polyclinic_server.reports.missing import find_missing
from polyclinic_server.reports.page import write_report
from polyclinic_server.runs.live_table import LiveTable, show
from polyclinic_server.runs.lock import FLEET, only_coordinator
from polyclinic_server.runs.sites import chosen_sites

if TYPE_CHECKING:
    from polyclinic_server.enrolment.endpoint import Endpoint
    from polyclinic_server.fleet.server import FleetServer

# serves a page about a run inside a `with` block, and yields what is told the fleet
PageOfRun = Callable[
    [RunFolder, "Endpoint"], AbstractContextManager[Callable[["FleetServer"], None]]
]

NEEDED_DISK = 2**29  # free bytes that a new run needs


def run(
    overrides: Sequence[str],
    name: str | None,
    resume: str | None,
    console: Console,
    page: PageOfRun | None = None,
) -> RunFolder:
    """Run a federation to its end.

    Args:
        overrides: Hydra settings; `strategy=a,b` runs several strategies one after another.
        name: Name of the run's folder; the present time if None.
        resume: Name of a run to resume; it keeps its own configuration.
        console: Terminal that shows the progress.
        page: Serves a page about the run; None for none.

    Raises:
        ConfigError: A setting is wrong, or keys and certificates are missing.
        BindFailed: The hospitals' port or address cannot be had.
        RunError: The run cannot go on; it can be resumed. A new run that never let a hospital in
            leaves no folder.
    """
    with console.status("loading torch, MONAI and Flower"):
        folder, configs = resume_run(resume, overrides) if resume else create_run(overrides, name)
    with (
        ExitStack() as to_the_end,  # the page shows how the run ended
        concluded(folder, f"resume with --resume {folder.name}", new=not resume),
    ):
        place = endpoint_of(configs[0].deployment)
        with (
            only_coordinator(Path(configs[0].deployment.runs) / FLEET),
            shown(folder, configs, console),
        ):
            attach = page and to_the_end.enter_context(page(folder, place))
            _serve(folder, configs, place, console, attach)
    return folder


@contextmanager
def concluded(folder: RunFolder, remedy: str, *, new: bool) -> Iterator[None]:
    """Bring a run's folder into a terminal state when the `with` block ends.

    Args:
        folder: The run's.
        remedy: What to do about an interruption.
        new: Whether its folder is removed if it never let a hospital in.
    """
    try:
        yield
    except BaseException as error:
        if new and not folder.was_open:
            shutil.rmtree(folder.path, ignore_errors=True)
        folder.end(error, remedy)
        raise
    folder.end(None)


@contextmanager
def shown(folder: RunFolder, configs: Sequence[Config], console: Console) -> Iterator[None]:
    """Describe, show and log a run inside the `with` block."""
    from polyclinic.federation.jobs import describe_run, follow_run

    console.print(f"run {folder.name} in {folder.path}", markup=False)
    describe_run(folder, configs, state="waiting", pid=os.getpid())
    with show(LiveTable(follow_run(configs)), console) as handle, folder.logged("flwr"):
        folder.listeners.append(handle)
        yield


def finish(folder: RunFolder, console: Console) -> None:
    """Write the report of a run, and print who is missing, then its tables."""
    write_report(folder.path)
    show_results(folder, console)


def show_results(folder: RunFolder, console: Console) -> None:
    """Print who is missing in a run whose report is written, then its tables."""
    results = read_results(folder.path)
    console.print()
    if missing := find_missing(results):
        console.print("NOT ALL HOSPITALS ARE IN THIS RESULT", style="bold red")
        for sentence in missing:
            console.print(f"  {clean_lines(sentence)}", markup=False)
        console.print()
    worst = standing_table(results)
    for table in [*([worst] if worst else []), *terminal_tables(results)]:
        console.print(table)
    console.print(f"report: {folder.path / 'report.html'}", markup=False)


def ledger_folders(run: Path, configs: Sequence[Config]) -> list[Path]:
    """Return where the ledgers of a run are, or will be: its own, and those that settings name."""
    found = {run / "ledger": None}
    for config in configs:
        waiting: list[object] = [config.strategy]
        while waiting:
            node = waiting.pop()
            if not isinstance(node, Mapping):
                continue
            if isinstance(named := node.get("ledger"), str) and named:
                found[Path(named)] = None
            waiting += node.values()
    return list(found)


def _serve(
    folder: RunFolder,
    configs: Sequence[Config],
    place: "Endpoint",
    console: Console,
    attach: Callable[["FleetServer"], None] | None,
) -> None:
    """Let hospitals connect, and run the strategies with them."""
    from polyclinic_server.enrolment.anchoring import Anchoring
    from polyclinic_server.fleet.grid import FleetGrid
    from polyclinic_server.fleet.server import FleetServer
    from polyclinic_server.runs.app import coordinate

    fleet_folder = Path(configs[0].deployment.runs) / FLEET

    def record(_kind: str, text: str) -> None:
        folder.record(Note(text=text))

    anchoring = Anchoring(place.authority, ledger_folders(folder.path, configs))
    with (
        closing(anchoring),
        announced(place.authority, lambda text: record("note", text)),
        FleetServer(place, fleet_folder, record, anchors=anchoring) as fleet,
    ):
        if attach is not None:
            attach(fleet)
        console.print(place.invitation(fleet.address), markup=False)
        folder.update(address=fleet.address)
        sites = chosen_sites(configs, place.authority)
        coordinate(FleetGrid(fleet.post(folder.name, sites)), folder)


def create_run(overrides: Sequence[str], name: str | None) -> tuple[RunFolder, list[Config]]:
    """Check all settings and strategies, and make the folder of a new run.

    Raises:
        ConfigError: A setting is wrong.
        DiskFull: Less than `NEEDED_DISK` is free.
        RunError: The name is taken, or the folder cannot be made.
    """
    expanded = expand_strategies(overrides)
    configs = [load_config(each) for each in expanded]
    from polyclinic_server.runs.app import make_coordinator

    for config in configs:
        check_channels(config.data)
        make_coordinator(config)
    folder = new_run(Path(configs[0].deployment.runs), name)
    free = psutil.disk_usage(str(folder.path)).free
    if free < NEEDED_DISK:
        folder.path.rmdir()
        raise DiskFull(folder.path, free, NEEDED_DISK)
    folder.keep_settings(expanded, configs)
    folder.keep_plan(overrides)
    return folder, configs


def resume_run(name: str, overrides: Sequence[str]) -> tuple[RunFolder, list[Config]]:
    """Find an unfinished run; it keeps its settings, except those of the deployment.

    Raises:
        ConfigError: A setting besides the deployment is given.
        RunError: The run is finished.
        RunNotFound: There is no run of that name.
    """
    deployment = [text for text in overrides if text.startswith("deployment")]
    folder = find_run(Path(load_config(deployment).deployment.runs), name)
    if folder.describe().get("state") == "finished":
        raise RunError(
            f"Run {folder.name} is finished: there is nothing to resume. "
            f"`polyclinic-server report {folder.name}` shows it."
        )
    others = [text for text in overrides if not text.startswith("deployment")]
    if others:
        raise ConfigError(
            f"A run resumes with its own settings, and {others[0]} would change them: leave it "
            "out, or start a new run."
        )
    expanded = [[*each, *overrides] for each in folder.settings()]
    configs = [load_config(each) for each in expanded]
    folder.keep_settings(expanded, configs)
    return folder, configs
