"""Tables of a ledger's content.

Text that a hospital chose is shown as plain text, without control characters.
"""

import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.segment import Segment, Segments
from rich.table import Table
from rich.text import Text

from polyclinic.errors import LedgerError
from polyclinic.learning.state_dict import save_state
from polyclinic.store.ledger import Entry, JournalLine, Ledger, Publication
from polyclinic.store.refusals import shown
from polyclinic.system.durable import replacing
from polyclinic.system.text import parse_json

SHORT = 12  # number of a digest's characters that are shown


def print_entries(entries: Sequence[Entry], console: Console) -> None:
    """Print one line per contribution, and how many are active, superseded and withdrawn."""
    titles = ("site", "state", "digest", "base", "examples", "norm", "made", "received", "bytes")
    rows = (
        (
            shown(entry.site),
            entry.state,
            entry.digest[:SHORT],
            entry.base[:SHORT] + (f" (-{entry.staleness})" if entry.staleness else ""),
            f"{entry.num_examples}",
            f"{entry.norm:.4g}",
            moment(entry.created),
            moment(entry.received),
            f"{entry.bytes:,}",
        )
        for entry in entries
    )
    _print_lines(titles, rows, console)
    count = {
        state: sum(entry.state == state for entry in entries)
        for state in ("active", "superseded", "withdrawn")
    }
    console.print(", ".join(f"{number} {state}" for state, number in count.items()), markup=False)


def print_history(lines: Sequence[JournalLine], console: Console) -> None:
    """Print the lines of the journal."""
    rows = (
        (
            str(line.sequence),
            moment(line.time),
            line.kind,
            shown(line.site),
            line.subject[:SHORT],
            _summary(line),
        )
        for line in lines
    )
    _print_lines(("line", "time", "kind", "site", "subject", "what"), rows, console)


def entry_table(entry: Entry, publications: Sequence[Publication]) -> Table:
    """Return a table with all details of a contribution, and the models that it is in."""
    table = Table(show_header=False)
    used = [str(each.number) for each in publications if entry.digest in each.contributions]
    metrics = ", ".join(f"{shown(name)} {value:.4g}" for name, value in entry.metrics.items())
    late = f" ({entry.staleness} bases behind when it arrived)" if entry.staleness else ""
    described = {
        "site": shown(entry.site),
        "state": entry.state,
        "digest": entry.digest,
        "base": f"{entry.base}{late}",
        "task": shown(entry.task),
        "examples": str(entry.num_examples),
        "metrics": metrics or "-",
        "norm": f"{entry.norm:.6g}",
        "made": f"{moment(entry.created)} by polyclinic {shown(entry.version)}",
        "received": f"{moment(entry.received)}, journal line {entry.sequence}",
        "file": f"{entry.path} ({entry.bytes:,} bytes)",
        "in models": ", ".join(used) or "-",
    }
    for name, value in described.items():
        table.add_row(name, Text(value))
    return table


def models_table(ledger: Ledger) -> Table:
    """Return a table with one line per published model."""
    table = Table(title="published models")
    for title in ("number", "time", "digest", "rule", "made of"):
        table.add_column(title)
    sites = {entry.digest: entry.site for entry in ledger.entries()}
    for publication in ledger.publications():
        parts = ", ".join(
            f"{shown(sites[digest])} {digest[:8]}" for digest in publication.contributions
        )
        recipe = _recipe(publication.recipe)
        cells = (
            str(publication.number),
            moment(publication.time),
            publication.digest[:SHORT],
            recipe,
            parts or "the base alone",
        )
        table.add_row(*(Text(cell) for cell in cells))
    return table


def find_entries(ledger: Ledger, what: str) -> list[Entry]:
    """Return the contributions of a hospital, or the one contribution of a digest.

    Args:
        ledger: The ledger.
        what: Name of a hospital, or first characters of a digest.

    Raises:
        LedgerError: Nothing fits, or several digests begin with these characters.
    """
    entries = ledger.entries()
    if of_site := [entry for entry in entries if entry.site == what]:
        return of_site
    digest = _complete(what, {entry.digest for entry in entries}, ledger)
    return [entry for entry in entries if entry.digest == digest]


