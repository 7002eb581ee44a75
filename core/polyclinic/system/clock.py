"""The time by which loops wait for each other: the machine's, or a simulation's.

What is waited for is measured here (`monotonic`, `sleep`); what is written down (a moment, the
seconds that computing took) comes from `time`.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from polyclinic.errors import RunError

GROWTH = 0.1  # of the time in which nothing happened: how far a skipping clock jumps at least
PATIENCE_S = 400 * 86_400.0  # longer than any time-out that can be configured


class Clock(Protocol):
    """Something that measures and passes time."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let so many seconds pass."""
        ...


class MachineClock:
    """The machine's own time."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Let so many seconds pass."""
        time.sleep(seconds)


class SkippingClock:
    """Simulated time: it passes while somebody waits, at once, and stands still while somebody computes.

    The longer nothing happens, the farther a wait jumps, so that every time-out is reached soon.
    """

    def __init__(self) -> None:
        self._now = self._moved = 0.0

    def monotonic(self) -> float:
        """Simulated seconds since the start."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Skip so many seconds, or more when nothing has happened for long.

        Raises:
            RunError: No time-out is left that could still end the wait.
        """
        idle = self._now - self._moved
        if idle > PATIENCE_S:
            raise RunError(
                "The run waits for something that cannot happen any more: every hospital has done what "
                "it was asked, or cannot. See events.jsonl for failures and refusals."
            )
        self._now += max(seconds, GROWTH * idle)

    def note_progress(self) -> None:
        """Something happened: waits are short again."""
        self._moved = self._now


_current: ContextVar[Clock] = ContextVar("clock")
_MACHINE = MachineClock()


def monotonic() -> float:
    """Seconds since some moment, by the clock that is in use; never goes back."""
    return _current.get(_MACHINE).monotonic()


def sleep(seconds: float) -> None:
    """Let so many seconds pass, by the clock that is in use."""
    _current.get(_MACHINE).sleep(seconds)


@contextmanager
def use_clock(clock: Clock) -> Iterator[None]:
    """Make loops of this thread wait by a clock."""
    token = _current.set(clock)
    try:
        yield
    finally:
        _current.reset(token)
