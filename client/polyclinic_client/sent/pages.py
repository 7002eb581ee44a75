"""The journal of what left, as people read it: a table, JSON, and a page for an officer."""

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from importlib.metadata import version

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.table import Table

from polyclinic.errors import PolyclinicError
from polyclinic.system.text import clean
from polyclinic_client.sent.journal import Entry, Journal, JournalDamaged
from polyclinic_client.sent.kinds import SIGNALS, WORDS

STEP = 1024


class ChainBroken(PolyclinicError):
    """A verification found that the journal is not what was written."""

    exit_code = 5


def moment(seconds: float) -> str:
    """Write a time as people of every country read it, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))


def size(count: int) -> str:
    """Write a number of bytes."""
    number, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if number < STEP:
            break
        number, unit = number / STEP, larger
    return f"{number:,.0f} B" if unit == "B" else f"{number:,.1f} {unit}"


def work_of(entry: Entry) -> str:
    """Name run, strategy and round of an entry."""
    place = f"{entry.run}/{entry.strategy}" if entry.run else ""
    return clean(f"{place}, round {entry.round}" if entry.round else place)


def table(entries: Iterable[Entry], *, everything: bool) -> Table:
    """Make a table for a terminal."""
    made = Table(box=None)
    for heading in ("when (UTC)", "for", "kind"):
        made.add_column(heading, overflow="fold")
    for heading in ("bytes", "epsilon"):
        made.add_column(heading, justify="right")
    made.add_column("digest", no_wrap=True)
    for each in entries:
        if everything or each.kind not in SIGNALS:
            epsilon = "" if each.epsilon is None else f"{each.epsilon:.3g}"
            cells = (moment(each.time), work_of(each), clean(each.kind), f"{each.bytes:,}")
            made.add_row(*cells, epsilon, each.digest[:12])
    return made


def totals(entries: Sequence[Entry]) -> list[str]:
    """Say how much left in all."""
    held = [each for each in entries if each.kind not in SIGNALS]
    rest = len(entries) - len(held)
    return [
        f"{len(held)} answers and contents, {size(sum(each.bytes for each in held))}; and {rest} "
        "messages that only keep the connection up (--all shows them)."
    ]


def as_json(entries: Iterable[Entry]) -> str:
    """Write the entries as JSON."""
    return json.dumps([each.model_dump() for each in entries], indent=2)


def verification(journal: Journal, holds: str) -> list[str]:
    """Check a journal, and say what was found.

    Raises:
        JournalDamaged: The journal is not what was written.
        ChainBroken: It does not hold the hash that was noted earlier.
    """
    found = journal.verify(holds)
    if found.fault:
        raise JournalDamaged(journal.path, found.fault)
    if not found.holds:
        raise ChainBroken(
            f"{journal.path}: the hash {clean(holds)[:64]} is not in it. Entries were removed, or "
            "the journal was begun anew since it was noted. Ask who had access to the folder."
        )
    lines = [f"{found.entries} entries, all as they were written. Newest hash: {found.newest}"]
    if found.torn_bytes:
        lines.append(
            f"A process died while it wrote: {found.torn_bytes} bytes of an entry at the end. What "
            "it told of has not left. The next entry will say so."
        )
    return [*lines, "Note the newest hash elsewhere, and check it later with --holds HASH."]


def page(entries: Sequence[Entry], journal: Journal, spent: str) -> str:
    """Make a page, in one file, for the data-protection officer.

    Args:
        entries: That are shown.
        journal: All of it.
        spent: What private training has told so far, in words.
    """
    loader = PackageLoader("polyclinic_client.sent")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    sums: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for each in entries:
        sums[each.run, each.kind].append(each)
    summary = [
        {
            "run": clean(run) or "outside runs",
            "kind": clean(kind),
            "words": WORDS.get(kind, "another answer"),
            "count": len(held),
            "bytes": size(sum(each.bytes for each in held)),
            "first": moment(held[0].time),
            "last": moment(held[-1].time),
            "epsilon": max((each.epsilon or 0.0 for each in held), default=0.0),
        }
        for (run, kind), held in sums.items()
    ]
    return environment.get_template("sent.html.j2").render(
        entries=[
            {
                **each.model_dump(),
                "when": moment(each.time),
                "work": work_of(each),
                "kind": clean(each.kind),
            }
            for each in entries
            if each.kind not in SIGNALS
        ],
        summary=summary,
        verdict=journal.verify(),
        spent=spent,
        made=moment(time.time()),
        version=version("polyclinic"),
    )
