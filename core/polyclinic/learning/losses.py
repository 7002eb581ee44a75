"""Losses of networks that are judged at several sizes."""

from collections.abc import Callable, Sequence

import torch
from monai.losses import DiceLoss
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

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
    """Dice and cross-entropy of class logits, the mean over the sizes that a network returns.

    Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z.
    """

    def __init__(self, batch: bool = True) -> None:
        """Prepare the loss.

        Args:
            batch: Whether Dice is computed over all of a batch; else of each image.
        """
        super().__init__()
        self.dice = DiceLoss(
            include_background=False,
            to_onehot_y=True,
            softmax=True,
            batch=batch,
            smooth_nr=1e-5,
            smooth_dr=1e-5,
        )

    def forward(self, logits: Logits, label: Tensor) -> Tensor:
        """Compute the loss of logits of shape BCHWD, or several of them, for labels B1HWD."""
        return judge(self._one, logits, label)

    def _one(self, logits: Tensor, label: Tensor) -> Tensor:
        dice: Tensor = self.dice(logits, label)
        return dice + cross_entropy(logits, label[:, 0].long())
