"""The command line `polyclinic-server` of the researcher who coordinates a federation."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from polyclinic.federation.method import methods
from polyclinic.system.commands import (
    NO_KEYS,
    InOrder,
    Insecure,
    Settings,
    add_commands,
    add_installed_commands,
)
from polyclinic.system.console import LineConsole
from polyclinic.system.exit_codes import EXIT_CODES, run_command
from polyclinic_server.cli.enrol import enrol_app, init
from polyclinic_server.cli.evaluate import EVALUATE_HELP, evaluate
from polyclinic_server.cli.ledger import ledger_app, models_app
from polyclinic_server.cli.options import PageAddress, Resume, RunName, Runs, Webhook
from polyclinic_server.cli.page import PAGE_HELP, page
from polyclinic_server.cli.segment_service import segment_service
from polyclinic_server.cli.service import SERVE_HELP, follow, resume, serve, stop

SET_UP, RUNS, MODELS, SERVICES = "Set up", "Runs", "Models", "Services"


class ServerCommands(InOrder):
    """Commands of the coordinator, in the order of use."""

    order = (
        "init", "enrol", "settings", "plan", "run", "page", "evaluate", "status", "report",
        "export", "serve", "follow", "stop", "resume", "ledger", "models", "merge", "refine",
        "pretrain", "train-proxy", "segment-service",
    )  # fmt: skip


app = typer.Typer(
    name="polyclinic-server",
    help="Coordinate a federation of hospitals. No image reaches this machine.\n\n" + EXIT_CODES,
    cls=ServerCommands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command(rich_help_panel=SET_UP)(init)
app.add_typer(enrol_app, name="enrol", rich_help_panel=SET_UP)
app.add_typer(ledger_app, name="ledger", rich_help_panel=MODELS)
app.add_typer(models_app, name="models", rich_help_panel=MODELS)
app.command(help=EVALUATE_HELP, rich_help_panel=RUNS)(evaluate)
app.command(help=SERVE_HELP, rich_help_panel=SERVICES)(serve)
for command in (follow, stop, resume):
    app.command(rich_help_panel=SERVICES)(command)
app.command(help=PAGE_HELP, rich_help_panel=RUNS)(page)
app.command(name="segment-service", rich_help_panel=SERVICES)(segment_service)
console = LineConsole()

RUN_HELP = """Start the coordinator, wait for hospitals, train, evaluate, and write a report.

Settings are given as NAME=VALUE. The groups strategy, model, data, training, privacy and deployment
each choose a file of conf/. [bold]polyclinic-server settings[/bold] lists all names and settings.

Examples:

[bold]polyclinic-server run[/bold] (after `polyclinic-server init` and `enrol`; hospitals join with
their kits)

[bold]polyclinic-server run --insecure[/bold] (to try it on this machine: no TLS, no keys)

[bold]polyclinic-server run strategy=averaging/fedprox model=unet training.epochs=2 rounds=10[/bold]

[bold]polyclinic-server run strategy=averaging/local,averaging/fedavg,averaging/fedbn[/bold] (one
after another, compared in one report)

[bold]polyclinic-server run data=plan.yaml model=dynunet training=nnunet[/bold] (with a plan that
`polyclinic-server plan` wrote)

