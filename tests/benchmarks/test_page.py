"""The slope of a series and its error, as the page's benchmark tells its memory's."""

from random import Random

import pytest

from benchmarks.page import fit_slope


def test_a_line_has_its_slope_and_no_error() -> None:
    slope, error = fit_slope([(n / 10, 5 + 3 * n / 10) for n in range(200)], 20)
    assert slope == pytest.approx(3.0)
    assert error == pytest.approx(0.0, abs=1e-9)


def test_the_error_is_as_large_as_slopes_differ() -> None:
    random, found = Random(0), []
    for _ in range(300):
        found.append(fit_slope([(n / 400, random.gauss(0.0, 1.0)) for n in range(400)], 20))
    spread = (sum(slope**2 for slope, _ in found) / len(found)) ** 0.5
    told = sum(error for _, error in found) / len(found)
    assert told == pytest.approx(spread, rel=0.1)
    # by hand: var(slope) = 1 / sum (t - mean)^2 = 12 / 400 for 400 values in a unit of time
    assert spread == pytest.approx((12 / 400) ** 0.5, rel=0.1)


def test_uneven_parts_are_all_used() -> None:
    slope, _ = fit_slope([(float(n), 2.0 * n) for n in range(37)], 5)
    assert slope == pytest.approx(2.0)
