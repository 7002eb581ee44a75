"""Losses of networks that are judged at several sizes, and of findings and numbers.

A target that is NaN is unknown, and does not count.
"""

from collections.abc import Callable, Sequence

import torch
from monai.losses import DiceLoss
from torch import Tensor, nn
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    interpolate,
    smooth_l1_loss,
)

Logits = Tensor | Sequence[Tensor]  # the full size; with deep supervision, smaller ones follow
Loss = Callable[[Tensor, Tensor], Tensor]


def judge(loss_of: Loss, logits: Logits, label: Tensor) -> Tensor:
    """Compute the loss of a network's output, in float32; of several sizes, their weighted mean.

    A size half as large as another weighs half as much. Labels are brought to each size by the
    nearest voxel.

    Args:
        loss_of: Any loss of logits and labels.
        logits: Shape BCHWD, or a list of them, the full size first.
        label: Shape B1HWD; classes, B, of a classification.

    Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z.
    """
    if isinstance(logits, Tensor):
        return loss_of(logits.float(), label)
    weights = [0.5**size for size in range(len(logits))]
    losses = [
        weight * loss_of(each.float(), _at_size(label, each))
        for weight, each in zip(weights, logits, strict=True)
    ]
    return torch.stack(losses).sum() / sum(weights)


def _at_size(label: Tensor, logits: Tensor) -> Tensor:
    if logits.shape[2:] == label.shape[2:]:
        return label
    return interpolate(label.float(), logits.shape[2:], mode="nearest-exact").to(label.dtype)


class SegmentationLoss(nn.Module):
    """Dice and cross-entropy of logits, the mean over the sizes that a network returns.

    A label with one channel holds classes, which exclude each other: softmax. A label with a
    channel for each output holds regions, which may overlap: sigmoid, as nnU-Net trains regions.

    Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z.
    """

    def __init__(self, batch: bool = True) -> None:
        """Prepare the loss.

        Args:
            batch: Whether Dice is computed over all of a batch; else of each image.
        """
        super().__init__()
        common = {"batch": batch, "smooth_nr": 1e-5, "smooth_dr": 1e-5}
        self.dice = DiceLoss(include_background=False, to_onehot_y=True, softmax=True, **common)
        self.region_dice = DiceLoss(include_background=True, sigmoid=True, **common)

    def forward(self, logits: Logits, label: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            logits: Shape BCHWD, or several of them.
            label: Classes, shape B1HWD; or regions of 0 and 1, shape BCHWD.
        """
        return judge(self._one, logits, label)

    def _one(self, logits: Tensor, label: Tensor) -> Tensor:
        if label.shape[1] == logits.shape[1]:
            drawn = label.to(logits.dtype)
            overlap: Tensor = self.region_dice(logits, drawn)
            return overlap + binary_cross_entropy_with_logits(logits, drawn)
        dice: Tensor = self.dice(logits, label)
        return dice + cross_entropy(logits, label[:, 0].long())


class MultiLabelLoss(nn.Module):
    """Binary cross-entropy of each finding's logit, the mean over the findings that are known."""

    def __init__(self, positive_weight: float = 1.0) -> None:
        """Prepare the loss.

        Args:
            positive_weight: How much more a finding that is there counts than one that is not.
        """
        super().__init__()
        self.positive_weight = positive_weight

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Compute the loss of logits and findings, 1, 0 or NaN, both (batch, findings)."""
        known = ~label.isnan()
        weight = torch.as_tensor(self.positive_weight, device=logits.device)
        each = binary_cross_entropy_with_logits(
            logits, label.nan_to_num().to(logits.dtype), pos_weight=weight, reduction="none"
        )
        return _mean_of_known(each, known)


class RegressionLoss(nn.Module):
    """Smooth absolute error of numbers on the scale of their range, -1 to 1.

    Girshick 2015, https://arxiv.org/abs/1504.08083, equation 3: squares near 0, absolute beyond
    `beta`, so that few cases that are far off do not lead.
    """

    def __init__(self, beta: float = 0.1) -> None:
        """Prepare the loss.

        Args:
            beta: Where squares end, in halves of the range.
        """
        super().__init__()
        self.beta = beta

    def forward(self, output: Tensor, label: Tensor) -> Tensor:
        """Compute the loss of numbers, NaN where they are unknown, of shape (batch, numbers)."""
        known = ~label.isnan()
        wanted = label.nan_to_num().to(output.dtype)
        return _mean_of_known(
            smooth_l1_loss(output, wanted, beta=self.beta, reduction="none"), known
        )


def _mean_of_known(values: Tensor, known: Tensor) -> Tensor:
    """Return the mean of the known values; 0, with gradients of 0, if none is known."""
    return (values * known).sum() / known.sum().clamp(min=1)
