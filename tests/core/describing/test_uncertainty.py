"""The variance of a mean over subjects, and what it makes of distances."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from polyclinic.config.release import Release
from polyclinic.describing.statistics import describe, with_variances
from polyclinic.describing.uncertainty import error_name, variance_of_mean
from polyclinic.errors import TooFewSubjects

PLAIN = Release(min_subjects=1)
NOISY = Release(min_subjects=1, noise_multiplier=1.0)


def draw(count: int, seed: int, centre: float = 0.0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = 0.1 * torch.randn(count, 8, generator=generator)
    drawn[:, 0] += centre
    return list(drawn)


def test_of_two_rows_by_hand() -> None:
    rows = [torch.tensor([0.5, 0.0]), torch.tensor([-0.1, 0.0])]
    # the variance with n - 1 is 0.18; that of the mean half of it
    assert_close(variance_of_mean(rows, PLAIN.mean(rows), PLAIN), torch.tensor([0.09]))


def test_rows_that_are_all_the_same_have_none_and_one_row_has_the_largest() -> None:
    rows = [torch.tensor([0.6, 0.8])] * 4
    assert float(variance_of_mean(rows, PLAIN.mean(rows), PLAIN)) == pytest.approx(0.0, abs=1e-6)
    assert_close(variance_of_mean(rows[:1], rows[0], PLAIN), torch.ones(1))


def test_the_minimum_of_subjects_holds_for_it() -> None:
    rows = [torch.zeros(2)] * 4
    with pytest.raises(TooFewSubjects):
        variance_of_mean(rows, torch.zeros(2), Release(min_subjects=5))


def test_without_it_squared_distances_are_too_large_and_with_it_right_on_the_average() -> None:
    biased, corrected = [], []
    for seed in range(400):
        sites = [draw(4, 2 * seed), draw(4, 2 * seed + 1, centre=0.2)]
        means = [PLAIN.mean(rows) for rows in sites]
        extra = sum(
            float(variance_of_mean(rows, mean, PLAIN))
            for rows, mean in zip(sites, means, strict=True)
        )
        biased.append(float(torch.sum((means[0] - means[1]) ** 2)))
        corrected.append(biased[-1] - extra)
    assert sum(biased) / 400 == pytest.approx(0.04 + 2 * 8 * 0.01 / 4, rel=0.1)
    assert sum(corrected) / 400 == pytest.approx(0.04, rel=0.1)


def test_the_noise_of_the_release_counts() -> None:
    rows = draw(20, 0)
    found = [float(variance_of_mean(rows, NOISY.mean(rows), NOISY)) for _ in range(50)]
    # eight numbers, each with the noise 1/20, and a little for the subjects themselves
    assert sum(found) / 50 == pytest.approx(8 / 400 + 8 * 0.01 / 20, rel=0.2)


def test_a_description_has_it_where_it_is_asked_for() -> None:
    images = [torch.rand(1, 8, 8, 8, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    names = ["average_image", "histogram"]
    assert with_variances(names) == [*names, error_name("average_image")]  # the Euclidean one
    found = describe(with_variances(names), images, [0, 1, 2], nn.Identity(), PLAIN)
    assert set(found) == {*names, "average_image.variance"}
    assert found["average_image.variance"].shape == (1,)
    assert 0 < float(found["average_image.variance"]) < 1
    assert set(describe(names, images, [0, 1, 2], nn.Identity(), PLAIN)) == set(names)
