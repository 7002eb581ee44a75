"""Losses of networks that are judged at several sizes."""

from collections.abc import Sequence

import torch
from monai.losses import DiceLoss
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate


class SegmentationLoss(nn.Module):
    """Dice and cross-entropy of class logits, the mean over the sizes that a network returns.

    A size half as large as another weighs half as much. Labels are brought to each size by the
    nearest voxel.

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

    def forward(self, logits: Tensor | Sequence[Tensor], label: Tensor) -> Tensor:
        """Compute the loss of logits of shape BCHWD, or several of them, for labels B1HWD."""
        several = [logits] if isinstance(logits, Tensor) else list(logits)
        weights = [0.5**size for size in range(len(several))]
        losses = [
            weight * self._one(each, label) for weight, each in zip(weights, several, strict=True)
        ]
        return torch.stack(losses).sum() / sum(weights)

    def _one(self, logits: Tensor, label: Tensor) -> Tensor:
        if logits.shape[2:] != label.shape[2:]:
            label = interpolate(label.float(), logits.shape[2:], mode="nearest-exact")
        dice: Tensor = self.dice(logits.float(), label)
        return dice + cross_entropy(logits.float(), label[:, 0].long())
