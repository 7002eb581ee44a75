"""`polyclinic-server ledger` and `polyclinic-server models`: what the coordinator holds, and withdrawing a hospital's work."""

from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

ledger_app = typer.Typer(
    help="Contributions of hospitals: list, withdraw, verify.", no_args_is_help=True
)
models_app = typer.Typer(help="Published models, and what they were made of.", no_args_is_help=True)
console = Console(highlight=False)
Folder = Annotated[
    Path | None,
    typer.Option(
        "--ledger",
        metavar="FOLDER",
        help="The ledger's folder. Default: the newest run's, runs/*/ledger.",
    ),
]


@ledger_app.command("list")
def list_entries(ledger: Folder = None) -> None:
    """List every contribution, oldest first, and whether it counts."""
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
            metavar="DIGEST-OR-SITE", help="The first characters of a digest, or a hospital."
        ),
    ],
    ledger: Folder = None,
) -> None:
    """Show everything about a contribution, or about all of a hospital's."""
    from polyclinic.federation.run_folder import find_ledger
    from polyclinic.store.ledger import Ledger
    from polyclinic_server.cli.ledger_tables import entry_table, find_entries

    with Ledger.open(find_ledger(ledger), create=False) as opened:
        for entry in find_entries(opened, what):
            console.print(entry_table(entry, opened.publications()))


@ledger_app.command()
def withdraw(
    site: Annotated[str, typer.Argument(help="The hospital.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the journal.")],
    ledger: Folder = None,
) -> None:
    """From now on nothing counts that a hospital has handed over so far; what it hands over later does.

    A hospital that only described its images is forgotten: nobody's model was made of it.
    """
    from polyclinic.errors import NothingToWithdraw
    from polyclinic.federation.run_folder import find_ledger
    from polyclinic.store.ledger import Ledger
    from polyclinic_strategies.merging.publisher import Publisher
    from polyclinic_strategies.refinement.refiner import Refiner

    with Ledger.open(find_ledger(ledger), create=False) as opened:
        refiner = Refiner(Publisher(opened, 0, 0.5))
        described = site in refiner.newcomers()
        try:
            opened.withdraw(site, reason)
        except NothingToWithdraw:
            if not described:
                raise
            refiner.forget(site)
            console.print(
                f"The description of {site} is forgotten; nobody's model was made of it.",
                markup=False,
            )
            return
        left = len(opened.active())
    console.print(
        f"{site} is withdrawn; active contributions: {left}. The next published model is made without it.",
        markup=False,
    )


@ledger_app.command()
def history(
    limit: Annotated[int | None, typer.Option(min=1, help="Only the newest lines.")] = None,
    ledger: Folder = None,
) -> None:
    """The journal: everything that happened, oldest first."""
    from polyclinic.federation.run_folder import find_ledger
    from polyclinic.store.ledger import Ledger
    from polyclinic_server.cli.ledger_tables import print_history

    with Ledger.open(find_ledger(ledger), create=False) as opened:
        print_history(opened.history(limit), console)


@ledger_app.command()
def verify(ledger: Folder = None) -> None:
    """Check that nothing was changed, removed or moved since it was written: the journal's chain, the tables, every file."""
    from polyclinic.federation.run_folder import find_ledger
    from polyclinic.store.ledger import Ledger

    checked = {"line": 0, "file": 0, "model": 0}
    with Ledger.open(find_ledger(ledger), create=False) as opened:
        fault = opened.verify(lambda what, count: checked.update({what: count}))
        newest = opened.history(1)
    counted = ", ".join(
        f"{count:,} {what}{'' if count == 1 else 's'}" for what, count in checked.items()
    )
    if fault:
        console.print(f"checked {counted}", markup=False)
        _end_with(fault.where, f"{fault.what}: expected {fault.expected}, found {fault.found}")
    console.print(f"sound: {counted}", markup=False)
    console.print(
        f"newest line: {newest[-1].sequence}, {newest[-1].hash}", markup=False, soft_wrap=True
    )


@ledger_app.command()
def export(
    digest: Annotated[
        str, typer.Argument(help="The first characters of a contribution's or a model's digest.")
    ],
    to: Annotated[Path, typer.Option("--to", help="The safetensors file to write.")],
    ledger: Folder = None,
) -> None:
    """Write a contribution or a model as one safetensors file; a model is ready for `polyclinic-client predict`."""
    from polyclinic.federation.run_folder import find_ledger
    from polyclinic.store.ledger import Ledger
    from polyclinic_server.cli.ledger_tables import export_file

    with Ledger.open(find_ledger(ledger), create=False) as opened:
        export_file(opened, digest, to)
    console.print(f"{to}: {to.stat().st_size / 2**20:.1f} MiB", markup=False, soft_wrap=True)


@ledger_app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="The new ledger's folder; files stay there.")],
    url: Annotated[
        str,
        typer.Option(
            envvar="POLYCLINIC_LEDGER_URL",
            show_envvar=True,
            help="postgresql://USER:PASSWORD@HOST:PORT/DATABASE, empty.",
        ),
    ],
) -> None:
    """Make a ledger whose tables are in PostgreSQL; without this, a run makes one in SQLite."""
    from polyclinic.store.journal import database_of, write_address
    from polyclinic.store.ledger import Ledger

    write_address(folder, url)
    with Ledger.open(folder) as opened:
        found = database_of(folder)
        assert found is not None
        console.print(
            f"{folder}: {found[1]}, {len(opened.entries())} contributions",
            markup=False,
            soft_wrap=True,
        )


@models_app.command("list")
def list_models(ledger: Folder = None) -> None:
    """List every published model: rule, number, and the contributions it came from."""
    from polyclinic.federation.run_folder import find_ledger
    from polyclinic.store.ledger import Ledger
    from polyclinic_server.cli.ledger_tables import models_table

    with Ledger.open(find_ledger(ledger), create=False) as opened:
        console.print(models_table(opened))


def _end_with(where: str, problem: str) -> NoReturn:
    from polyclinic.errors import LedgerDamaged

    raise LedgerDamaged(where, problem)
