"""`polyclinic-server`: what the researcher who coordinates runs."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from polyclinic.system.exit_codes import EXIT_CODES, run_command
from polyclinic_server.cli.enrol import enrol_app, init
from polyclinic_server.cli.ledger import ledger_app, models_app
from polyclinic_server.cli.pretrain import PRETRAIN_HELP, pretrain
from polyclinic_server.cli.proxy import TRAIN_HELP, demo_proxy, train_proxy
from polyclinic_server.cli.segment_service import segment_service

app = typer.Typer(
    name="polyclinic-server",
    help="Coordinate a federation of hospitals. No image reaches this machine.\n\n" + EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(ledger_app, name="ledger")
app.add_typer(models_app, name="models")
app.add_typer(enrol_app, name="enrol")
app.command()(init)
app.command(name="segment-service")(segment_service)
app.command(help=PRETRAIN_HELP)(pretrain)
app.command(name="train-proxy", help=TRAIN_HELP)(train_proxy)
app.command(name="demo-proxy")(demo_proxy)
WIDE = 120  # where output goes to a file, nobody's window limits the tables
console = Console(
    highlight=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE
)
Runs = Annotated[Path, typer.Option("--runs", help="Folder of the runs.")]

RUN_HELP = """Start the coordinator, wait for hospitals, train, evaluate, and write a report.

Settings are given as NAME=VALUE; groups choose a file of conf/: strategy, model, data, training, privacy, deployment.

Examples:

[bold]polyclinic-server run[/bold] (after `polyclinic-server init` and `enrol`; hospitals join with their kits)

[bold]polyclinic-server run --insecure[/bold] (to try it on this machine alone: no TLS, no keys)

[bold]polyclinic-server run strategy=averaging/fedprox model=unet training.epochs=2 rounds=10[/bold]

[bold]polyclinic-server run strategy=averaging/local,averaging/fedavg,averaging/fedbn[/bold] (one after another, compared in one report)

[bold]polyclinic-server run --resume latest[/bold]

[bold]polyclinic-server settings[/bold] lists every name and setting."""


@app.command(help=RUN_HELP)
def run(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[SETTING=VALUE]...", help="Hydra overrides.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the run's folder. Default: the time.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(help="Take up this run where it stopped ('latest' for the newest)."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="No TLS, no keys: this machine alone, over loopback.")
    ] = False,
) -> None:
    """Run a federation."""
    from polyclinic_server.runs.coordinator import finish
    from polyclinic_server.runs.coordinator import run as run_federation

    settings = [*(overrides or []), *(["deployment.insecure=true"] if insecure else [])]
    finish(run_federation(settings, name, resume, console), console)


@app.command()
def settings(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[SETTING=VALUE]...")] = None,
) -> None:
    """List the names that every group of conf/ has, and the settings as they would be used."""
    from polyclinic.config.compose import GROUPS, as_yaml, list_names, load_config

    for group in GROUPS:
        console.print(f"[bold]{group}[/bold]: {', '.join(list_names(group)) or '-'}")
    console.print()
    console.print(as_yaml(load_config(overrides or [])), markup=False)


@app.command()
def status(runs: Runs = Path("runs")) -> None:
    """List the runs: what they do or how they ended."""
    from polyclinic_server.runs.status import status_table

    console.print(status_table(runs))


@app.command()
def report(
    name: Annotated[str, typer.Argument(metavar="RUN", help="Name of a run, or 'latest'.")],
    runs: Runs = Path("runs"),
) -> None:
    """Write a run's report again and show its table."""
    from polyclinic.federation.run_folder import find_run
    from polyclinic_server.runs.coordinator import finish

    finish(find_run(runs, name), console)


