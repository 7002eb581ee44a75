"""Loss for hospitals with different kinds of tasks."""

from typing import Any

from monai.losses import DiceCELoss
from torch import Tensor, nn
from torch.nn import functional


class TaskLoss(nn.Module):
    """Loss by the kind of labels: cross-entropy, with Dice for a segmentation."""

    def __init__(self, label_smoothing: float = 0.0) -> None:
        """Build it.

        Args:
            label_smoothing: Share that is smoothed in a classification.
        """
        super().__init__()
        self.label_smoothing = label_smoothing
        options: dict[str, Any] = {"to_onehot_y": True, "softmax": True, "include_background": True}
        self.dense = DiceCELoss(**options)

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Compute the mean over the batch.

        Args:
            logits: (batch, classes), or (batch, classes, *size).
            label: int64: (batch,), or (batch, 1, *size).
        """
        if logits.ndim == 2:
            return functional.cross_entropy(logits, label, label_smoothing=self.label_smoothing)
        loss: Tensor = self.dense(logits, label)
        return loss
