"""A command of consensus."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def spreads(
    name: Annotated[str, typer.Argument(metavar="RUN", help="Name of a run, or 'latest'.")],
    runs: Annotated[Path, typer.Option("--runs", help="Folder of the runs.")] = Path("runs"),
) -> None:
    """Print the spread of every round of a consensus run."""
    from polyclinic.federation.run_folder import find_run
    from polyclinic_toy.events import Agreed

    for event in find_run(runs, name).events():
        if isinstance(event, Agreed):
            typer.echo(f"{event.round} {event.spread:.6f}")
