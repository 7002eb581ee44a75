"""`polyclinic-client check`: what can be known before anything starts."""

import math
import os
from collections.abc import Callable
from pathlib import Path

import psutil
from rich.console import Console

from polyclinic.errors import DiskFull, PolyclinicError, ResourceError
from polyclinic.imaging.datasets import SiteDataset, read_dataset
from polyclinic.imaging.image_files import check_header
from polyclinic.security.admission_errors import ClockWrong
from polyclinic_client.cli.check_data import check_images, describe_dataset
from polyclinic_client.network.connection import Connection

NEEDED_DISK = 2**30  # models, pictures, logs
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

    examinations = [
        ("dataset.json", read),
        ("images", lambda: check_images(dataset, deep, console)),
        ("disk", lambda: _check_disk(state)),
    ]
    examinations += [("memory", lambda: _check_memory(dataset))]
    if connection is not None:
        examinations += [("connection", lambda: _check_connection(connection))]
    for title, examine in examinations:
        _look(title, examine, faults, console)
    if faults:
        raise faults[0]


def _look(
    title: str, examine: Callable[[], str], faults: list[PolyclinicError], console: Console
) -> None:
    try:
        console.print(f"[green]ok[/green]     {title}: {examine()}")
    except PolyclinicError as error:
        console.print(f"[red]wrong[/red]  {title}: ", end="")
        console.print(str(error), markup=False, soft_wrap=True)
        faults.append(error)


def _check_disk(state: Path) -> str:
    folder = state
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        raise ResourceError(
            f"{folder}: this user may not write there. Choose another folder with --state."
        )
    free = psutil.disk_usage(str(folder)).free
    if free < NEEDED_DISK:
        raise DiskFull(folder, free, NEEDED_DISK)
    return f"{free / 2**30:,.0f} GiB free in {folder}"


def _check_memory(dataset: SiteDataset | None) -> str:
    free = psutil.virtual_memory().available
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


def _check_connection(connection: Connection) -> str:
    welcome = connection.handshake()
    if abs(welcome.ahead_s) > CLOCK_S:
        raise ClockWrong(key="this hospital's key", seconds=f"{welcome.ahead_s:.0f}")
    who = f"knows this hospital as {welcome.site}" if welcome.site else "asks for no key"
    left = (
        ""
        if welcome.days_left is None
        else f", its certificate is good for {welcome.days_left} days"
    )
    return (
        f"{connection.server} answers, {who}; clocks differ by {abs(welcome.ahead_s):.1f} s{left}"
    )
