"""Several hospitals on one machine take turns at computing."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from polyclinic.system.processes import pause_s, try_lock

# N:FOLDER lets only N hospitals of this machine compute at a time; they share its cores
SLOTS = "POLYCLINIC_SLOTS"


@contextmanager
def compute_slot() -> Iterator[None]:
    """Wait for one of the machine's slots, if it has any.

    Six networks at once on two cores are half as fast as two at a time.
    """
    count, _, folder = os.environ.get(SLOTS, "0:").partition(":")
    if not int(count):
        yield
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    files = [(Path(folder) / f"slot-{number}").open("a") for number in range(int(count))]
    try:
        while not any(try_lock(file) for file in files):
            time.sleep(pause_s(time.monotonic() - start, 0.02, 0.2))
        yield
    finally:
        for file in files:
            file.close()
