"""A reader with its inputs, and what is measured while it reads one."""

import contextlib
import gc
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import strategies as st

UNIT_BYTES = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
SLACK_BYTES = 50 * 2**20  # beyond an input and its bound
LONGEST_S = 20.0  # for one input
LONGEST_SENTENCE = 20_000
RESET = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Reader:
    """One reader of what comes in from the other side, or lies in a file.

    Attributes:
        name: What it reads.
        sound: An input that it reads.
        draw: Makes an input, most of them with faults.
        read: Reads an input, given a folder for files; what it asserts of the value counts, too.
        errors: Errors that are documented.
        bound_bytes: The memory that a value may take, beyond its input's.
    """

    name: str
    sound: bytes
    draw: Callable[[Random], bytes]
    read: Callable[[bytes, Path], object]
    errors: tuple[type[BaseException], ...]
    bound_bytes: int = 0

    @property
    def inputs(self) -> st.SearchStrategy[bytes]:
        """The inputs, drawn by hypothesis."""
        return st.randoms(use_true_random=False).map(self.draw)


@dataclass(frozen=True)
class Outcome:
    """What became of one input.

    Attributes:
        problem: What is wrong with it; empty if all is well.
        read: Whether a value came of it; else a documented error did.
        seconds: Time that it took.
        grown_bytes: The most memory that was taken while it was read.
    """

    problem: str
    read: bool
    seconds: float
    grown_bytes: int


def attempt(reader: Reader, content: bytes, folder: Path) -> Outcome:
    """Read one input, and see that nothing comes of it but a value or a documented error."""
    before = _peak_bytes(reset=True)
    start = time.perf_counter()
    problem, read = "", False
    try:
        reader.read(content, folder)
        read = True
    except reader.errors as error:
        if not 0 < len(str(error)) < LONGEST_SENTENCE:
            problem = f"{type(error).__name__} has a text of {len(str(error)):,} characters"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        problem = f"{type(error).__name__}: {str(error)[:200]}{_place(error)}"
    seconds = time.perf_counter() - start
    grown = max(0, _peak_bytes() - before)
    if not problem and grown > SLACK_BYTES + reader.bound_bytes + len(content):
        problem = f"{grown / 2**20:,.0f} MiB were taken for {len(content):,} bytes"
    if not problem and seconds > LONGEST_S:
        problem = f"it took {seconds:.0f} s"
    return Outcome(problem, read, seconds, grown)


def warm(reader: Reader, folder: Path, times: int = 3) -> None:
    """Let a reader load what it loads once."""
    for _ in range(times):
        reader.read(reader.sound, folder)
    gc.collect()


def _peak_bytes(*, reset: bool = False) -> int:
    """Return the largest memory of this process, since the last reset where the system has one."""
    if reset:
        with contextlib.suppress(OSError):
            RESET.write_bytes(b"5")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT_BYTES


def _place(error: BaseException) -> str:
    trace: Any = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    return f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})"


def text_reader(read: Callable[[str], object]) -> Callable[[bytes, Path], object]:
    """Make of the reader of a text one of bytes."""
    return lambda content, _folder: read(content.decode("utf-8", "replace"))
