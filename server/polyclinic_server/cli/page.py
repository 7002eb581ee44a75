"""`polyclinic-server page`: the page over a folder of runs, for browsers on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from polyclinic.system.console import LineConsole
from polyclinic_server.cli.options import Runs, Webhook

console = LineConsole()
PORT = "8080"
PAGE_HELP = """Show runs and hospitals as a page in a browser, until this command is ended.

The page is served on this machine alone. Reading needs nothing; stopping, resuming, withdrawing,
enrolling and revoking need the token, which is printed at the start. `--new-token` makes one that
stays; only its hash is kept. With `--page HOST:PORT`, other machines are served, with TLS and with
the token for reading, too.

Examples:

[bold]polyclinic-server page[/bold] (then open http://127.0.0.1:8080)

[bold]polyclinic-server page --runs studies --page 9000[/bold]

[bold]polyclinic-server page --new-token[/bold]"""


def page(
    runs: Runs = Path("runs"),
    address: Annotated[
        str, typer.Option("--page", metavar="[HOST:]PORT", help="Where the page is served.")
    ] = PORT,
    security: Annotated[
        Path,
        typer.Option("--security", help="Folder that `polyclinic-server init` made, if it did."),
    ] = Path("security"),
    webhook: Webhook = None,
    new_token: Annotated[
        bool, typer.Option("--new-token", help="Make a token that stays, print it, and end.")
    ] = False,
) -> None:
    """See PAGE_HELP."""
    from polyclinic.web.serving import told_to_end
    from polyclinic_server.enrolment.authority import Authority
    from polyclinic_server.page.run_processes import deeds_of_processes
    from polyclinic_server.page.show import PageOptions, renew_token, show_page

    authority = Authority.open(security) if (security / "address.json").exists() else None
    if new_token:
        console.say(renew_token(runs, authority))
        return
    leaving, options = told_to_end(), PageOptions(address, webhook)
    with show_page(options, runs, authority, console.say, deeds_of_processes(runs)):
        leaving.wait()
