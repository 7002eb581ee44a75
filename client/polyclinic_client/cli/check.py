"""`polyclinic-client check`: what can be known before anything starts."""

import math
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from polyclinic.errors import PolyclinicError, ResourceError
from polyclinic.imaging.datasets import SiteDataset, read_dataset
from polyclinic.imaging.image_files import check_header
from polyclinic.security.admission_errors import ClockWrong
from polyclinic.system.machine import free_memory
from polyclinic_client.cli.check_data import (
    check_images,
    describe_dataset,
    describe_origin,
)
from polyclinic_client.cli.check_machine import (
    Finding,
    check_disk,
    check_gpu,
    check_proxy,
    check_shm,
    check_state,
    check_training,
)
from polyclinic_client.dicom.importing.record import FILE as IMPORT_RECORD
from polyclinic_client.fleet.join import EXPIRY_DAYS
from polyclinic_client.network.connection import Connection
from polyclinic_client.network.introduction import Welcome, days_until
from polyclinic_client.patients.spent import describe_spent

Examination = tuple[str, Callable[[], Finding | str]]  # title, and what is looked at
NEEDED_MEMORY = 2 * 2**30  # torch, MONAI, a small 3-D network
CLOCK_S = 120.0  # at 300 s the coordinator refuses


def check_everything(
    data: Path, connection: Connection | None, state: Path, *, deep: bool, console: Console
) -> None:
    """Print a line for everything that was looked at; raise the first fault after all were.

    Raises:
        PolyclinicError: The first thing that is wrong.
    """
    faults: list[PolyclinicError] = []

    dataset: SiteDataset | None = None

    def read() -> str:
        nonlocal dataset
        dataset = read_dataset(data)
        return describe_dataset(dataset)

    examinations: list[Examination] = [
        ("dataset.json", read),
        *([("DICOM", lambda: describe_origin(data))] if (data / IMPORT_RECORD).exists() else []),
        ("images", lambda: check_images(dataset, deep, console)),
        ("state", lambda: check_state(state)),
        ("patients", lambda: f"private training has told {describe_spent(state)}"),
        ("disk", lambda: check_disk(state)),
        ("memory", lambda: _check_memory(dataset)),
        ("GPU", check_gpu),
        ("/dev/shm", check_shm),
        *([("training", check_training)] if deep else []),
        ("way out", lambda: check_proxy(connection.server if connection else None)),
        *(_ask(connection) if connection else []),
    ]
    for title, examine in examinations:
        _look(title, examine, faults, console)
    if faults:
        raise faults[0]


def _look(
    title: str,
    examine: Callable[[], Finding | str],
    faults: list[PolyclinicError],
    console: Console,
) -> None:
    try:
        found = examine()
        said = found if isinstance(found, Finding) else Finding(found)
        console.print(
            "[yellow]note[/yellow]   " if said.remedy else "[green]ok[/green]     ", end=""
        )
        line = f"{title}: {said.text}" + (f". {said.remedy}" if said.remedy else "")
        console.print(line, markup=False)
    except PolyclinicError as error:
        console.print(f"[red]wrong[/red]  {title}: ", end="")
        console.print(str(error), markup=False)
        faults.append(error)


def _check_memory(dataset: SiteDataset | None) -> str:
    free = free_memory()
    largest = 0
    if dataset is not None:
        largest = max(
            (4 * math.prod(check_header(case.image[0]).shape) for case in dataset.cases), default=0
        )
    needed = NEEDED_MEMORY + 8 * largest
    if free < needed:
        raise ResourceError(
            f"{free / 2**30:.1f} GiB of memory are free, about {needed / 2**30:.1f} GiB are "
            "needed. Close other programs, or use a larger machine."
        )
    return f"{free / 2**30:.1f} GiB free, about {needed / 2**30:.1f} GiB needed"


def _ask(connection: Connection) -> list[Examination]:
    """List what only the coordinator can answer; it is asked once."""
    welcome: Welcome | None = None

    def greet() -> str:
        nonlocal welcome
        welcome = connection.handshake()
        who = f"knows this hospital as {welcome.site}" if welcome.site else "asks for no key"
        return f"{connection.server} answers, {who}"

    certificate = [("certificate", lambda: _check_certificate(connection))]
    return [
        *(certificate if connection.kit else []),
        ("connection", greet),
        ("clock", lambda: _check_clock(welcome)),
    ]


def _check_certificate(connection: Connection) -> Finding:
    found = connection.certificate()
    days = days_until(found.ends) or 0
    text = f"valid until {found.ends:%Y-%m-%d} ({days} days), for {', '.join(found.names)}"
    remedy = "The coordinator should renew it: polyclinic-server init --renew."
    return Finding(text, remedy if days < EXPIRY_DAYS else "")


def _check_clock(welcome: Welcome | None) -> str:
    if welcome is None:
        return "not compared, because the coordinator did not answer"
    if abs(welcome.ahead_s) > CLOCK_S:
        raise ClockWrong(key="this hospital's key", seconds=f"{welcome.ahead_s:.0f}")
    return f"differs from the coordinator's by {abs(welcome.ahead_s):.1f} s"
