"""Losses of regions, findings and numbers: by hand, and what is unknown."""

import math

import pytest
import torch
from monai.losses import DiceLoss
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from polyclinic.learning.losses import MultiLabelLoss, RegressionLoss, SegmentationLoss

torch.manual_seed(0)
SHAPE = (2, 3, 6, 6)


def test_a_label_with_a_channel_for_each_output_is_of_regions() -> None:
    logits, regions = torch.randn(SHAPE), torch.randint(2, SHAPE)
    dice = DiceLoss(sigmoid=True, batch=True, smooth_nr=1e-5, smooth_dr=1e-5)(logits, regions)
    expected = dice + binary_cross_entropy_with_logits(logits, regions.float())
    assert float(SegmentationLoss()(logits, regions)) == pytest.approx(float(expected))


def test_a_label_with_one_channel_is_of_classes() -> None:
    logits, classes = torch.randn(SHAPE), torch.randint(3, (2, 1, 6, 6))
    dice = DiceLoss(
        include_background=False, to_onehot_y=True, softmax=True, batch=True,
        smooth_nr=1e-5, smooth_dr=1e-5,
    )(logits, classes)  # fmt: skip
    expected = dice + cross_entropy(logits, classes[:, 0])
    assert float(SegmentationLoss()(logits, classes)) == pytest.approx(float(expected))


def test_smaller_sizes_of_regions_are_judged_too() -> None:
    """Regions are brought to each size of deep supervision by the nearest voxel."""
    regions = torch.randint(2, SHAPE)
    sizes = [torch.randn(2, 3, size, size) for size in (6, 3)]
    loss = SegmentationLoss()(sizes, regions)
    small = SegmentationLoss()(sizes[1], regions[..., 1::2, 1::2])
    full = SegmentationLoss()(sizes[0], regions)
    assert float(loss) == pytest.approx((float(full) + 0.5 * float(small)) / 1.5)


def test_unknown_findings_have_no_part_and_no_gradient() -> None:
    logits = torch.zeros(2, 2, requires_grad=True)
    label = torch.tensor([[1.0, math.nan], [0.0, math.nan]])
    loss = MultiLabelLoss()(logits, label)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(math.log(2))
    assert logits.grad is not None
    assert logits.grad.tolist() == [[-0.25, 0.0], [0.25, 0.0]]
    nothing = MultiLabelLoss()(logits, torch.full((2, 2), math.nan))
    assert float(nothing.detach()) == 0.0


def test_a_finding_that_is_there_weighs_as_asked() -> None:
    logits = torch.zeros(1, 2)
    loss = MultiLabelLoss(positive_weight=3.0)(logits, torch.tensor([[1.0, 0.0]]))
    assert float(loss) == pytest.approx((3 * math.log(2) + math.log(2)) / 2)


def test_numbers_count_as_squares_near_the_truth_and_as_errors_beyond() -> None:
    output = torch.tensor([[0.05], [0.5], [7.0]])
    label = torch.tensor([[0.0], [0.0], [math.nan]])
    expected = (0.05**2 / (2 * 0.1) + (0.5 - 0.05)) / 2
    assert float(RegressionLoss(beta=0.1)(output, label)) == pytest.approx(expected)
