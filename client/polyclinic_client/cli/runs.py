"""`polyclinic-client runs`, `approve` and `refuse`: what is asked, and what a person decides."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from polyclinic.errors import ConfigError
from polyclinic.system.commands import unwrap
from polyclinic.system.console import LineConsole
from polyclinic.system.text import clean
from polyclinic_client.cli.options import Kit, Name, State

if TYPE_CHECKING:
    from polyclinic_client.policy.decisions import Request

RUNS_HELP = unwrap("""Show what coordinators asked this hospital for, and what was decided.

Each line has a digest: it stands for the method, the model, the data and all settings. Whatever of
these changes gets a new one. With a run or a digest, all of it is shown in words.

Example: [bold]polyclinic-client runs --kit keys/st-mary.kit.json[/bold]""")
APPROVE_HELP = unwrap("""Approve what a run asks for.

It is needed where the policy says [bold]approval: true[/bold], and takes back an earlier refusal.
A client that is joined takes part within a few seconds.

Example: [bold]polyclinic-client approve brain-2026 --kit keys/st-mary.kit.json[/bold]""")
REFUSE_HELP = unwrap("""Refuse what a run asks for, also in its midst.

Nothing leaves for that run from then on. The others go on; the run's report says that this hospital
refused, with the reason that is given here.

Example: [bold]polyclinic-client refuse brain-2026 --reason "not before the committee met"
--kit keys/st-mary.kit.json[/bold]""")
What = Annotated[str, typer.Argument(metavar="RUN|DIGEST", help="A run's name, or a digest.")]


def chosen_state(state: Path | None, kit: Path | None, name: str | None) -> Path:
    """Find the state folder that options mean.

    Raises:
        ConfigError: They name none, or there is none.
    """
    from polyclinic.security.kit import Kit as KitFile
    from polyclinic_client.state import state_folder

    if state is None and kit is None and name is None:
        raise ConfigError("Name the hospital: --kit FILE, --name NAME, or its folder --state.")
    site = KitFile.read(kit).site if kit is not None and state is None else name or ""
    folder = state_folder(state, site)
    if not folder.is_dir():
        raise ConfigError(
            f"{folder}: there is no state folder. It is made by `polyclinic-client join`; name "
            "another one with --state."
        )
    return folder


def runs(
    what: Annotated[
        str | None, typer.Argument(metavar="[RUN|DIGEST]", help="Show this one in words.")
    ] = None,
    kit: Kit = None,
    name: Name = None,
    state: State = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """See RUNS_HELP."""
    from polyclinic_client.patients.spent import describe_spent
    from polyclinic_client.policy.decisions import requests
    from polyclinic_client.policy.standing import standing_of

    folder = chosen_state(state, kit, name)
    found = [
        each
        for each in requests(folder)
        if what is None or each.asked.run == what or each.digest.startswith(what)
    ]
    console = LineConsole()
    if as_json:
        told = [
            {
                "digest": each.digest,
                "time": each.time,
                "standing": standing_of(folder, each),
                "asked": each.asked.values(),
                "words": each.asked.words(),
            }
            for each in found
        ]
        console.print(json.dumps(told, indent=2), markup=False)
        return
    if not found:
        console.print("Nobody has asked this hospital for anything like that yet.", markup=False)
        return
    if what is None:
        console.print(_table(folder, found))
        console.print(f"Private training has told {describe_spent(folder)}.", markup=False)
        return
    for each in found:
        console.print(f"{each.digest}  {standing_of(folder, each)}", markup=False)
        for sentence in each.asked.words():
            console.print(f"  {clean(sentence)}", markup=False)
        spent = describe_spent(folder, each.asked.run)
        console.print(f"  So far its private training has told {spent}.", markup=False)


def approve(what: What, kit: Kit = None, name: Name = None, state: State = None) -> None:
    """See APPROVE_HELP."""
    _decide(what, chosen_state(state, kit, name), approved=True)


def refuse(
    what: What,
    kit: Kit = None,
    name: Name = None,
    state: State = None,
    reason: Annotated[
        str, typer.Option(help="Why; the coordinator and all readers of the report read it.")
    ] = "",
) -> None:
    """See REFUSE_HELP."""
    _decide(what, chosen_state(state, kit, name), approved=False, reason=reason)


def _decide(what: str, folder: Path, *, approved: bool, reason: str = "") -> None:
    from polyclinic_client.policy.decisions import decide

    console = LineConsole()
    for each in decide(folder, what, approved=approved, reason=reason):
        done = "approved" if approved else "refused"
        console.print(f"{done}: {clean(each.asked.run)} ({each.digest[:12]})", markup=False)


def _table(folder: Path, found: list["Request"]) -> Table:
    from polyclinic_client.policy.standing import standing_of

    table = Table(box=None)
    for heading in ("digest", "run", "method", "model", "data", "last asked", "standing"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "digest")
    for each in found:
        asked, moment = each.asked, time.localtime(each.time)
        cells = (
            *(each.digest[:12], asked.run, asked.method),
            *(asked.names.get("model", ""), asked.names.get("data", "")),
            *(time.strftime("%Y-%m-%d %H:%M", moment), standing_of(folder, each)),
        )
        table.add_row(*(clean(cell) for cell in cells))
    return table