def export_file(ledger: Ledger, what: str, to: Path) -> None:
    """Write a contribution, or a model with the metadata that `polyclinic-client predict` needs.

    Args:
        ledger: The ledger.
        what: First characters of a digest.
        to: The safetensors file to write.

    Raises:
        LedgerError: No digest begins with these characters, or several do.
        DiskFull: No room.
    """
    paths = {entry.digest: entry.path for entry in ledger.entries()}
    models = {*ledger.bases(), *(publication.digest for publication in ledger.publications())}
    digest = _complete(what, {*paths, *models}, ledger)
    if digest in models:
        save_state(ledger.load_model(digest), to, _job_of(ledger, digest))
        return
    source = paths[digest]
    with replacing(to, durable=False, needed_bytes=source.stat().st_size) as unfinished:
        shutil.copyfile(source, unfinished)


def moment(seconds: float) -> str:
    """Return local date and time of seconds since 1970; the seconds if they are out of range."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g} s"


def _complete(beginning: str, digests: Iterable[str], ledger: Ledger) -> str:
    found = sorted(digest for digest in digests if digest.startswith(beginning))
    if not found:
        raise LedgerError(
            f"{ledger.folder} holds nothing called '{shown(beginning)}'. "
            "`polyclinic-server ledger list` shows what it holds."
        )
    if len(found) > 1:
        raise LedgerError(
            f"{ledger.folder}: {len(found)} digests begin with '{shown(beginning)}'. "
            "Give more characters of it."
        )
    return found[0]


def _job_of(ledger: Ledger, digest: str) -> dict[str, str]:
    """Return the metadata of a model, which is the note of the base that it was made from."""
    note = ""
    for line in ledger.history():
        if line.kind == "base":
            note = str(line.body.get("note", ""))
        if line.subject == digest and line.kind in ("base", "published"):
            break
    try:
        return {"polyclinic": note} if isinstance(parse_json(note), dict) else {}
    except ValueError:
        return {}


def _recipe(recipe: Mapping[str, Any]) -> str:
    """Return a recipe in words, such as `ties(keep=0.2)`."""
    if "rule" not in recipe:
        return shown(json.dumps(recipe))
    parameters = recipe.get("parameters")
    known = parameters.items() if isinstance(parameters, dict) else ()
    listed = ", ".join(f"{name}={value}" for name, value in known if name != "fraction_bits")
    return shown(f"{recipe['rule']}({listed})" if listed else str(recipe["rule"]))


def _summary(line: JournalLine) -> str:
    """Return the content of a journal line in a few words."""
    body = line.body
    if line.kind == "refused":
        return f"{body['type']}: {body['sentence']}"
    if line.kind in ("withdrawn", "revoked"):
        return shown(str(body["reason"]))
    if line.kind == "published":
        recipe, count = _recipe(body["recipe"]), len(body["contributions"])
        return f"model {body['number']}: {recipe} of {count} contributions"
    if line.kind == "contribution":
        return f"{body['num_examples']} examples, {body['bytes']:,} bytes, norm {body['norm']:.4g}"
    return shown(str(body.get("note") or body.get("version") or ""))


def _print_lines(titles: Sequence[str], rows: Iterable[Sequence[str]], console: Console) -> None:
    """Print aligned columns.

    A rich table would take a millisecond per row, which is too much for a ledger of many years.
    """
    listed = list(rows)
    widths = [max(map(cell_len, column)) for column in zip(titles, *listed, strict=True)]
    lines = [
        "  ".join(
            set_cell_size(cell, width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in (titles, *listed)
    ]
    console.print(Text(lines[0], style="bold"), soft_wrap=True)
    if listed:
        console.print(Segments([Segment("\n".join(lines[1:]) + "\n")]), soft_wrap=True, end="")
