import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice

from polyclinic.learning.measures.names import OVERALL
from polyclinic.learning.measures.segmentation import measure_case, measure_segmentation
from polyclinic.learning.metrics import dice_per_class, summarize

LABELS = ("tumour", "oedema")


def maps(seed: int, shape: tuple[int, ...] = (12, 11, 9)) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(seed).integers(0, 3, (2, *shape)).astype(np.uint8)


def test_dice_is_that_of_monai_and_volumes_by_hand() -> None:
    prediction, truth = maps(0)
    one_hot = [
        torch.nn.functional.one_hot(torch.from_numpy(each).long(), 3).permute(3, 0, 1, 2)[None]
        for each in (prediction, truth)
    ]
    expected = compute_dice(*one_hot, include_background=False)[0]
    found = measure_case(prediction, truth, (1.0, 1.0, 3.0), 3)
    assert [each.dice for each in found] == pytest.approx(expected.tolist(), abs=1e-6)
    for number, each in enumerate(found, 1):
        volumes = (prediction == number).sum(), (truth == number).sum()
        assert each.volume_bias == pytest.approx(volumes[0] / volumes[1] - 1)


def test_a_structure_is_measured_wherever_it_lies() -> None:
    prediction, truth = np.zeros((2, 40, 30, 20), np.uint8)
    prediction[30:34, 3:6, 10:14], truth[31:35, 3:6, 10:14] = 1, 1
    (found,) = measure_case(prediction, truth, (1.0, 2.0, 3.0), 2)
    (moved,) = measure_case(np.roll(prediction, -20, 0), np.roll(truth, -20, 0), (1.0, 2.0, 3.0), 2)
    assert found == moved
    assert found.dice == pytest.approx(0.75) and found.hausdorff95_mm == pytest.approx(1.0)


def test_empty_truth_empty_prediction_and_both() -> None:
    empty, full = np.zeros((4, 5, 6), np.uint8), np.ones((4, 5, 6), np.uint8)
    (both,) = measure_case(empty, empty, (1, 1, 1), 2)
    assert not both.present and not both.predicted and math.isnan(both.dice)
    (false,) = measure_case(full, empty, (1, 1, 1), 2)
    assert not false.present and false.predicted and false.lesions.false_positives == 1
    (missed,) = measure_case(empty, full, (1, 2, 3), 2)
    assert (missed.dice, missed.surface_dice, missed.volume_bias) == (0.0, 0.0, -1.0)
    assert missed.hausdorff95_mm == pytest.approx(math.dist((0, 0, 0), (4, 10, 18)))
    assert missed.lesions.number == 1 and missed.lesions.found == 0


def test_an_axis_of_one_voxel_does_not_count() -> None:
    prediction, truth = maps(1, (9, 8))
    flat = measure_case(prediction, truth, (0.5, 2.0), 3)
    assert measure_case(prediction[..., None], truth[..., None], (0.5, 2.0, 7.0), 3) == flat


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 1.0, 1.0, 1.0)])
def test_ill_shaped(spacing: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        measure_case(*maps(2), spacing, 3)
    with pytest.raises(ValueError, match="shape"):
        measure_case(maps(2)[0], maps(2)[1][:3], (1.0, 1.0, 1.0), 3)


def test_cases_without_the_structure_are_counted_and_not_averaged() -> None:
    empty, full = np.zeros((4, 4, 4), np.uint8), np.ones((4, 4, 4), np.uint8)
    pairs = [(full, full), (empty, full), (empty, empty), (full, empty), (empty, empty)]
    cases = [measure_case(*pair, (1, 1, 1), 2) for pair in pairs]
    rows = [dice_per_class(*map(torch.from_numpy, pair), 2) for pair in pairs]
    found = measure_segmentation(cases, torch.stack(rows).numpy(), range(5), ("tumour",))

    tumour = found["tumour"]
    assert (tumour["dice"].value, tumour["dice"].n, tumour["dice"].positives) == (0.5, 2, 2)
    assert tumour["correctly_empty"].value == pytest.approx(2 / 3)
    assert tumour["correctly_empty"].n == 3
    assert (tumour["lesion_sensitivity"].value, tumour["lesion_sensitivity"].n) == (0.5, 2)
    assert tumour["lesion_false_positives"].value == pytest.approx(1 / 5)
    assert all(each.descriptive for each in tumour.values())
    assert found[OVERALL]["mean_dice"].value == summarize(rows, ("tumour",), None, 5).score


def test_the_mean_dice_is_the_score_whatever_is_missing() -> None:
    generator = np.random.default_rng(3)
    pairs = [(maps(seed)[0], maps(seed)[1]) for seed in range(6)]
    for prediction, truth in pairs[:2]:
        prediction[prediction == 2], truth[truth == 2] = 0, 0
    pairs[3][1][pairs[3][1] == 1] = 0
    rows = [dice_per_class(*map(torch.from_numpy, pair), 3) for pair in pairs]
    cases = [measure_case(*pair, (1, 1, 1), 3) for pair in pairs]
    found = measure_segmentation(cases, torch.stack(rows).numpy(), [0, 0, 1, 2, 3, 4], LABELS)
    score = summarize(rows, LABELS, None, 6).score
    whole = found[OVERALL]["mean_dice"]
    assert whole.value == pytest.approx(score, abs=1e-12) and whole.subjects == 5
    assert whole.low is not None and whole.high is not None and whole.low < score < whole.high
    assert generator is not None and found["oedema"]["dice"].n == 4
