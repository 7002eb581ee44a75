import numpy as np
import pytest
from scipy import ndimage

from polyclinic.learning.measures.lesions import Lesions, count_lesions


def test_by_hand() -> None:
    truth, prediction = np.zeros((2, 10, 10), dtype=bool)
    truth[0:2, 0:2] = truth[4:6, 4:6] = truth[8, 8] = True
    prediction[1, 1] = prediction[4, 7] = prediction[0, 9] = True  # one found, two false
    assert count_lesions(prediction, truth) == Lesions(3, 1, 2)


def test_voxels_that_touch_in_a_corner_are_one_lesion() -> None:
    truth = np.zeros((3, 3, 3), dtype=bool)
    truth[0, 0, 0] = truth[1, 1, 1] = True
    assert count_lesions(truth, truth) == Lesions(1, 1, 0)


def test_one_component_over_two_lesions_finds_both_and_is_not_false() -> None:
    truth, prediction = np.zeros((2, 9), dtype=bool)
    truth[1] = truth[7] = True
    prediction[:] = True
    assert count_lesions(prediction, truth) == Lesions(2, 2, 0)


@pytest.mark.parametrize(("one", "other"), [(0, 0), (0, 1), (1, 0)])
def test_empty(one: bool, other: bool) -> None:
    prediction, truth = np.full((3, 3), bool(one)), np.full((3, 3), bool(other))
    assert count_lesions(prediction, truth) == Lesions(int(other), 0, int(one))


@pytest.mark.parametrize("seed", range(5))
def test_it_is_a_loop_over_the_components(seed: int) -> None:
    prediction, truth = np.random.default_rng(seed).random((2, 9, 8, 7)) < 0.12
    everywhere = np.ones((3, 3, 3))
    lesions, number = ndimage.label(truth, everywhere)
    components, predicted = ndimage.label(prediction, everywhere)
    found = sum(bool((prediction & (lesions == n)).any()) for n in range(1, number + 1))
    false = sum(not (truth & (components == n)).any() for n in range(1, predicted + 1))
    assert count_lesions(prediction, truth) == Lesions(number, found, false)


def test_ill_shaped() -> None:
    with pytest.raises(ValueError, match="shape"):
        count_lesions(np.ones((2, 2), bool), np.ones((2, 3), bool))
