"""Draw random inputs for every reader until the time is over; `make fuzz`.

An input that ends in an undocumented error, or takes too much memory or time, is written to
build/fuzz/READER/. Copied to tests/fuzz/kept/READER/ it is a test.
"""

import argparse
import logging
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from random import Random

from polyclinic.system.machine import limit_memory
from tests.fuzz.reader import Outcome, Reader, attempt, warm
from tests.fuzz.registry import READERS

MEMORY = Path("/dev/shm")  # files there cost no waiting for a disk
TURN_S = 2.0  # a reader's, before the next one's
MOST_BYTES = 4 * 2**30  # of this process: an input that asks for more ends in a MemoryError
MOST_KEPT = 20  # inputs of one reader that are written


@dataclass
class Tally:
    """What became of one reader's inputs.

    Attributes:
        problems: One for each kind of problem, with the input that shows it.
    """

    reader: Reader
    inputs: int = 0
    read: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    most_bytes: int = 0
    problems: dict[str, Path] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        self.inputs += 1
        self.read += outcome.read
        self.seconds += outcome.seconds
        self.slowest_s = max(self.slowest_s, outcome.seconds)
        self.most_bytes = max(self.most_bytes, outcome.grown_bytes)


def main() -> int:
    """Return how many kinds of problems were found, 0 to 100."""
    asked = _arguments()
    warnings.simplefilter("error")
    limit_memory(MOST_BYTES)
    logging.disable(logging.CRITICAL)
    chosen = asked.reader or list(READERS)
    tallies = [Tally(READERS[name]) for name in chosen]
    numbers = {name: Random(f"{asked.seed} {name}") for name in chosen}
    end = time.monotonic() + asked.seconds
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        for tally in tallies:
            (Path(name) / tally.reader.name).mkdir()
            warm(tally.reader, Path(name) / tally.reader.name)
        while time.monotonic() < end and sum(tally.inputs for tally in tallies) < asked.inputs:
            for tally in tallies:
                _turn(
                    tally,
                    numbers[tally.reader.name],
                    Path(name) / tally.reader.name,
                    asked.out,
                    min(TURN_S, asked.seconds / len(tallies)),
                )
    _report(tallies)
    return min(100, sum(len(tally.problems) for tally in tallies))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0, help="limit of the time")
    parser.add_argument("--inputs", type=float, default=1e6, help="limit of all inputs together")
    parser.add_argument("--seed", type=int, default=0, help="another one draws other inputs")
    parser.add_argument("--reader", action="append", choices=sorted(READERS), help="only this one")
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"), help="for failing inputs")
    return parser.parse_args()


def _turn(tally: Tally, random: Random, folder: Path, out: Path, turn_s: float) -> None:
    end = time.monotonic() + turn_s
    while time.monotonic() < end:
        content = tally.reader.draw(random)
        outcome = attempt(tally.reader, content, folder)
        tally.add(outcome)
        if outcome.problem:
            _keep(tally, content, outcome.problem, out)


def _keep(tally: Tally, content: bytes, problem: str, out: Path) -> None:
    """Write an input that went wrong; the shortest of those with the same problem."""
    kind = problem.rpartition(" (")[2] or problem
    known = tally.problems.get(kind)
    if known is not None and known.stat().st_size <= len(content):
        return
    if known is None and len(tally.problems) >= MOST_KEPT:
        return
    place = out / tally.reader.name
    place.mkdir(parents=True, exist_ok=True)
    path = place / sha256(kind.encode()).hexdigest()[:12]
    path.write_bytes(content)
    if known is None:
        print(f"{tally.reader.name}: {problem}\n    {path}", flush=True)
    tally.problems[kind] = path


def _report(tallies: list[Tally]) -> None:
    print(f"{'reader':24}{'inputs':>10}{'read':>7}{'/s':>8}{'slowest s':>11}{'MiB':>6}{'wrong':>7}")
    for tally in tallies:
        share = f"{100 * tally.read / max(1, tally.inputs):.0f} %"
        pace = tally.inputs / max(1e-9, tally.seconds)
        print(
            f"{tally.reader.name:24}{tally.inputs:10,}{share:>7}{pace:8,.0f}"
            f"{tally.slowest_s:11.3f}{tally.most_bytes / 2**20:6.0f}{len(tally.problems):7}"
        )
    inputs, wrong = (sum(column) for column in zip(*_sums(tallies), strict=True))
    print(f"{inputs:,} inputs, {wrong} kinds of problems")


def _sums(tallies: list[Tally]) -> list[tuple[int, int]]:
    return [(tally.inputs, len(tally.problems)) for tally in tallies]


if __name__ == "__main__":
    sys.exit(main())
