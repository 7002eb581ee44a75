"""The grid on which numbers travel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyclinic.federation.secure_sums.errors import NotFinite
from polyclinic.federation.secure_sums.quantization import EXTRA, Grid


def test_by_hand() -> None:
    grid = Grid(clip=3.0, bits=3)  # levels -3 ... 3, step 1
    found = grid.quantize(np.array([0.4, -1.6, 7.0, 0.0], np.float32))
    assert found.words.view(np.int32).tolist() == [0, -2, 3, 0]
    assert found.clipped == 1
    assert found.error == pytest.approx((0.4**2 + 0.4**2 + 4.0**2) ** 0.5)
    started = grid.quantize(np.ones(2, np.float32), np.full(2, 3.0, np.float32))
    assert started.words.view(np.int32).tolist() == [-2, -2]


@given(st.integers(1, 256), st.integers(0, 100))
def test_the_mean_of_words_is_that_of_the_rounded_numbers(count: int, seed: int) -> None:
    grid = Grid(1.0, 24)
    assert count <= grid.most
    random = np.random.default_rng(seed)
    values = random.uniform(-1.5, 1.5, (count, 7)).astype(np.float32)
    total = np.zeros(7 + EXTRA, np.uint32)
    for row in values:
        total += grid.with_losses(grid.quantize(row))
    start = random.normal(size=7).astype(np.float32)
    mean = grid.mean(total[:-EXTRA], count, start)
    clipped = values.clip(-1, 1).mean(0, dtype=np.float64) + start
    np.testing.assert_allclose(mean, clipped, atol=grid.step / 2 + 2e-7)
    lost = grid.losses(total, count)
    assert lost.clipped == int((np.abs(values) > 1 + grid.step / 2).sum())
    exact = values.mean(0, dtype=np.float64) + start
    assert np.linalg.norm(mean - exact) <= lost.distance + 1e-6


def test_the_largest_sum_fits_and_what_is_not_finite_is_refused() -> None:
    grid = Grid(1.0, 24)
    total = np.zeros(1, np.uint32)
    for _ in range(grid.most):
        total += grid.quantize(np.array([9.0], np.float32)).words
    assert grid.mean(total, grid.most)[0] == pytest.approx(1.0)
    for bad in (np.nan, np.inf):
        with pytest.raises(NotFinite):
            grid.quantize(np.array([0.0, bad], np.float32))
