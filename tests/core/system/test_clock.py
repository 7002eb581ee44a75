"""The clock by which loops wait."""

import time

import pytest

from polyclinic.errors import RunError
from polyclinic.system import clock
from polyclinic.system.clock import GROWTH, PATIENCE_S, SkippingClock, use_clock


def test_the_machine_s_clock_is_used_unless_another_is_chosen() -> None:
    before = clock.monotonic()
    assert abs(before - time.monotonic()) < 5
    skipping = SkippingClock()
    with use_clock(skipping):
        clock.sleep(3600.0)
        assert clock.monotonic() == 3600.0
    assert abs(clock.monotonic() - time.monotonic()) < 5


def test_waits_grow_while_nothing_happens_and_are_short_again_afterwards() -> None:
    skipping = SkippingClock()
    skipping.sleep(100.0)
    skipping.sleep(1.0)
    assert skipping.monotonic() == pytest.approx(100.0 + 100.0 * GROWTH)
    skipping.note_progress()
    before = skipping.monotonic()
    skipping.sleep(1.0)
    assert skipping.monotonic() == before + 1.0


def test_a_wait_that_no_time_out_ends_is_an_error_and_comes_soon() -> None:
    skipping = SkippingClock()
    waits = 0
    with pytest.raises(RunError):
        while True:
            skipping.sleep(0.05)
            waits += 1
    assert skipping.monotonic() > PATIENCE_S
    assert waits < 300


def test_the_chosen_clock_is_left_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), use_clock(SkippingClock()):
        raise ZeroDivisionError
    assert abs(clock.monotonic() - time.monotonic()) < 5
