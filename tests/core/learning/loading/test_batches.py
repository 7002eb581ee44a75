"""Order of samples, their numbers, and which of them are centred."""

import pytest
from torch import Generator

from polyclinic.learning.loading.batches import Batches, Draw, seed_of


def drawn(counts: tuple[int, int], size: int, **options: object) -> list[list[Draw]]:
    return list(Batches(counts, size, Generator().manual_seed(0), **options))  # type: ignore[arg-type]


def test_a_pass_has_every_sample_once_and_a_smaller_last_batch() -> None:
    batches = drawn((3, 2), 4)
    assert [len(batch) for batch in batches] == [4, 2]
    assert sorted(draw.sample for batch in batches for draw in batch) == list(range(6))
    assert [draw.number for batch in batches for draw in batch] == list(range(6))


def test_steps_go_round_the_cases_as_often_as_needed() -> None:
    batches = drawn((3, 1), 4, steps=6)
    assert [len(batch) for batch in batches] == [4] * 6
    flat = [draw.sample for batch in batches for draw in batch]
    assert all(sorted(flat[start : start + 3]) == [0, 1, 2] for start in range(0, 24, 3))
    assert [draw.number for batch in batches for draw in batch] == list(range(24))


def test_numbers_go_on_in_the_next_pass() -> None:
    batches = Batches((2, 1), 2, Generator().manual_seed(0))
    assert [draw.number for _ in range(2) for batch in batches for draw in batch] == [0, 1, 2, 3]


def test_samples_of_a_case_follow_each_other_if_asked() -> None:
    flat = [draw.sample // 3 for batch in drawn((4, 3), 2, in_a_row=True) for draw in batch]
    assert all(len(set(flat[start : start + 3])) == 1 for start in range(0, 12, 3))


@pytest.mark.parametrize(
    ("size", "share", "centred"), [(2, 0.33, 1), (12, 0.33, 4), (1, 0.1, 1), (4, 1.0, 4), (4, 0, 0)]
)
def test_the_last_samples_of_a_batch_are_centred(size: int, share: float, centred: int) -> None:
    for batch in drawn((5, 1), size, steps=3, foreground_share=share):
        assert [draw.centred for draw in batch] == [False] * (size - centred) + [True] * centred


def test_seeds_of_samples_differ() -> None:
    assert len({seed_of(seed, number) for seed in range(3) for number in range(100)}) == 300
