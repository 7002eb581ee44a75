"""`polyclinic-client`: what the hospital's IT person runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from polyclinic.federation.method import methods
from polyclinic.system.commands import InOrder, add_commands
from polyclinic.system.console import LineConsole
from polyclinic.system.exit_codes import EXIT_CODES, run_command
from polyclinic.system.text import clean_lines
from polyclinic_client.cli.help import (
    CHECK_HELP,
    CONTRIBUTE_HELP,
    JOIN_HELP,
    KEYGEN_HELP,
)
from polyclinic_client.cli.import_data import IMPORT_HELP, import_data
from polyclinic_client.cli.options import (
    Data,
    Insecure,
    Key,
    Kit,
    MaxCache,
    MaxDisk,
    MaxEpochs,
    MaxHours,
    MaxMemory,
    MaxReleases,
    MinSubjects,
    Name,
    Noise,
    Server,
    State,
)
from polyclinic_client.cli.page import PAGE_HELP, page
from polyclinic_client.cli.predict import PREDICT_HELP, predict
from polyclinic_client.cli.runs import (
    APPROVE_HELP,
    REFUSE_HELP,
    RUNS_HELP,
    approve,
    refuse,
    runs,
)
from polyclinic_client.cli.segment import SEGMENT_HELP, segment
from polyclinic_client.cli.sent import SENT_HELP, sent
from polyclinic_client.state import state_folder

SET_UP, FEDERATION, MODELS, SERVICES = "Set up", "Federation", "Models", "Services"
OWN_SAY = "The hospital's own say"


class ClientCommands(InOrder):
    """Commands of a hospital, in the order of use."""

    order = (
        *("keygen", "import", "check", "join", "contribute"),
        *("runs", "approve", "refuse", "sent", "page"),
        *("predict", "adapt", "segment"),
    )


app = typer.Typer(
    name="polyclinic-client",
    help="Take part in a federation as a hospital. Your images never leave this machine: model "
    "weights and figures do.\n\n" + EXIT_CODES,
    cls=ClientCommands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.command(help=KEYGEN_HELP, rich_help_panel=SET_UP)
def keygen(
    folder: Annotated[
        Path, typer.Option(help="Folder of hospital.key and hospital.pub; put the kit there, too.")
    ] = Path("keys"),
) -> None:
    """See KEYGEN_HELP."""
    from polyclinic.security.keys import PRIVATE, PUBLIC, fingerprint, make_key
    from polyclinic.security.kit import Kit as KitFile

    mark = fingerprint(make_key(folder))
    console = LineConsole()
    console.print(f"{folder / PRIVATE}  stays here; show it to nobody", markup=False)
    console.print(f"{folder / PUBLIC}  goes to the coordinator", markup=False)
    console.print(
        f"fingerprint {mark}  (compare it with the coordinator by telephone)", markup=False
    )
    for path in sorted(folder.glob("*kit.json")):  # of an earlier key, as after a loss
        authority = KitFile.read(path).authority
        console.print(f"{path}  is from the authority {authority}", markup=False)
    console.print(
        "`join` will show the fingerprint of the authority in the kit that comes back; compare "
        "that one, too.",
        markup=False,
    )


@app.command(help=CHECK_HELP, rich_help_panel=SET_UP)
def check(
    data: Data,
    kit: Kit = None,
    key: Key = None,
    server: Server = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Try --server in plain text, on this machine.")
    ] = False,
    state: Annotated[Path | None, typer.Option(help="Also look for room in this folder.")] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Read the headers only, not every voxel, and train nothing."),
    ] = False,
) -> None:
    """See CHECK_HELP."""
    from polyclinic_client.cli.check import check_everything
    from polyclinic_client.network.connection import make_connection

    name = data.name if insecure else None
    connection = (
        make_connection(server, name, kit, key, insecure=insecure, state=state)
        if kit or server
        else None
    )
    folder = state_folder(state, connection.site if connection else data.name)
    check_everything(data, connection, folder, deep=not quick, console=LineConsole())


@app.command(help=JOIN_HELP, rich_help_panel=FEDERATION)
def join(
    data: Data,
    kit: Kit = None,
    key: Key = None,
    server: Server = None,
    name: Name = None,
    insecure: Insecure = False,
    state: State = None,
    wait: Annotated[
        float, typer.Option(help="Seconds to wait for a coordinator that is not up yet.")
    ] = 60.0,
    describe: Annotated[
        bool,
        typer.Option(
            "--describe",
            help="Only say what the images are like (no labels, no training), and get a model for "
            "them.",
        ),
    ] = False,
    min_subjects: MinSubjects = None,
    noise: Noise = None,
    max_memory_gb: MaxMemory = None,
    max_cache_gb: MaxCache = None,
    max_disk_gb: MaxDisk = None,
    max_epochs: MaxEpochs = None,
    max_hours: MaxHours = None,
    max_releases: MaxReleases = None,
) -> None:
    """See JOIN_HELP."""
    from polyclinic_client.fleet.join import describe as describe_images
    from polyclinic_client.fleet.join import join as join_federation
    from polyclinic_client.network.connection import make_connection
    from polyclinic_client.policy.policy import keep_policy

    console = LineConsole(stderr=True)
    connection = make_connection(server, name, kit, key, insecure=insecure, state=state)
    _check(data, console, labelled=not describe)
    folder = state_folder(state, connection.site)
    keep_policy(
        folder,
        min_subjects=min_subjects,
        noise_multiplier=noise,
        memory_gb=max_memory_gb,
        cache_gb=max_cache_gb,
        disk_gb=max_disk_gb,
        epochs=max_epochs,
        hours=max_hours,
        releases=max_releases,
    )
    if not describe:
        join_federation(connection, data, folder, wait, _teller(console))
        return
    path = describe_images(connection, data, folder, wait, _teller(console))
    console.print(
        f"The model for {connection.site} is {path}. Use it: polyclinic-client predict {path} "
        "IMAGE... --out FOLDER",
        markup=False,
    )


@app.command(help=CONTRIBUTE_HELP, rich_help_panel=FEDERATION)
def contribute(
    data: Data,
    kit: Kit = None,
    key: Key = None,
    server: Server = None,
    name: Name = None,
    insecure: Insecure = False,
    offline: Annotated[
        bool,
        typer.Option("--offline", help="Train now, without a connection; hand over another time."),
    ] = False,
    state: State = None,
    wait: Annotated[
        float, typer.Option(help="Seconds to wait for the coordinator, and for its question.")
    ] = 60.0,
) -> None:
    """See CONTRIBUTE_HELP."""
    from polyclinic_client.fleet.contribute import contribute as contribute_once
    from polyclinic_client.network.connection import make_connection

    console = LineConsole(stderr=True)
    connection = make_connection(server, name, kit, key, insecure=insecure, state=state)
    _check(data, console)
    site, called = connection.site, None if offline else connection
    said = contribute_once(
        called,
        data,
        site,
        state_folder(state, site),
        wait,
        _teller(console),
    )
    _teller(console)(said)


def _teller(console: Console) -> Callable[[str], None]:
    """Return what prints lines, any part of which may come from the coordinator."""
    return lambda text: console.print(clean_lines(text), markup=False)


def _check(data: Path, console: Console, *, labelled: bool = True) -> None:
    """Say what can be known at once about a data set."""
    from polyclinic.imaging.dataset_checks import check_dataset
    from polyclinic.imaging.datasets import read_dataset

    for warning in check_dataset(read_dataset(data, labelled=labelled)):
        console.print(f"warning: {clean_lines(warning)}", style="yellow", markup=False)


app.command(help=PREDICT_HELP, rich_help_panel=MODELS)(predict)
app.command("import", help=IMPORT_HELP, rich_help_panel=SET_UP)(import_data)
app.command(help=RUNS_HELP, rich_help_panel=OWN_SAY)(runs)
app.command(help=APPROVE_HELP, rich_help_panel=OWN_SAY)(approve)
app.command(help=REFUSE_HELP, rich_help_panel=OWN_SAY)(refuse)
app.command(help=SENT_HELP, rich_help_panel=OWN_SAY)(sent)
app.command(help=PAGE_HELP, rich_help_panel=OWN_SAY)(page)
app.command(help=SEGMENT_HELP, rich_help_panel=SERVICES)(segment)
add_commands(app, [each.hospital_commands for each in methods().values() if each.hospital_commands])


def main() -> None:
    """Run the console script."""
    run_command(app)


if __name__ == "__main__":
    main()
