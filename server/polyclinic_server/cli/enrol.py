"""`polyclinic-server init` and `polyclinic-server enrol`: certificates, and keys of hospitals."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from rich.table import Column, Table
from typer.core import TyperGroup

from polyclinic.system.console import LineConsole

console = LineConsole()
ADD = "add"
COMPARE = (
    "Compare both with the hospital by telephone: `polyclinic-client keygen` and `join` show the "
    "same two."
)
Security = Annotated[
    Path,
    typer.Option("--security", metavar="FOLDER", help="Folder that `polyclinic-server init` made."),
]


class NamesFirst(TyperGroup):
    """Group in which `enrol NAME KEY.pub` means `enrol add NAME KEY.pub`."""

    def resolve_command(self, context: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Resolve the subcommand; a first word that is none is the name of a hospital."""
        return super().resolve_command(context, args if args[0] in self.commands else [ADD, *args])

    def format_usage(self, _context: Any, formatter: click.HelpFormatter) -> None:
        """Write the usage line with all ways to call the command."""
        formatter.write_usage("polyclinic-server enrol", "NAME KEY.pub | list | revoke NAME")


enrol_app = typer.Typer(
    cls=NamesFirst,
    help="Enrol hospitals by their keys: enrol NAME KEY.pub, enrol list, "
    "enrol revoke NAME --reason TEXT.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def init(
    host: Annotated[
        list[str] | None,
        typer.Option(
            help="Name or IP address by which hospitals reach this machine; may be repeated."
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port that hospitals connect to. Default: 9092."),
    ] = None,
    folder: Annotated[
        Path,
        typer.Option(help="Folder for keys and certificates; only this user can read it."),
    ] = Path("security"),
    service_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Name by which hospitals reach the segmentation service; may be repeated. "
            "Default: the names of --host."
        ),
    ] = None,
    renew: Annotated[
        bool,
        typer.Option(
            "--renew",
            help="Make new certificates of the servers by the same authority; kits remain valid.",
        ),
    ] = False,
) -> None:
    """Make the coordinator's certificate authority and server certificate, once.

    Example: [bold]polyclinic-server init --host coordinator.example.org[/bold]

    Example: [bold]polyclinic-server init --renew[/bold] (once a year; a running coordinator takes
    the new certificate at once)
    """
    from polyclinic_server.enrolment.authority import Authority
    from polyclinic_server.enrolment.endpoint import PORT
    from polyclinic_server.enrolment.registry import Registry
    from polyclinic_server.enrolment.service import make_service

    if renew:
        authority = Authority.open(folder).renew(host or (), port)
    else:
        authority = Authority.create(folder, host or (), port or PORT)
        Registry(folder).close()
    make_service(authority, service_host or ())
    names, until = ", ".join(authority.hosts), f"{authority.expires():%Y-%m-%d}"
    console.print(
        f"{folder}: certificate for {names}, port {authority.port}, until {until}", markup=False
    )
    if not renew:
        console.print(
            "Back this folder up where nobody else can read it. "
            "Next: polyclinic-server enrol NAME hospital.pub",
            markup=False,
        )


@enrol_app.command(ADD, hidden=True)
def add(
    name: Annotated[
        str,
        typer.Argument(help="Name of the hospital: letters, digits, dots, hyphens, underscores."),
    ],
    key: Annotated[
        Path,
        typer.Argument(metavar="KEY.pub", help="Public key of the hospital."),
    ],
    security: Security = Path("security"),
    to: Annotated[
        Path | None, typer.Option(help="File for the kit. Default: FOLDER/kits/NAME.kit.json.")
    ] = None,
) -> None:
    """Enrol a hospital's key and write the kit that is sent back to it; nothing in a kit is secret.

    Compare both fingerprints with the hospital's by telephone: anybody who can replace the key
    file on its way can join in the hospital's name, and anybody who can replace the kit can answer
    in the coordinator's.
    """
    from polyclinic.security.keys import authority_fingerprint, load_public_key
    from polyclinic_server.enrolment.authority import Authority
    from polyclinic_server.enrolment.registry import enrol_with_kit
    from polyclinic_server.enrolment.service import copy_keys

    path = to or security / "kits" / f"{name}.kit.json"
    authority = Authority.open(security)
    enrolled = enrol_with_kit(authority, name, load_public_key(key), path)
    copy_keys(security)
    for line in (
        f"{name} is enrolled.",
        f"  the hospital's key           {enrolled.fingerprint}",
        f"  this coordinator's authority {authority_fingerprint(authority.ca())}",
        COMPARE,
        f"Send it this kit: {path}",
    ):
        console.print(line, markup=False)


@enrol_app.command("list")
def list_keys(security: Security = Path("security")) -> None:
    """List all keys that were ever enrolled, and their state."""
    from polyclinic.security.keys import authority_fingerprint
    from polyclinic_server.enrolment.authority import Authority
    from polyclinic_server.enrolment.registry import Registry

    authority = Authority.open(security)
    table = Table("hospital", Column("key", overflow="fold"), "enrolled", "state", show_edge=False)
    for key in Registry(security).everybody():
        state = "active" if key.active else f"revoked {_date(key.revoked or 0.0)}: {key.reason}"
        table.add_row(key.site, key.fingerprint, _date(key.since), state)
    console.print(table)
    console.print(
        f"this coordinator's authority: {authority_fingerprint(authority.ca())}", markup=False
    )
    console.print(
        authority.warning() or f"server certificate until {authority.expires():%Y-%m-%d}",
        markup=False,
    )


@enrol_app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Name of the hospital.")],
    reason: Annotated[
        str,
        typer.Option(
            help="Reason for the journal. The hospital is told only that its key was revoked."
        ),
    ],
    security: Security = Path("security"),
) -> None:
    """Revoke a hospital's key: it is refused from now on, and a running client is disconnected.

    The hospital's contributions stay; `polyclinic-server ledger withdraw` withdraws them. To come
    back, the hospital makes a new key.
    """
    from polyclinic_server.enrolment.authority import Authority
    from polyclinic_server.enrolment.registry import Registry
    from polyclinic_server.enrolment.service import copy_keys

    Authority.open(security)
    revoked = Registry(security).revoke(name, reason)
    copy_keys(security)
    console.print(
        f"{name}'s key {revoked.fingerprint} is revoked. Its contributions stay: "
        "see `polyclinic-server ledger withdraw`.",
        markup=False,
    )


def _date(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")
