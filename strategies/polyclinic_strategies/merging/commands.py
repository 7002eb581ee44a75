"""Commands of merging for `polyclinic-server`."""

from pathlib import Path
from typing import Annotated

import typer

from polyclinic.system.console import LineConsole

app = typer.Typer()
console = LineConsole()
MERGED = Path("merged.safetensors")


@app.command(rich_help_panel="Models")
def merge(
    parameters: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PARAMETER=VALUE]...", help="Parameters of the rule."),
    ] = None,
    rule: Annotated[
        str, typer.Option(help="Name of a rule in conf/strategy/merging/, such as ties.")
    ] = "mean",
    ledger: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Folder of the ledger. Default: the ledger of the newest run."
        ),
    ] = None,
    to: Annotated[Path, typer.Option("--to", help="The safetensors file to write.")] = MERGED,
    runs: Annotated[Path, typer.Option("--runs", help="Folder of the runs.")] = Path("runs"),
) -> None:
    """Merge a ledger's contributions by any rule, offline; the ledger is not changed.

    Examples:

    [bold]polyclinic-server merge --rule ties keep=0.3 --to ties.safetensors[/bold]

    [bold]polyclinic-server merge --rule sum scale=0.4 --ledger runs/latest/ledger[/bold]
    """
    from polyclinic.federation.run_folder import find_ledger
    from polyclinic_strategies.merging.offline import merge_offline

    words, entries = merge_offline(rule, parameters or [], find_ledger(ledger, runs), to)
    sites = ", ".join(entry.site for entry in entries)
    console.print(f"{words} of {len(entries)} contributions: {sites}", markup=False)
    console.print(f"{to}: {to.stat().st_size / 2**20:.1f} MiB", markup=False)
