"""The learning rate over all rounds of a training."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch

from polyclinic.learning.optimizing.schedules import Round


def rates(schedule: Any, rounds: int, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=7.0)
    found = []
    for number in range(1, rounds + 1):
        for step in range(1, steps + 1):
            Round(number, rounds).set_rate(optimizer, schedule, 0.1, step, steps)
            found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize("schedule", ["polynomial", "cosine"])
def test_the_rate_falls_over_all_rounds_as_over_one(schedule: str) -> None:
    found = rates(schedule, 5, 4)
    assert found == pytest.approx(rates(schedule, 1, 20))
    assert found[0] == 0.1 and all(before > after > 0 for before, after in pairwise(found))


def test_by_hand() -> None:
    assert rates("polynomial", 2, 2) == pytest.approx(
        [0.1, 0.1 * 0.75**0.9, 0.1 * 0.5**0.9, 0.1 * 0.25**0.9]
    )
    assert rates("cosine", 2, 2)[2] == pytest.approx(0.05)
    assert rates("cosine", 2, 2)[1] == pytest.approx(0.05 * (1 + math.cos(math.pi / 4)))
    assert rates("constant", 2, 2) == [7.0] * 4  # as the optimizer was made


def test_a_round_beyond_the_last_still_trains() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=7.0)
    Round(3, 2).set_rate(optimizer, "polynomial", 0.1, 4, 4)
    assert 0 < optimizer.param_groups[0]["lr"] < 0.1
