"""A run, by the service that has the folder of the runs; without one, by this process."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from polyclinic.config.compose import load_config
from polyclinic.errors import ConfigError
from polyclinic.federation.run_folder import RunFolder, find_run
from polyclinic_server.runs.lock import FLEET
from polyclinic_server.service.place import is_served

if TYPE_CHECKING:
    from polyclinic_server.runs.coordinator import PageOfRun


def run_to_its_end(
    overrides: Sequence[str],
    name: str | None,
    resume: str | None,
    console: Console,
    page: "PageOfRun | None" = None,
) -> RunFolder:
    """Run a federation to its end, its report and its tables.

    Args:
        overrides: Hydra settings; `strategy=a,b` runs several strategies one after another.
        name: Name of the run's folder; the present time if None.
        resume: Name of a run to resume; it keeps its own configuration.
        console: Terminal that shows the progress.
        page: Serves a page about the run; None for none.

    Raises:
        PolyclinicError: The run cannot start, or cannot go on.
    """
    from polyclinic_server.runs.coordinator import finish, run, show_results

    deployment = [text for text in overrides if text.startswith("deployment")]
    runs = Path(load_config(deployment).deployment.runs)
    if not is_served(runs / FLEET):
        folder = run(overrides, name, resume, console, page)
        finish(folder, console)
        return folder
    if page is not None:
        raise ConfigError(
            "--page: a service has these runs, and shows the page of all: start it with "
            "`polyclinic-server serve --page`, or open one beside it with `polyclinic-server page`."
        )
    from polyclinic_server.service.follow import begin_and_follow
    from polyclinic_server.service.served_desk import desk_of

    with desk_of(runs / FLEET) as desk:
        if resume is None:
            folder = begin_and_follow(
                desk, runs, lambda: desk.start(overrides, name), None, console
            )
        else:
            found = find_run(runs, resume).name
            folder = begin_and_follow(
                desk, runs, lambda: desk.resume(found, overrides), found, console
            )
    show_results(folder, console)
    return folder
