"""`polyclinic-client sent`: the journal of everything that left this hospital."""

from pathlib import Path
from typing import Annotated

import typer

from polyclinic.system.commands import unwrap
from polyclinic.system.console import LineConsole
from polyclinic_client.cli.options import Kit, Name, State

SENT_HELP = unwrap("""Show everything that ever left this hospital.

An entry is on the disk before what it tells is sent: when, for which run, what kind, how many
bytes, and the digest of these bytes. Messages that only keep the connection up, such as greetings
and receipts, are counted in the last line; [bold]--all[/bold] shows them, too.

Examples:

[bold]polyclinic-client sent --kit keys/st-mary.kit.json[/bold]

[bold]polyclinic-client sent --html sent.html --kit keys/st-mary.kit.json[/bold]
(for the data-protection officer)

[bold]polyclinic-client sent --verify --kit keys/st-mary.kit.json[/bold]""")


def sent(
    kit: Kit = None,
    name: Name = None,
    state: State = None,
    run: Annotated[str | None, typer.Option(help="Only what left for this run.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also what only keeps the connection up.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page, for printing too.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check the chain of hashes through all entries.")
    ] = False,
    holds: Annotated[
        str,
        typer.Option(metavar="HASH", help="With --verify: a newest hash that was noted earlier."),
    ] = "",
) -> None:
    """See SENT_HELP."""
    from polyclinic_client.cli.runs import chosen_state
    from polyclinic_client.patients.spent import describe_spent
    from polyclinic_client.sent import pages
    from polyclinic_client.sent.journal import FILE, Journal

    folder = chosen_state(state, kit, name)
    journal = Journal(folder / FILE)
    console = LineConsole()
    if verify:
        for line in pages.verification(journal, holds):
            console.print(line, markup=False)
        return
    entries = [each for each in journal.entries() if run in (None, each.run)]
    if html is not None:
        html.write_text(pages.page(entries, journal, describe_spent(folder, run)), encoding="utf-8")
        console.print(f"{html}: {len(entries)} entries", markup=False)
    elif as_json:
        console.print(pages.as_json(entries), markup=False)
    else:
        console.print(pages.table(entries, everything=everything))
        for line in pages.totals(entries):
            console.print(line, markup=False)
        console.print(f"Private training has told {describe_spent(folder, run)}.", markup=False)
