"""A person's visits and lesions.

Closer to each other than to other people, and at places of the person's own.
"""

from functools import lru_cache

import numpy as np
import torch

from polyclinic.imaging.deformation import jacobian_determinant
from polyclinic_demos.cohorts.anatomy import (
    CHANGE_MM,
    COARSE_MM,
    LESION_MM,
    Subject,
    revisit,
    sample,
    subject,
    with_lesions,
)
from polyclinic_strategies.proxy.frame.icbm152 import icbm152


@lru_cache(maxsize=8)
def person(seed: int, visit: int) -> Subject:
    return revisit(subject(seed), visit, seed)


def apart_mm(one: Subject, other: Subject) -> float:
    """Root mean square distance of two shapes."""
    return float((one.displacement_mm - other.displacement_mm).square().sum(0).mean().sqrt())


def test_the_first_visit_is_the_person() -> None:
    one = subject(1)
    assert revisit(one, 0, 1) is one


def test_a_visit_is_the_same_every_time_and_another_one_each_time() -> None:
    threads = torch.get_num_threads()
    # another number: the last bits of the shape are then others
    torch.set_num_threads(3 - min(threads, 2))
    try:
        again = revisit(subject(1), 2, 1)
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(
        again.displacement_mm, person(1, 2).displacement_mm, atol=1e-3, rtol=0
    )
    np.testing.assert_array_equal(again.pose, person(1, 2).pose)
    assert apart_mm(person(1, 1), person(1, 2)) > 0.1
    assert not np.allclose(person(1, 1).pose, person(1, 2).pose)


def test_visits_are_closer_to_each_other_than_to_other_people() -> None:
    within = [
        apart_mm(person(seed, one), person(seed, other))
        for seed in (1, 2)
        for one, other in ((0, 1), (0, 2), (1, 2))
    ]
    between = [apart_mm(person(1, one), person(2, other)) for one in range(3) for other in range(3)]
    assert max(within) < 2 * CHANGE_MM < min(between) / 2
    assert min(within) > CHANGE_MM / 2


def test_what_changes_between_visits_folds_nothing() -> None:
    for visit in (1, 2):
        assert (
            float(jacobian_determinant(person(1, visit).displacement_mm[None] / COARSE_MM).min())
            > 0
        )


def test_lesions_are_fluid_at_the_persons_own_places() -> None:
    whole = icbm152()
    one, again, other = (with_lesions(whole, seed, 3) for seed in (1, 1, 2))
    assert torch.equal(one.probabilities, again.probabilities)
    # nobody loses tissue
    torch.testing.assert_close(one.probabilities.sum(0), whole.probabilities.sum(0))
    holes, others = (
        ((each.probabilities - whole.probabilities)[2] < -0.5) for each in (one, other)
    )
    voxel = abs(float(np.linalg.det(whole.affine[:3, :3])))
    ball = 4 / 3 * np.pi * LESION_MM**3
    assert 0.3 * ball < float(holes.sum()) * voxel < 3.3 * ball
    assert float((holes & others).sum()) < 0.1 * float(holes.sum())
    # no white, no grey matter is left in them
    assert float(one.probabilities[1:, holes].max()) == 0.0


def test_no_lesions_change_nothing() -> None:
    assert torch.equal(with_lesions(icbm152(), 1, 0).probabilities, icbm152().probabilities)


def test_lesions_stay_where_they_are_from_visit_to_visit() -> None:
    """Seen on a grid of the anatomy, not of the scanner.

    Both visits are read back through their own pose and shape.
    """
    marked = with_lesions(icbm152(), 5, 2)
    affine = icbm152().affine @ np.diag([3.0, 3.0, 3.0, 1.0])
    shape = tuple(size // 3 for size in icbm152().probabilities.shape[1:])
    upright = [
        Subject(
            marked,
            np.eye(4),
            revisit(subject(5, marked), visit, 5).displacement_mm,
            subject(5).grid,
        )
        for visit in (0, 1)
    ]
    plain = [Subject(icbm152(), np.eye(4), each.displacement_mm, each.grid) for each in upright]
    seen = [
        (sample(bare, affine, shape) - sample(each, affine, shape))[2] > 0.3
        for bare, each in zip(plain, upright, strict=True)
    ]
    overlap = 2 * float((seen[0] & seen[1]).sum()) / float(seen[0].sum() + seen[1].sum())
    assert float(seen[0].sum()) > 10 and overlap > 0.6
