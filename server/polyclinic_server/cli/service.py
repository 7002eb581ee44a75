"""Commands of a coordinator that stays up: serve, follow, stop, resume; and how `run` finds it."""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from polyclinic.errors import RunError
from polyclinic.system.commands import NO_KEYS, Insecure, Settings
from polyclinic.system.console import LineConsole
from polyclinic_server.cli.options import PageAddress, Runs, Webhook

Name = Annotated[str, typer.Argument(metavar="RUN", help="Name of a run, or 'latest'.")]
LOOK_S = 0.2
console = LineConsole()

SERVE_HELP = """Hold the hospitals' port, and let runs live side by side, until Ctrl-C.

While it serves, [bold]polyclinic-server run[/bold] hands its runs to it. A run that fails harms no
other. Runs that go on when it ends are taken up again by the next one. Settings are those of the
group deployment.

Examples:

[bold]polyclinic-server serve[/bold]

[bold]polyclinic-server serve --page 8080[/bold] (then open http://127.0.0.1:8080)

[bold]polyclinic-server serve deployment.runs=/srv/runs deployment.port=9092[/bold]"""


def serve(
    overrides: Settings = None,
    insecure: Insecure = False,
    page_address: PageAddress = None,
    webhook: Webhook = None,
) -> None:
    """Serve; the help text is SERVE_HELP."""
    from polyclinic.config.compose import load_config
    from polyclinic.errors import ConfigError

    settings = [*(overrides or []), *([NO_KEYS] if insecure else [])]
    for text in settings:
        if not text.startswith("deployment"):
            raise ConfigError(f"{text}: a service has settings of deployment alone.")
    deployment = load_config(settings).deployment
    from polyclinic_server.service.service import Service

    def say(text: str) -> None:
        console.print(f"{time.strftime('%H:%M:%S')} {text}", markup=False)

    with ExitStack() as stack:
        service = stack.enter_context(Service(deployment, say))
        if page_address:
            from polyclinic_server.page.show import PageOptions, page_of_service

            options = PageOptions(page_address, webhook)
            stack.enter_context(page_of_service(options, deployment, service, say))
        while True:
            service.tend()
            time.sleep(LOOK_S)


def follow(name: Name = "latest", runs: Runs = Path("runs")) -> None:
    """Show the progress of a run that a service has. Ctrl-C leaves it, and the run goes on."""
    from polyclinic.federation.run_folder import find_run
    from polyclinic_server.runs.coordinator import show_results
    from polyclinic_server.service.follow import follow as follow_run
    from polyclinic_server.service.served_desk import desk_of

    with desk_of(_fleet(runs, "follow")) as desk:
        folder = follow_run(desk, find_run(runs, name), console)
    show_results(folder, console)


def stop(name: Name, runs: Runs = Path("runs")) -> None:
    """Stop a run that a service has. What it has is kept; `resume` lets it go on."""
    from polyclinic.federation.run_folder import find_run
    from polyclinic_server.service.served_desk import desk_of

    with desk_of(_fleet(runs, "stop")) as desk:
        found = find_run(runs, name).name
        desk.stop(found)
    console.print(f"The run {found} is stopped. `polyclinic-server resume {found}` resumes it.")


def resume(name: Name, runs: Runs = Path("runs")) -> None:
    """Let a service resume a run that was stopped, failed, or died."""
    from polyclinic_server.service.served_desk import desk_of

    with desk_of(_fleet(runs, "resume")) as desk:
        found = desk.resume(name)
    console.print(f"The run {found} goes on. `polyclinic-server follow {found}` shows it.")


def _fleet(runs: Path, command: str) -> Path:
    """Return the folder `.fleet` of a service.

    Raises:
        RunError: None serves these runs.
    """
    from polyclinic_server.runs.lock import FLEET
    from polyclinic_server.service.place import is_served

    if not is_served(runs / FLEET):
        alone = " `polyclinic-server run --resume NAME` resumes a run without one."
        raise RunError(
            f"No service has the runs in {runs}: start one with `polyclinic-server serve`, or name "
            f"another folder with --runs.{alone if command == 'resume' else ''}"
        )
    return runs / FLEET
