"""A process that hands contributions to a ledger until it is killed at any moment, again and again.

The parent has imported everything and forks each child, so that a kill costs milliseconds. A child
acknowledges a contribution by a line in a pipe after `receive` has returned; whatever is in the
pipe must be in the ledger, once.
"""

import json
import os
import random
import select
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from polyclinic.store.contribution import Contribution, read_contribution, write_contribution
from polyclinic.store.journal import ADDRESS, FILE
from polyclinic.store.ledger import Ledger
from polyclinic.store.requirements import Requirements

LAYOUT: dict[str, tuple[int, ...]] = {"weight": (8, 8), "bias": (8,)}
# a child says that the ledger is open, and then acknowledges; it is killed after fewer lines than
# these, or in the next
MOST_LINES = 6
# a new ledger now and then: killed while it is made, too, and quickly checked
KILLS_PER_LEDGER = 50
BASE = "b" * 64
ASKED = Requirements(BASE, LAYOUT, "blood", None, 10**6, 10.0, {}, 0)


@dataclass
class Tally:
    """What many kills came to."""

    kills: int = 0
    acknowledged: int = 0
    # kept although the child died before it could say so: allowed, and acknowledged when it comes
    # again
    unacknowledged: int = 0
    lost: int = 0
    duplicated: int = 0
    faults: list[str] = field(default_factory=list)


def make_stock(folder: Path, count: int) -> list[Path]:
    """Contributions of different sites, to be handed over."""
    stock = []
    for number in range(count):
        state = {name: torch.full(shape, 1.0 + number % 7) for name, shape in LAYOUT.items()}
        given = Contribution(
            f"site-{number % 20}", BASE, "blood", 1 + number, {}, float(number), "0.1.0"
        )
        stock.append(write_contribution(folder, given, state, {}))
    return stock


def kill_repeatedly(folder: Path, kills: int, seed: int) -> Tally:
    """Fork, submit, kill, check; `kills` times, with a new ledger now and then.

    Args:
        folder: For the ledgers and what is handed over.
        kills: How often.
        seed: Of the moments.
    """
    stock = make_stock(folder / "arrived", MOST_LINES * KILLS_PER_LEDGER)
    # what is imported late is imported before the first fork
    _submit(folder / "warm", stock[:1], None)
    moments, tally, acknowledged, pace_s = random.Random(seed), Tally(), set[str](), 0.02
    while tally.kills < kills:
        ledger = folder / f"ledger-{tally.kills // KILLS_PER_LEDGER}"
        if not ledger.exists():
            tally.acknowledged += len(acknowledged)
            acknowledged.clear()
        left = [path for path in stock if path.stem not in acknowledged]
        lines, pace_s = _one_life(ledger, left, moments, pace_s)
        acknowledged |= lines
        tally.kills += 1
        _check(ledger, acknowledged, tally)
    tally.acknowledged += len(acknowledged)
    return tally


def _one_life(
    ledger: Path, left: Sequence[Path], moments: random.Random, pace_s: float
) -> tuple[set[str], float]:
    """Return what one child acknowledged before it was killed, and its seconds for each line.

    It begins with what interrupted the last one: a contribution that may be in the ledger already.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            _submit(ledger, left, writing)
        finally:
            os._exit(1)
    os.close(writing)
    began, text = time.monotonic(), b""
    wanted = moments.randrange(MOST_LINES)
    try:
        while text.count(b"\n") < wanted and select.select([reading], [], [], 10.0)[0]:
            text += os.read(reading, 4096)
        if wanted:
            pace_s = (time.monotonic() - began) / wanted
        time.sleep(moments.uniform(0.0, 1.5 * pace_s))  # anywhere within the next contribution
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as pipe:
        text += pipe.read()
    return set(text.decode().split("\n")[:-1]) - {"open"}, pace_s


def _submit(folder: Path, left: Sequence[Path], writing: int | None) -> None:
    """Hand over what is left and acknowledge each; then wait for the kill, if there is a pipe."""
    with Ledger.open(folder) as ledger:
        if writing is not None:
            os.write(writing, b"open\n")
        for path in left:
            receipt = ledger.receive(path, read_contribution(path).site, ASKED)
            if writing is not None:
                os.write(writing, f"{receipt.digest}\n".encode())
        if writing is not None:
            time.sleep(10.0)


def _check(folder: Path, acknowledged: set[str], tally: Tally) -> None:
    if (
        not (folder / FILE).exists() and not (folder / ADDRESS).exists()
    ):  # killed before there was anything
        tally.lost += len(acknowledged)
        return
    with Ledger.open(folder) as ledger:
        held = [entry.digest for entry in ledger.entries()]
        lines = Counter(line.subject for line in ledger.history() if line.kind == "contribution")
        fault = ledger.verify()
    tally.lost += len(acknowledged - set(held))
    tally.duplicated += len(held) - len(set(held)) + sum(count > 1 for count in lines.values())
    tally.unacknowledged += len(set(held) - acknowledged)
    if fault:
        tally.faults.append(str(fault))


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.write(
        json.dumps(asdict(kill_repeatedly(Path(sys.argv[1]), int(sys.argv[2]), seed=0))) + "\n"
    )
