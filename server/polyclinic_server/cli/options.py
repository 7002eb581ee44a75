"""Options that several commands of `polyclinic-server` have."""

from pathlib import Path
from typing import Annotated

import typer

Runs = Annotated[Path, typer.Option("--runs", help="Folder of the runs.")]
RunName = Annotated[
    str | None,
    typer.Option("--name", help="Name of the run's folder. Default: the present time."),
]
Resume = Annotated[
    str | None,
    typer.Option(
        "--resume", help="Name of a run to resume where it stopped; 'latest' for the newest."
    ),
]
PageAddress = Annotated[
    str | None,
    typer.Option(
        "--page",
        metavar="[HOST:]PORT",
        help="Serve a page about the run; on this machine alone, unless HOST is given.",
    ),
]
Webhook = Annotated[
    str | None,
    typer.Option(
        "--webhook",
        metavar="URL",
        envvar="POLYCLINIC_WEBHOOK",
        help="With a page: address that is told when a run ends or fails (JSON, by POST).",
    ),
]
