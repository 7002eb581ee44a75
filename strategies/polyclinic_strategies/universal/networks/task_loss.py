"""Losses that conf/ names."""

from typing import Any

from monai.losses import DiceCELoss
from torch import Tensor, nn
from torch.nn import functional


class TaskLoss(nn.Module):
    """Cross-entropy of a classification, Dice and cross-entropy of a segmentation: whichever the labels are for."""

    def __init__(self, label_smoothing: float = 0.0) -> None:
        """Build it.

        Args:
            label_smoothing: Of a classification.
        """
        super().__init__()
        self.label_smoothing = label_smoothing
        options: dict[str, Any] = {"to_onehot_y": True, "softmax": True, "include_background": True}
        self.dense = DiceCELoss(**options)

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """The mean over the batch.

        Args:
            logits: (batch, classes), or (batch, classes, *size).
            label: int64: (batch,), or (batch, 1, *size).
        """
        if logits.ndim == 2:
            return functional.cross_entropy(logits, label, label_smoothing=self.label_smoothing)
        loss: Tensor = self.dense(logits, label)
        return loss
