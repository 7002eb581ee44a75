"""Commands of the demos for `polyclinic-server`."""

import typer
from rich.console import Console

app = typer.Typer()
console = Console(highlight=False)
