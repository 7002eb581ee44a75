"""`polyclinic-client page`: the hospital's page, for browsers on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from polyclinic.system.commands import unwrap
from polyclinic.system.console import LineConsole
from polyclinic_client.cli.options import Key, Kit, Name, State

PORT = "8081"
PAGE_HELP = unwrap("""Show this hospital's side as a page in a browser, until this command is ended.

What runs here, what left and when, what waits for an approval, the data check with pictures of the
first cases, the models that arrived, and what one of them makes of a scan in --data or --scans. It
is served on this machine alone. Open the address that is printed: it holds a token, without which
nothing is shown.

Example: [bold]polyclinic-client page --kit keys/st-mary.kit.json --data data[/bold]""")


def page(
    kit: Kit = None,
    name: Name = None,
    state: State = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder with dataset.json, for the data check.")
    ] = None,
    scans: Annotated[
        list[Path] | None,
        typer.Option("--scans", help="Folder of NIfTI files that can be segmented on the page."),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            metavar="HOST:PORT",
            help="A segmentation service that can be asked, as `segment` asks it.",
        ),
    ] = None,
    key: Key = None,
    generator: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What warps for that service. Default: generator.safetensors beside the kit.",
        ),
    ] = None,
    address: Annotated[
        str, typer.Option("--page", metavar="PORT", help="Port of the page.")
    ] = PORT,
) -> None:
    """See PAGE_HELP."""
    from polyclinic.errors import ConfigError
    from polyclinic.web.serving import told_to_end
    from polyclinic_client.cli.runs import chosen_state
    from polyclinic_client.page.scan_task import SegmentService
    from polyclinic_client.page.show import show_page
    from polyclinic_client.segmentation.service_choice import choose_generator, service_connection

    service = None
    if server is not None:
        path = choose_generator(generator, kit)
        service_connection(server, kit, key, insecure=False)  # what is wrong is said at once
        service = SegmentService(server=server, generator=path, kit=kit, key=key)
    leaving, here = told_to_end(), chosen_state(state, kit, name)
    for folder in scans or []:
        if not folder.is_dir():
            raise ConfigError(f"--scans {folder}: there is no such folder.")
    with show_page(address, here, data, LineConsole().say, scans or [], service):
        leaving.wait()
