"""Where commands print to."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

WIDE = 120  # columns of tables when output goes to a file
SILENCE_S = 8.0  # after which somebody who watches is told that the work goes on
Say = Callable[[str], None]


class LineConsole(Console):
    """Console that breaks no sentence: a path that somebody copies from it is whole.

    Tables are wide where nobody says how wide the output is.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        stream = sys.stderr if stderr else sys.stdout
        known = stream.isatty() or "COLUMNS" in os.environ
        super().__init__(stderr=stderr, highlight=False, width=None if known else WIDE)

    def say(self, text: str) -> None:
        """Print a sentence as it is."""
        self.print(text, markup=False)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as `rich.console.Console` does, with `soft_wrap` for what is only text."""
        options.setdefault("soft_wrap", all(isinstance(each, str) for each in objects))
        super().print(*objects, **options)


@contextmanager
def never_silent(say: Say, every_s: float = SILENCE_S) -> Iterator[Say]:
    """Yield a function that says lines; while none comes, the last one is repeated with its age.

    Args:
        say: Prints a line.
        every_s: Seconds of silence after which it is repeated.
    """
    ended, last, since = threading.Event(), "it begins", time.monotonic()

    def tell(text: str) -> None:
        nonlocal last, since
        last, since = text, time.monotonic()
        say(text)

    def repeat() -> None:
        told = 0.0
        while not ended.wait(every_s / 4):
            silent_s = time.monotonic() - since
            if silent_s < every_s:
                told = 0.0
            elif silent_s - told >= every_s:
                told = silent_s
                say(f"  {silent_s:.0f} s since: {last}")

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield tell
    finally:
        ended.set()
        thread.join()
