"""The hospitals of a service, as a table in a terminal."""

import time
from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from polyclinic.reporting.formats import show_span
from polyclinic.system.text import clean
from polyclinic_server.service.desk import HospitalSnapshot

HEADS = "hospital", "state", "for", "last word", "does", "works for", "sent", "received", "version"
MIB = 2**20


def hospitals_table(hospitals: Iterable[HospitalSnapshot]) -> Table:
    """Make the table of the hospitals that are enrolled or have come."""
    found = list(hospitals)
    table = Table(title=f"hospitals of the service{'' if found else ' (none yet)'}")
    for head in HEADS:
        table.add_column(head)
    for each in found:
        come = each.state != "missing"
        cells = (
            each.name,
            each.state,
            show_span(max(0.0, time.time() - each.since)),
            f"{each.silent_s:.0f} s ago" if come else "-",
            each.doing,
            ", ".join(each.runs),
            f"{each.sent_bytes / MIB:.1f} MiB" if come else "-",
            f"{each.received_bytes / MIB:.1f} MiB" if come else "-",
            each.version,
        )
        table.add_row(*(Text(clean(cell)) for cell in cells))
    return table
