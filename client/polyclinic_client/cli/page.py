"""`polyclinic-client page`: the hospital's page, for browsers on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from polyclinic.system.commands import unwrap
from polyclinic.system.console import LineConsole
from polyclinic_client.cli.options import Kit, Name, State

PORT = "8081"
PAGE_HELP = unwrap("""Show this hospital's side as a page in a browser, until this command is ended.

What runs here, what left and when, what waits for an approval, the data check with pictures of the
first cases, and the models that arrived. It is served on this machine alone. Open the address that
is printed: it holds a token, without which nothing is shown.

Example: [bold]polyclinic-client page --kit keys/st-mary.kit.json --data data[/bold]""")


def page(
    kit: Kit = None,
    name: Name = None,
    state: State = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder with dataset.json, for the data check.")
    ] = None,
    address: Annotated[
        str, typer.Option("--page", metavar="PORT", help="Port of the page.")
    ] = PORT,
) -> None:
    """See PAGE_HELP."""
    from polyclinic.web.serving import told_to_end
    from polyclinic_client.cli.runs import chosen_state
    from polyclinic_client.page.show import show_page

    leaving = told_to_end()
    with show_page(address, chosen_state(state, kit, name), data, LineConsole().say):
        leaving.wait()
