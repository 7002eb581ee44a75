"""`polyclinic-server ledger` and `polyclinic-server models`: contributions and published models."""

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from polyclinic.system.console import LineConsole

ledger_app = typer.Typer(
    help="List, show, withdraw, verify and export contributions of hospitals.",
    no_args_is_help=True,
)
models_app = typer.Typer(
    help="List published models with their contributions.", no_args_is_help=True
)
console = LineConsole()
Folder = Annotated[
    Path | None,
    typer.Option(
        "--ledger",
        metavar="FOLDER",
        help="Folder of the ledger. Default: that of the newest run, runs/*/ledger.",
    ),
]


@ledger_app.command("list")
def list_entries(ledger: Folder = None) -> None:
    """List all contributions, oldest first, with their state: active, superseded or withdrawn."""
    from polyclinic.federation.run_folder import find_ledger
    from polyclinic.store.ledger import Ledger
    from polyclinic_server.cli.ledger_tables import print_entries

    with Ledger.open(find_ledger(ledger), create=False) as opened:
        print_entries(opened.entries(), console)


@ledger_app.command()
def show(
    what: Annotated[
        str,
        typer.Argument(
            metavar="DIGEST-OR-SITE",
            help="First characters of a contribution's digest, or the name of a hospital.",
        ),
    ],
    ledger: Folder = None,
) -> None:
    """Show all details of a contribution, or of all contributions of a hospital."""
    from polyclinic.federation.run_folder import find_ledger
    from polyclinic.store.ledger import Ledger
    from polyclinic_server.cli.ledger_tables import entry_table, find_entries

    with Ledger.open(find_ledger(ledger), create=False) as opened:
        for entry in find_entries(opened, what):
            console.print(entry_table(entry, opened.publications()))


@ledger_app.command()
def withdraw(
    site: Annotated[str, typer.Argument(help="Name of the hospital.")],
    reason: Annotated[str, typer.Option(help="Reason for the journal.")],
    ledger: Folder = None,
) -> None:
    """Withdraw all contributions of a hospital; those that it hands over later count again.

    If the hospital only described its images, the description is removed.
    """
    from polyclinic.federation.run_folder import find_ledger
    from polyclinic.store.ledger import Ledger
    from polyclinic_server.runs import withdrawal

    with Ledger.open(find_ledger(ledger), create=False) as opened:
        console.print(withdrawal.withdraw(opened, site, reason), markup=False)


@ledger_app.command()
def history(
    limit: Annotated[
        int | None, typer.Option(min=1, help="Number of lines, the newest. Default: all.")
    ] = None,
    ledger: Folder = None,
) -> None:
    """Show the journal of the ledger, oldest line first."""
    from polyclinic.federation.run_folder import find_ledger
    from polyclinic.store.ledger import Ledger
    from polyclinic_server.cli.ledger_tables import print_history

    with Ledger.open(find_ledger(ledger), create=False) as opened:
        print_history(opened.history(limit), console)


@ledger_app.command()
def verify(
    ledger: Folder = None,
    anchor: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A hospital's anchors.json, or a line with a number and a hash: does the journal "
            "still hold what the hospital was shown?",
        ),
    ] = None,
) -> None:
    """Verify that nothing was changed, removed or moved since it was written.

    The journal's chain of hashes, the tables and all files are checked. Who can write to the files
    can also write the whole chain anew; --anchor finds that, because hospitals keep lines of it.
    """
    from polyclinic.federation.run_folder import find_ledger
    from polyclinic.store.ledger import Ledger
    from polyclinic_server.enrolment.anchoring import judge

    checked = {"line": 0, "file": 0, "model": 0}
    with Ledger.open(find_ledger(ledger), create=False) as opened:
        fault = opened.verify(lambda what, count: checked.update({what: count}))
        newest = opened.history(1)
        verdict = None if anchor is None or fault else judge(anchor, opened)
    counted = ", ".join(
        f"{count:,} {what}{'' if count == 1 else 's'}" for what, count in checked.items()
    )
    if fault:
        console.print(f"checked {counted}", markup=False)
        _end_with(fault.where, f"{fault.what}: expected {fault.expected}, found {fault.found}")
    console.print(f"sound: {counted}", markup=False)
    console.print(f"newest line: {newest[-1].sequence}, {newest[-1].hash}", markup=False)
    if verdict is not None:
        if not verdict.sound:
            _end_with(str(opened.folder), verdict.sentence)
        console.print(f"anchor: {verdict.sentence}", markup=False)


@ledger_app.command()
def export(
    digest: Annotated[
        str, typer.Argument(help="First characters of the digest of a contribution or a model.")
    ],
    to: Annotated[Path, typer.Option("--to", help="The safetensors file to write.")],
    ledger: Folder = None,
) -> None:
    """Write a contribution or a model as one safetensors file.

    `polyclinic-client predict` takes the file of a model.
    """
    from polyclinic.federation.run_folder import find_ledger
    from polyclinic.store.ledger import Ledger
    from polyclinic_server.cli.ledger_tables import export_file

    with Ledger.open(find_ledger(ledger), create=False) as opened:
        export_file(opened, digest, to)
    console.print(f"{to}: {to.stat().st_size / 2**20:.1f} MiB", markup=False)


@ledger_app.command()
def init(
    folder: Annotated[
        Path, typer.Argument(help="Folder of the new ledger, which holds the files.")
    ],
    url: Annotated[
        str,
        typer.Option(
            envvar="POLYCLINIC_LEDGER_URL",
            show_envvar=True,
            help="Address of an empty database: postgresql://USER:PASSWORD@HOST:PORT/DATABASE.",
        ),
    ],
) -> None:
    """Make a ledger whose tables are in PostgreSQL; by default, a run makes one in SQLite."""
    from polyclinic.store.journal import database_of, write_address
    from polyclinic.store.ledger import Ledger

    write_address(folder, url)
    with Ledger.open(folder) as opened:
        found = database_of(folder)
        assert found is not None
        console.print(f"{folder}: {found[1]}, {len(opened.entries())} contributions", markup=False)


@models_app.command("list")
def list_models(ledger: Folder = None) -> None:
    """List all published models: number, rule, and the contributions in it."""
    from polyclinic.federation.run_folder import find_ledger
    from polyclinic.store.ledger import Ledger
    from polyclinic_server.cli.ledger_tables import models_table

    with Ledger.open(find_ledger(ledger), create=False) as opened:
        console.print(models_table(opened))


def _end_with(where: str, problem: str) -> NoReturn:
    from polyclinic.errors import LedgerDamaged

    raise LedgerDamaged(where, problem)
