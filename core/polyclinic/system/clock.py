"""Clock by which loops wait: the machine's, or that of a simulation.

Waiting is measured here (`monotonic`, `sleep`). What is recorded (a point in time, the seconds of a
computation) comes from `time`.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from polyclinic.errors import RunError

GROWTH = 0.1  # least jump of a skipping clock, as a share of the time in which nothing happened
PATIENCE_S = 400 * 86_400.0  # longer than any time-out that can be configured


class Clock(Protocol):
    """A clock that measures time and waits."""

    def monotonic(self) -> float:
        """Return the seconds since some moment; they never decrease."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait for this number of seconds."""
        ...


class MachineClock:
    """The machine's own time."""

    def monotonic(self) -> float:
        """Return the seconds since some moment; they never decrease."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait for this number of seconds."""
        time.sleep(seconds)


class SkippingClock:
    """Simulated time: it passes at once while somebody waits, and stops during computations.

    The longer nothing happens, the farther a wait jumps, so that every time-out is reached soon.
    """

    def __init__(self) -> None:
        self._now = self._moved = 0.0

    def monotonic(self) -> float:
        """Return the simulated seconds since the start."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Skip this number of seconds, or more if nothing has happened for long.

        Raises:
            RunError: There is no time-out left that could end the wait.
        """
        idle = self._now - self._moved
        if idle > PATIENCE_S:
            raise RunError(
                "The run waits for something that cannot happen any more: every hospital has done "
                "what it was asked to, or cannot. See events.jsonl for failures and refusals."
            )
        self._now += max(seconds, GROWTH * idle)

    def note_progress(self) -> None:
        """Record that something happened, so that waits are short again."""
        self._moved = self._now


_current: ContextVar[Clock] = ContextVar("clock")
_MACHINE = MachineClock()


def monotonic() -> float:
    """Return the seconds since some moment by the present clock; they never decrease."""
    return _current.get(_MACHINE).monotonic()


def sleep(seconds: float) -> None:
    """Wait for this number of seconds, by the present clock."""
    _current.get(_MACHINE).sleep(seconds)


@contextmanager
def use_clock(clock: Clock) -> Iterator[None]:
    """Make loops of this thread wait by a clock."""
    token = _current.set(clock)
    try:
        yield
    finally:
        _current.reset(token)
