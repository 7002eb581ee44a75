"""Signs of life of a long benchmark: what it does, how far it is, and its loss."""

import sys
import time
from collections.abc import Callable

EVERY_S = 8.0


class Terminal:
    """Where lines are printed at once; remembers when the last one was."""

    def __init__(self) -> None:
        self._last = 0.0

    def say(self, text: str) -> None:
        """Print a line."""
        self._last = time.monotonic()
        print(text, file=sys.stderr, flush=True)

    def say_if_silent(self, text: Callable[[], str]) -> None:
        """Print a line if none came for `EVERY_S` seconds."""
        if time.monotonic() - self._last >= EVERY_S:
            self.say(text())


TERMINAL = Terminal()
say = TERMINAL.say


def pulse(what: str) -> Callable[[int, int, float], None]:
    """Return what is told of every step: which, of how many, and its loss."""

    def tell(step: int, steps: int, loss: float) -> None:
        TERMINAL.say_if_silent(lambda: f"  {what}: step {step} of {steps}, loss {loss:.3f}")

    return tell


def count(what: str) -> Callable[[int, int, str], None]:
    """Return what is told of every piece of work: which, of how many, and its name."""

    def tell(done: int, total: int, name: str) -> None:
        TERMINAL.say_if_silent(lambda: f"  {what}: {done} of {total}, {name}")

    return tell
