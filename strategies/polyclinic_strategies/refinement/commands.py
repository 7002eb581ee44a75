"""Commands of refinement for `polyclinic-server`."""

from pathlib import Path
from typing import Annotated

import typer

from polyclinic.system.console import LineConsole

app = typer.Typer()
console = LineConsole()


@app.command(rich_help_panel="Models")
def refine(
    site: Annotated[
        str,
        typer.Option(
            "--for", metavar="SITE", help="A hospital that contributed or described its images."
        ),
    ],
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Show the hospitals in the model: shares and distances."),
    ] = False,
    to: Annotated[Path | None, typer.Option("--to", help="The safetensors file to write.")] = None,
    left_out: Annotated[
        bool, typer.Option("--left-out", help="Compute as if the hospital had not contributed.")
    ] = False,
    ledger: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Folder of the ledger. Default: the ledger of the newest run."
        ),
    ] = None,
    runs: Annotated[Path, typer.Option("--runs", help="Folder of the runs.")] = Path("runs"),
) -> None:
    """Make a hospital's refined model from a ledger, offline, or show the hospitals in it.

    Examples:

    [bold]polyclinic-server refine --for st-john --explain[/bold]

    [bold]polyclinic-server refine --for st-john --to st-john.safetensors[/bold]
    """
    from polyclinic.errors import ConfigError
    from polyclinic.federation.run_folder import find_ledger
    from polyclinic_strategies.refinement import offline

    if not explain and to is None:
        raise ConfigError("refine: nothing to do. Add --explain, or --to FILE, or both.")
    found = offline.refine_offline(site, find_ledger(ledger, runs), to, left_out=left_out)
    if explain:
        offline.explain(found, console)
    if to is not None:
        console.print(f"{to}: {to.stat().st_size / 2**20:.1f} MiB", markup=False)