@app.command()
def export(
    to: Annotated[
        Path,
        typer.Option(
            "--to",
            help="The file to write: .safetensors; or .pt2, a universal encoder for plain torch.",
        ),
    ],
    name: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Name of a run, or 'latest'.")
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="FILE", help="A model's file instead of a run: of `pretrain`."
        ),
    ] = None,
    strategy: Annotated[
        str | None, typer.Option(help="Which strategy's model, where the run compared several.")
    ] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Write a run's model as one file: ready for `polyclinic-client predict` or `adapt`; or an encoder that needs torch and nothing else.

    Example: [bold]polyclinic-server export latest --to model.safetensors[/bold]

    Example: [bold]polyclinic-server export latest --to encoder.pt2[/bold] (of a run with strategy=universal)

    Example: [bold]polyclinic-server export --from pretrained/encoder.safetensors --to encoder.pt2[/bold]
    """
    from polyclinic.errors import ConfigError
    from polyclinic.federation.run_folder import find_run
    from polyclinic_server.runs.export import choose_model, export_model

    if (name is None) == (source is None):
        raise ConfigError(
            "export: name a run ('latest' for the newest), or a file with --from FILE."
        )
    example = export_model(source or choose_model(find_run(runs, str(name)), strategy), to)
    console.print(f"{to}: {to.stat().st_size / 2**20:.1f} MiB", markup=False)
    if example:
        console.print(
            "\nLoad it with torch alone:\n",
            *(f"\n    {line}" for line in ("import torch", *example)),
            markup=False,
            soft_wrap=True,
        )


@app.command()
def demo(
    sites: Annotated[int, typer.Option(min=2, max=6, help="Hospitals.")] = 6,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1, help="Rounds of every strategy. Default: as the demo's experiment says."
        ),
    ] = None,
    subjects: Annotated[int, typer.Option(min=1, help="Training subjects of each hospital.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Of the data and of the training.")] = 0,
    folder: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("demo"),
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[SETTING=VALUE]...", help="Passed on to `run`.")
    ] = None,
) -> None:
    """Six hospitals on this machine: writes their data, starts them and a coordinator as processes, and ends with a report."""
    from polyclinic_demos.refinement import run_demo

    run_demo(sites, rounds, subjects, seed, folder, overrides or [], console)


@app.command()
def merge(
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[rule=NAME] [ledger=FOLDER] [PARAMETER=VALUE]...", help="See the examples."
        ),
    ] = None,
    to: Annotated[Path, typer.Option("--to", help="The safetensors file to write.")] = Path(
        "merged.safetensors"
    ),
    runs: Runs = Path("runs"),
) -> None:
    """Merge a ledger's contributions by any rule, offline: no hospital is asked, and the ledger stays as it is.

    Examples:

    [bold]polyclinic-server merge rule=ties keep=0.3 ledger=runs/latest/ledger --to ties.safetensors[/bold]

    [bold]polyclinic-server merge rule=sum scale=0.4[/bold] (of the newest run that has a ledger)
    """
    from polyclinic_server.cli.ledger import find_ledger
    from polyclinic_strategies.merging.offline import merge_offline

    texts = settings or []
    named = [text.partition("=")[2] for text in texts if text.startswith("ledger=")]
    rule, entries = merge_offline(texts, find_ledger(Path(named[-1]) if named else None, runs), to)
    console.print(
        f"{rule} of {len(entries)} contributions: {', '.join(entry.site for entry in entries)}",
        markup=False,
    )
    console.print(f"{to}: {to.stat().st_size / 2**20:.1f} MiB", markup=False)


@app.command()
def refine(
    site: Annotated[
        str,
        typer.Option(
            "--for", metavar="SITE", help="A hospital that contributed, or described itself."
        ),
    ],
    explain: Annotated[
        bool, typer.Option("--explain", help="Show whose vectors are in it, and how far they are.")
    ] = False,
    to: Annotated[Path | None, typer.Option("--to", help="The safetensors file to write.")] = None,
    left_out: Annotated[
        bool, typer.Option("--left-out", help="As if this hospital had not contributed.")
    ] = False,
    ledger: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="The ledger's folder. Default: the newest run's."),
    ] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Make a hospital's refined model from a ledger, offline, or say what it is made of.

    Examples:

    [bold]polyclinic-server refine --for st-john --explain[/bold]

    [bold]polyclinic-server refine --for st-john --to st-john.safetensors --ledger runs/latest/ledger[/bold]
    """
    from polyclinic.errors import ConfigError
    from polyclinic_server.cli.ledger import find_ledger
    from polyclinic_strategies.refinement import offline as refining

    if not explain and to is None:
        raise ConfigError("refine: say what is wanted, --explain or --to FILE or both.")
    found = refining.refine_offline(site, find_ledger(ledger, runs), to, left_out=left_out)
    if explain:
        refining.explain(found, console)
    if to is not None:
        console.print(f"{to}: {to.stat().st_size / 2**20:.1f} MiB", markup=False)


@app.command(name="demo-merging")
def demo_merging(
    cohort: Annotated[
        str,
        typer.Option(
            help="brain: six simulated scanners; cells: the three real laboratories in the folder POLYCLINIC_DATA."
        ),
    ] = "brain",
    subjects: Annotated[
        int, typer.Option(min=1, help="Training subjects of each hospital (brain).")
    ] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Of the data and of the training.")] = 0,
    folder: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("demo"),
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[SETTING=VALUE]...", help="Passed on to `run`.")
    ] = None,
) -> None:
    """Hospitals that contribute whenever they like, while processes are killed and come back; ends with a report."""
    from polyclinic.errors import ConfigError
    from polyclinic_demos.merging import run_merging_demo

    if cohort not in ("brain", "cells"):
        raise ConfigError(f"--cohort {cohort}: brain or cells.")
    run_merging_demo(cohort, subjects, seed, folder, overrides or [], console)


def main() -> None:
    """The console script."""
    run_command(app)


if __name__ == "__main__":
    main()
