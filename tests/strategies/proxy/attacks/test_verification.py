import pytest
import torch
from torch.testing import assert_close

from polyclinic_strategies.proxy.attacks.verification import likenesses, score


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_who_is_always_recognized() -> None:
    found = score(torch.eye(6).expand(2, 6, 6))
    assert (found.auc, found.tpr, found.rank1, found.low, found.high, found.people) == (
        1.0,
        1.0,
        1.0,
        1.0,
        1.0,
        6,
    )


def test_who_is_always_mistaken() -> None:
    found = score(-torch.eye(6)[None])
    assert (found.auc, found.tpr, found.rank1) == (0.0, 0.0, 0.0)


def test_ties_are_chance() -> None:
    found = score(torch.zeros(2, 5, 5))
    assert (found.auc, found.low, found.high) == (0.5, 0.5, 0.5)
    assert found.tpr == 0.0 and found.rank1 == pytest.approx(1 / 5)


def test_noise_is_chance_and_the_interval_says_so() -> None:
    found = score(random(6, 40, 40))
    assert found.low < 0.5 < found.high and found.low < found.auc < found.high
    assert abs(found.auc - 0.5) < 0.06 and found.rank1 < 0.1 and found.tpr < 0.05


def test_by_hand() -> None:
    """Two people: same pairs 3 and 1, different ones 2 and 0.

    Three of four comparisons are right.
    """
    matrix = torch.tensor([[[3.0, 2.0], [0.0, 1.0]]])
    found = score(matrix)
    assert found.auc == 0.75 and found.rank1 == 1.0
    assert score(torch.tensor([[[3.0, 2.0], [2.0, 2.0]]])).auc == 0.75  # 1, 1, 1/2, 1/2
    both = score(torch.cat([matrix, torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])]))
    assert both.auc == 0.375 and both.rank1 == 0.5


def test_true_positives_at_one_false_one_in_a_hundred() -> None:
    people = 30
    matrix = random(1, people, people)
    matrix[0].fill_diagonal_(-10.0)
    matrix[0, range(12), range(12)] = 10.0  # twelve are beyond doubt
    assert score(matrix).tpr == pytest.approx(12 / 30)


def test_scale_order_and_seed_do_not_matter() -> None:
    matrix = random(2, 12, 12) + torch.eye(12)
    found, order = score(matrix), torch.randperm(12, generator=torch.Generator().manual_seed(1))
    scaled, turned, other = (
        score(3 * matrix + 7),
        score(matrix[:, order][:, :, order]),
        score(matrix, seed=9),
    )
    assert scaled == found == score(matrix)
    assert (turned.auc, turned.rank1) == (pytest.approx(found.auc), found.rank1)
    assert (
        other.auc == found.auc
        and other.low == pytest.approx(found.low, abs=0.05)
        and other.low != found.low
    )


def test_the_interval_shrinks_with_people() -> None:
    few, many = (score(random(4, people, people) + 1.0 * torch.eye(people)) for people in (8, 64))
    assert 0.5 < many.auc < 0.95
    assert many.high - many.low < (few.high - few.low) / 1.5


def test_likenesses_are_cosines() -> None:
    first, second = random(3, 8), random(4, 8, seed=1)
    found = likenesses(first, second)
    assert found.shape == (3, 4)
    assert_close(found[1, 2], torch.cosine_similarity(first[1], second[2], dim=0))
    assert_close(likenesses(5 * first, second), found)
    assert not likenesses(torch.zeros(2, 8), second).any()  # nothing is told: like nobody


@pytest.mark.parametrize("shape", [(4, 4), (1, 4, 3), (1, 1, 1), (1, 2, 2, 2)])
def test_ill_shaped_likenesses_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="people, people"):
        score(torch.zeros(shape))
