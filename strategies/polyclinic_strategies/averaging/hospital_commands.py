"""Commands of secure sums for `polyclinic-client`."""

from pathlib import Path
from typing import Annotated

import typer

from polyclinic.errors import ConfigError
from polyclinic.system.commands import unwrap
from polyclinic.system.console import LineConsole

app = typer.Typer()

PARTNERS_HELP = unwrap("""Show, and decide, with whom this hospital takes part in secure sums.

A coordinator hands on the other hospitals' keys. It could invent hospitals, and so take a sum
apart. Therefore compare the fingerprints with the other hospitals by telephone
([bold]ssh-keygen -lf hospital.pub[/bold] shows theirs), and close the list: afterwards nobody else
is accepted. In an open list, a key that is seen first is accepted, and any later one refused.

Examples:

[bold]polyclinic-client partners --state /srv/polyclinic[/bold]

[bold]polyclinic-client partners --state /srv/polyclinic --least 6 --close[/bold]

[bold]polyclinic-client partners --state /srv/polyclinic --forget st-mary[/bold]""")


@app.command(help=PARTNERS_HELP, rich_help_panel="Federation")
def partners(
    state: Annotated[
        Path, typer.Option("--state", help="Folder of this hospital's state, as `join` has it.")
    ],
    accept: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SHA256:...", help="Add a hospital's fingerprint."),
    ] = None,
    forget: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Remove a hospital.")
    ] = None,
    close: Annotated[
        bool | None,
        typer.Option("--close/--open", help="Whether hospitals that are not listed are refused."),
    ] = None,
    least: Annotated[
        int | None, typer.Option(min=3, help="Least number of hospitals in a sum.")
    ] = None,
) -> None:
    """See PARTNERS_HELP."""
    from polyclinic.federation.secure_sums.partners import Partners, keep_partners, read_partners

    before = read_partners(state)
    keys = dict(before.keys)
    for name in forget or ():
        if keys.pop(name, None) is None:
            raise ConfigError(f"--forget {name}: not in the list ({', '.join(keys) or 'empty'}).")
    keys |= dict(map(_accepted, accept or ()))
    now = Partners(
        keys, before.closed if close is None else close, before.least if least is None else least
    )
    if now != before:
        keep_partners(state, now)
    console = LineConsole()
    for name, shown in sorted(now.keys.items()):
        console.print(f"{name}  {shown}", markup=False)
    others = "nobody else is accepted" if now.closed else "others are accepted when first seen"
    console.print(
        f"In this list: {len(now.keys)}; {others}. At least {now.least} hospitals in a sum.",
        markup=False,
    )


def _accepted(text: str) -> tuple[str, str]:
    """Read a hospital's name and fingerprint.

    Raises:
        ConfigError: They are none.
    """
    from pydantic import TypeAdapter, ValidationError

    from polyclinic.federation.secure_sums.partners import Fingerprint

    name, _, shown = text.partition("=")
    try:
        return name, TypeAdapter(Fingerprint).validate_python(shown)
    except ValidationError as error:
        raise ConfigError(
            f"--accept {text}: write NAME=SHA256:..., with the fingerprint as `ssh-keygen -lf "
            "hospital.pub` shows it."
        ) from error
