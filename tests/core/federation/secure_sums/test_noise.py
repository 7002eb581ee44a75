"""Discrete Gaussian noise: the right distribution, and the right epsilon."""

import math

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent
from dp_accounting.rdp import RdpAccountant

from polyclinic.federation.secure_sums.noise import (
    Uniform,
    add_noise,
    discrete_gaussian,
    epsilon,
    rho,
)
from polyclinic.federation.secure_sums.quantization import Grid
from polyclinic.federation.secure_sums.terms import Terms

GRID = Grid(1.0, 24)


class Seeded(Uniform):
    """Uniform numbers that are the same in every run."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def draw(self, count: int):  # type: ignore[no-untyped-def]
        return (self._random.integers(0, 2**53, count) + 0.5) * 2.0**-53


@pytest.mark.parametrize("deviation", [0.4, 1.0, 3.7])
def test_integers_have_the_frequencies_of_a_discrete_gaussian(deviation: float) -> None:
    count = 400_000
    drawn = discrete_gaussian(count, deviation, Seeded(1))
    reach = math.ceil(6 * deviation)
    integers = np.arange(-reach, reach + 1)
    mass = np.exp(-(integers**2) / (2 * deviation**2))
    expected = count * mass / mass.sum()
    found = np.array([(drawn == each).sum() for each in integers])
    enough = expected > 20
    chi_squared = float(((found - expected)[enough] ** 2 / expected[enough]).sum())
    freedom = int(enough.sum()) - 1
    assert chi_squared < freedom + 5 * math.sqrt(2 * freedom)
    assert abs(int(found.sum()) - count) < 5


def test_a_wide_one_is_like_a_gaussian() -> None:
    drawn = discrete_gaussian(200_000, 1e6, Seeded(2)) / 1e6
    assert abs(drawn.mean()) < 0.02 and abs(drawn.std() - 1) < 0.01
    assert abs((np.abs(drawn) < 1).mean() - 0.6827) < 0.01


def test_the_noise_of_a_sum_is_that_of_all_its_hospitals() -> None:
    total = np.zeros(200_000, np.uint32)
    for _ in range(10):
        words = np.zeros(200_000, np.uint32)
        add_noise(words, 1000.0)
        total += words
    assert total.view(np.int32).std() == pytest.approx(1000 * math.sqrt(10), rel=0.02)


def test_epsilon_is_that_of_dp_accounting() -> None:
    # with a fine grid and few numbers, a sum is a Gaussian mechanism of multiplier sqrt(n) s / c
    for hospitals, sigma in ((3, 1.0), (10, 0.5), (40, 0.1)):
        found = epsilon(rho(GRID, 1.0, sigma, hospitals, 1), 1e-5)
        event = GaussianDpEvent(math.sqrt(hospitals) * sigma)
        exact = RdpAccountant().compose(event).get_epsilon(1e-5)
        assert found == pytest.approx(exact, rel=1e-6)
    assert epsilon(5 * rho(GRID, 1.0, 1.0, 3, 1), 1e-5) == pytest.approx(
        RdpAccountant().compose(GaussianDpEvent(math.sqrt(3)), 5).get_epsilon(1e-5), rel=1e-6
    )


def test_by_hand_a_coarse_grid_costs_more() -> None:
    coarse = Grid(3.0, 3)  # step 1
    gap = 10 * (math.exp(-(math.pi**2)) + math.exp(-4 / 3 * math.pi**2))  # k = 1, 2; s = 1
    gaussian = (1 + math.sqrt(4) / 2) / math.sqrt(3)
    either = math.sqrt(gaussian**2 + gap * 4 / 2), gaussian + gap * math.sqrt(4)
    assert rho(coarse, 1.0, 1.0, 3, 4) == pytest.approx(min(either) ** 2 / 2)
    assert rho(coarse, 1.0, 1.0, 3, 4) > rho(GRID, 1.0, 1.0, 3, 4)
    with pytest.raises(ValueError, match="nothing"):
        epsilon(0.0, 1e-5)


def test_updates_are_shortened_and_noise_takes_room() -> None:
    found = GRID.quantize(np.array([3.0, 4.0]) / 8, norm=0.25)
    np.testing.assert_allclose(found.words.view(np.int32) * GRID.step, [0.15, 0.2], atol=1e-6)
    short = GRID.quantize(np.array([0.03, 0.04]), norm=0.25)
    np.testing.assert_allclose(short.words.view(np.int32) * GRID.step, [0.03, 0.04], atol=1e-6)
    quiet, noisy = Terms("5e" * 16, 1.0, 24), Terms("5e" * 16, 1.0, 24, norm=1.0, sigma=0.3)
    assert quiet.most == 256 and noisy.most == 204
    with pytest.raises(ValueError, match="noise needs"):
        Terms("5e" * 16, 1.0, 24, sigma=0.3)
