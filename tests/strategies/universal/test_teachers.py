"""What hospitals say of their features, and how far other images are from them."""

import torch
from torch.testing import assert_close

from strategies.universal.teachers import COVARIANCE, MEAN, Teacher, distances


def gaussian(rows: torch.Tensor) -> Teacher:
    centred = rows - rows.mean(0)
    statistics = {MEAN: rows.mean(0), COVARIANCE: centred.T @ centred / (len(rows) - 1)}
    return Teacher("st-john", {}, statistics, len(rows), "")


def test_own_images_are_at_one_and_far_ones_farther() -> None:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(6, 6, generator=generator)
    rows = torch.randn(400, 6, generator=generator) @ mix + 3
    one = gaussian(rows)
    assert_close(distances(one, rows).mean(), torch.tensor(1.0), atol=0.02, rtol=0)
    assert float(distances(one, rows + 10).min()) > float(distances(one, rows).median())


def test_a_scale_of_single_numbers_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(200, 4, generator=generator)
    scale = torch.tensor([1e-3, 1.0, 1e3, 7.0])
    assert_close(distances(gaussian(rows), rows[:9]), distances(gaussian(rows * scale), rows[:9] * scale), rtol=1e-3, atol=1e-4)


def test_a_number_that_never_changes_does_no_harm() -> None:
    rows = torch.cat([torch.randn(100, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(100, 1)], 1)
    assert bool(torch.isfinite(distances(gaussian(rows), rows)).all())


def test_statistics_that_cannot_be_true_give_distances_all_the_same() -> None:
    rows = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    for covariance in (torch.zeros(3, 3), -torch.eye(3), torch.full((3, 3), 1e30), torch.tensor([[1.0, 9, 9], [-9, 1, 9], [9, 9, 1]])):
        found = distances(Teacher("st-john", {}, {MEAN: torch.zeros(3), COVARIANCE: covariance}, 9, ""), rows)
        assert bool((found >= 0).all()) and not bool(found.isnan().any())
