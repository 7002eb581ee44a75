import math

import pytest
import torch
from monai.metrics import compute_dice
from torch.testing import assert_close

from polyclinic.learning.metrics import count_pairs, dice_per_class, recall_per_class, summarize


def test_dice_by_hand() -> None:
    prediction = torch.tensor([0, 1, 1, 2, 2, 2])
    truth = torch.tensor([0, 1, 2, 2, 2, 0])
    assert_close(
        dice_per_class(prediction, truth, 4)[:2], torch.tensor([2 / 3, 4 / 6], dtype=torch.float64)
    )
    assert math.isnan(dice_per_class(prediction, truth, 4)[2])  # in neither


def test_a_class_in_one_map_only_scores_zero() -> None:
    assert_close(
        dice_per_class(torch.tensor([0, 1]), torch.tensor([0, 0]), 2),
        torch.tensor([0.0], dtype=torch.float64),
    )


def test_dice_is_that_of_monai() -> None:
    prediction, truth = torch.randint(
        0, 4, (2, 9, 8, 7), generator=torch.Generator().manual_seed(0)
    )
    one_hot = [
        torch.nn.functional.one_hot(each, 4).permute(3, 0, 1, 2)[None]
        for each in (prediction, truth)
    ]
    expected = compute_dice(*one_hot, include_background=False)[0].double()
    assert_close(
        dice_per_class(prediction.to(torch.uint8), truth.int(), 4), expected, atol=1e-6, rtol=0
    )


def test_recall_and_balanced_accuracy() -> None:
    recalls = recall_per_class(torch.tensor([0, 0, 1, 0]), torch.tensor([0, 0, 1, 1]), 3)
    evaluation = summarize([recalls], ("a", "b", "c"), 0.5, 4)
    assert (
        evaluation.scores["a"] == 1.0
        and evaluation.scores["b"] == 0.5
        and math.isnan(evaluation.scores["c"])
    )
    assert (evaluation.score, evaluation.loss, evaluation.num_examples) == (0.75, 0.5, 4)


def test_means_leave_out_what_never_occurs() -> None:
    rows = [
        torch.tensor([0.5, math.nan]),
        torch.tensor([1.0, 0.2]),
        torch.tensor([math.nan, math.nan]),
    ]
    assert summarize(rows, ("a", "b"), None, 3).scores == pytest.approx({"a": 0.75, "b": 0.2})
    assert math.isnan(summarize([], ("a",), None, 0).score)


def test_many_classes_and_many_voxels_do_not_overflow() -> None:
    labels = torch.arange(250).repeat_interleave(3)
    assert_close(dice_per_class(labels, labels, 250), torch.ones(249, dtype=torch.float64))


@pytest.mark.parametrize(
    ("prediction", "truth"), [([0, 1], [0]), ([0, 3], [0, 1]), ([0, 1], [-1, 1])]
)
def test_ill_shaped(prediction: list[int], truth: list[int]) -> None:
    with pytest.raises(ValueError, match=r"shape|classes"):
        count_pairs(torch.tensor(prediction), torch.tensor(truth), 3)
