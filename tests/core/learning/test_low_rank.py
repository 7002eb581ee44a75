"""Task vectors as two thin factors."""

import pytest
import torch
from torch.testing import assert_close

from polyclinic.learning.low_rank import expand, factorize


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(6, 8), (6, 4, 3, 3), (6, 2, 3, 3, 3)])
def test_a_vector_of_low_rank_is_kept_whole(shape: tuple[int, ...]) -> None:
    vector = (random(shape[0], 2) @ random(2, random(*shape[1:]).numel())).reshape(shape)
    factors = factorize(vector, 2)
    assert factors is not None
    up, down = factors
    assert up.shape == (6, 2) and down.shape == (2, *shape[1:])
    assert_close(expand(up, down), vector)


def test_what_is_lost_is_what_the_smallest_singular_values_hold() -> None:
    vector = random(20, 5, 3, 3)
    lengths = torch.linalg.svdvals(vector.flatten(1))
    factors = factorize(vector, 7)
    assert factors is not None
    lost = (expand(*factors) - vector).norm()
    assert_close(lost, lengths[7:].square().sum().sqrt(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("shape", [(9,), (), (4, 1, 3, 3), (3, 3)])
def test_what_would_not_become_smaller_stays_whole(shape: tuple[int, ...]) -> None:
    assert factorize(random(*shape), 3) is None


def test_nothing_learned_has_factors_of_nothing() -> None:
    factors = factorize(torch.zeros(8, 8), 2)
    assert factors is not None and not expand(*factors).any()
