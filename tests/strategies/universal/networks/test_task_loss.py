"""The loss of hospitals with tasks of their own: whichever the labels are for."""

import torch
from monai.losses import DiceCELoss
from torch.nn import functional
from torch.testing import assert_close

from polyclinic_strategies.universal.networks.task_loss import TaskLoss


def test_classes_have_cross_entropy_with_smoothing() -> None:
    logits, label = (
        torch.randn(4, 3, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0, 2, 1, 1]),
    )
    assert_close(TaskLoss()(logits, label), functional.cross_entropy(logits, label))
    assert_close(
        TaskLoss(0.2)(logits, label), functional.cross_entropy(logits, label, label_smoothing=0.2)
    )


def test_a_sure_right_answer_costs_nothing_and_a_wrong_one_much() -> None:
    label = torch.tensor([0, 1])
    right = 50 * functional.one_hot(label, 2).float()
    assert float(TaskLoss()(right, label)) < 1e-6 and float(TaskLoss()(right.flip(1), label)) > 40


def test_label_maps_have_dice_and_cross_entropy() -> None:
    label = torch.zeros(2, 1, 8, 8, dtype=torch.int64)
    label[:, :, 2:5, 2:5] = 1
    logits = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = TaskLoss()(logits, label)
    assert_close(loss, DiceCELoss(to_onehot_y=True, softmax=True)(logits, label))
    loss.backward()
    assert bool(torch.isfinite(logits.grad).all())  # type: ignore[union-attr]
    sure = 50 * functional.one_hot(label[:, 0], 2).movedim(-1, 1).float()
    assert float(TaskLoss()(sure, label)) < 1e-3 < float(TaskLoss()(-sure, label))


def test_volumes_too() -> None:
    label = torch.ones(1, 1, 4, 4, 4, dtype=torch.int64)
    assert TaskLoss()(torch.zeros(1, 3, 4, 4, 4), label).shape == ()