[bold]polyclinic-server run --resume latest[/bold]"""


@app.command(help=RUN_HELP, rich_help_panel=RUNS)
def run(
    overrides: Settings = None,
    name: RunName = None,
    resume: Resume = None,
    insecure: Insecure = False,
    page_address: PageAddress = None,
    webhook: Webhook = None,
) -> None:
    """Run a federation; the help text is RUN_HELP."""
    from polyclinic_server.page.show import PageOptions, page_of_run
    from polyclinic_server.service.hand_over import run_to_its_end

    settings = [*(overrides or []), *([NO_KEYS] if insecure else [])]
    shown = page_of_run(PageOptions(page_address, webhook), console.say) if page_address else None
    run_to_its_end(settings, name, resume, console, shown)


@app.command(rich_help_panel=SET_UP)
def settings(
    overrides: Settings = None,
) -> None:
    """List names of settings, statistics and packages that extend polyclinic, then all values.

    With SETTING=VALUE the values are those that a run with these settings would use.

    All statistics are imported, and the strategy is made: what a package offers wrongly, and names
    that do not exist, are refused.
    """
    from polyclinic.config.compose import GROUPS, as_yaml, instantiate, list_names, load_config
    from polyclinic.config.plan_files import named_plan, read_plan
    from polyclinic.describing.statistics import statistics
    from polyclinic.system.plugins import plugins

    config = load_config(overrides or [])
    plan = named_plan(overrides or [])
    found = statistics()
    instantiate(config.strategy, _recursive_=False)
    for group in GROUPS:
        console.print(f"[bold]{group}[/bold]: {', '.join(list_names(group)) or '-'}")
    console.print(f"[bold]statistics[/bold]: {', '.join(found)}")
    packages = ", ".join(f"{name} {version}" for name, version in sorted(plugins().items()))
    console.print(f"[bold]packages that extend polyclinic[/bold]: {packages or 'none'}")
    if plan is not None:
        console.print(f"[bold]plan[/bold]: {escape(str(plan))}, digest {read_plan(plan).digest}")
    console.print()
    console.print(as_yaml(config), markup=False)


@app.command(rich_help_panel=RUNS)
def status(runs: Runs = Path("runs")) -> None:
    """List all runs with their state and progress; of a service, its hospitals, too."""
    from polyclinic_server.runs.lock import FLEET
    from polyclinic_server.runs.status import status_table
    from polyclinic_server.service.place import is_served

    console.print(status_table(runs))
    if is_served(runs / FLEET):
        from polyclinic_server.service.served_desk import desk_of
        from polyclinic_server.service.tables import hospitals_table

        with desk_of(runs / FLEET) as desk:
            console.print(hospitals_table(desk.hospitals()))


@app.command(rich_help_panel=RUNS)
def report(
    name: Annotated[str, typer.Argument(metavar="RUN", help="Name of a run, or 'latest'.")],
    runs: Runs = Path("runs"),
) -> None:
    """Write the report of a run again, and show its table."""
    from polyclinic.federation.run_folder import find_run
    from polyclinic_server.runs.coordinator import finish

    finish(find_run(runs, name), console)


@app.command(rich_help_panel=MODELS)
def export(
    to: Annotated[
        Path,
        typer.Option(
            "--to",
            help="What to write: a .safetensors file; NAME.bundle (or just bundle), a folder that "
            "`python -m monai.bundle run` takes; or .pt2, a universal encoder for torch alone.",
        ),
    ],
    name: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Name of a run, or 'latest'.")
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="File of a model, such as `pretrain` writes."),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(help="Name of the strategy, if the run compared several."),
    ] = None,
    best: Annotated[
        bool,
        typer.Option("--best", help="The round that validated best, and not the last one."),
    ] = False,
    runs: Runs = Path("runs"),
) -> None:
    """Write the model of a run as one file, or as a MONAI bundle.

    The file is for `polyclinic-client predict` or `adapt`, or an encoder that needs only torch. The
    bundle is for MONAI's own tools.

    Example: [bold]polyclinic-server export latest --to model.safetensors[/bold]

    Example: [bold]polyclinic-server export latest --to spleen.bundle[/bold]

    Example: [bold]polyclinic-server export latest --to encoder.pt2[/bold] (of a run with
    strategy=universal)

    Example: [bold]polyclinic-server export --from pretrained/encoder.safetensors
    --to encoder.pt2[/bold]
    """
    from polyclinic.errors import ConfigError
    from polyclinic.federation.run_folder import find_run
    from polyclinic_server.runs.export import choose_model, export_model, is_bundle

    if (name is None) == (source is None):
        raise ConfigError(
            "export: name either a run ('latest' for the newest), or a file with --from FILE."
        )
    if source is not None and best:
        raise ConfigError("export: --best is for a run, and not for a file.")
    chosen = source or choose_model(find_run(runs, str(name)), strategy, best=best)
    example = export_model(chosen, to)
    if is_bundle(to):
        console.print(
            f"{to}: a MONAI bundle. The README.md inside says how to run it.", markup=False
        )
        return
    console.print(f"{to}: {to.stat().st_size / 2**20:.1f} MiB", markup=False)
    if example:
        console.print(
            "\nLoad it with torch alone:\n",
            *(f"\n    {line}" for line in ("import torch", *example)),
            markup=False,
        )


add_commands(app, [method.commands for method in methods().values() if method.commands])
add_installed_commands(app)


def main() -> None:
    """Run the console script."""
    run_command(app)


if __name__ == "__main__":
    main()
