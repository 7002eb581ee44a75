"""Commands of the deformation proxy for `polyclinic-server`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from polyclinic.system.commands import Settings
from polyclinic.system.console import LineConsole

app = typer.Typer()
console = LineConsole()

TRAIN_HELP = """Train the deformation proxy: a generator for hospitals, a segmenter, and a report.

The segmenter is for the segmentation service. --data names a cohort with several visits of each
person: dataset.json gives each case a "subject". Its training cases train all three networks.
Attackers know the people under 'validation', and try to recognize those under 'test'. --lesions
names a cohort of people with lesions, which is attacked as well. After an interruption, the same
command goes on.

Examples:

[bold]polyclinic-server train-proxy --data /data/visits --out proxy[/bold]

[bold]polyclinic-server train-proxy --data /data/visits training.proxy.steps=2000[/bold]

Then: [bold]polyclinic-server segment-service --model proxy/segmenter.safetensors[/bold]. Hospitals
get proxy/generator.safetensors."""


@app.command(name="train-proxy", help=TRAIN_HELP, rich_help_panel="Methods")
def train_proxy(
    settings: Settings = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            "--data",
            metavar="FOLDER",
            help="A cohort with several visits of each person; may be repeated.",
        ),
    ] = None,
    lesions: Annotated[
        list[Path] | None,
        typer.Option(
            "--lesions", metavar="FOLDER", help="A cohort of people with lesions; may be repeated."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the results.")] = Path("proxy"),
    restarts: Annotated[
        int, typer.Option(min=1, help="Number of trainings of each attacker; the strongest counts.")
    ] = 3,
    keys: Annotated[
        int, typer.Option(min=2, help="Number of proxies of each visit that attackers get.")
    ] = 4,
    scored: Annotated[
        int,
        typer.Option(min=1, help="Number of test scans that are segmented with and without proxy."),
    ] = 8,
) -> None:
    """See TRAIN_HELP."""
    from polyclinic.errors import ConfigError
    from polyclinic_strategies.proxy.train import Orders, Others
    from polyclinic_strategies.proxy.train import train_proxy as train

    if not data:
        raise ConfigError("train-proxy: name the cohort with --data FOLDER; it holds dataset.json.")
    others = tuple(map(Others.with_lesions, lesions or ()))
    overrides = tuple(settings or ())
    train(Orders(tuple(data), out, overrides, others, restarts, keys, scored), console)
    show_result(out, console)


def show_result(out: Path, console: Console) -> None:
    """Write the report of a trained proxy and show its tables."""
    from polyclinic_strategies.proxy.report.page import write_proxy_report
    from polyclinic_strategies.proxy.report.tables import proxy_tables

    path = write_proxy_report(out)
    for table in proxy_tables(out):
        console.print(table)
    console.print(f"report: {path}", markup=False)
