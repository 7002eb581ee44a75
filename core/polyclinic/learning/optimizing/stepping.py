"""One step of a training: precision, the loss of all sizes, FedProx's term, clipping."""

import torch
from torch import Tensor, nn

from polyclinic.config.compose import instantiate
from polyclinic.config.schemas import TrainingConfig
from polyclinic.learning.losses import judge
from polyclinic.learning.modes import find_dtype, layout_of


class Stepper:
    """Makes optimizer steps.

    With `training.precision` other than float32, convolutions compute in the device's fast type
    (`modes.find_dtype`) and layouts have channels last; weights, losses and the optimizer stay
    float32. float16 scales the loss, so that small gradients do not vanish, and leaves out a step
    whose gradients are not finite (Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740).

    Args:
        network: Changed in place.
        training: Optimizer, loss, precision and clipping.
        optimizer: Over the weights that are trained; None makes the configured one.
        proximal_mu: Weight of FedProx's term mu / 2 * ||w - w_received||^2, which keeps w near the
            weights at this moment.

    FedProx, Li et al. 2020, https://arxiv.org/abs/1812.06127.
    """

    def __init__(
        self,
        network: nn.Module,
        training: TrainingConfig,
        optimizer: torch.optim.Optimizer | None = None,
        proximal_mu: float = 0.0,
    ) -> None:
        optimizer = optimizer or make_optimizer(network, training)
        self.network, self.optimizer = network, optimizer
        self.weights = [weight for weight in network.parameters() if weight.requires_grad]
        self.device = next(network.parameters()).device
        self._loss_of = instantiate(training.loss)
        self._clip, self._mu = training.clip, proximal_mu
        self._fast, self._laid_out = training.precision != "float32", False
        self._received = [weight.detach().clone() for weight in self.weights if proximal_mu > 0]
        dtype = find_dtype(self.device, training.precision)
        self._cast = torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype == torch.float16)

    def step(self, image: Tensor, label: Tensor) -> float:
        """Make one step; return the loss before it, without the proximal term.

        Args:
            image: Shape BCHWD, or BCHW.
            label: Shape B1HWD, B1HW, or B.
        """
        loss = self.backward(image, label)
        self.scaler.unscale_(self.optimizer)
        self.update()
        return float(loss.detach())

    def backward(self, image: Tensor, label: Tensor) -> Tensor:
        """Compute the loss, and the gradients of nothing else; shapes as for `step`."""
        image = image.to(self.device, non_blocking=True)
        label = label.to(self.device, non_blocking=True)
        if self._fast:
            image = self._lay_out(image)
        self.optimizer.zero_grad(set_to_none=True)
        with self._cast:
            logits = self.network(image)
        loss = judge(self._loss_of, logits, label)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return loss

    def update(self) -> None:
        """Move the weights along the gradients that they have, and FedProx's term."""
        for weight, anchor in zip(self.weights, self._received, strict=False):
            if weight.grad is not None:
                weight.grad.add_(weight.detach() - anchor, alpha=self._mu)
        if self._clip > 0:
            torch.nn.utils.clip_grad_norm_(self.weights, self._clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _lay_out(self, image: Tensor) -> Tensor:
        """Put channels last, where convolutions are faster so."""
        if image.ndim < 4:
            return image
        layout = layout_of(image)
        if not self._laid_out:
            self.network.to(memory_format=layout)  # type: ignore[call-overload]
            self._laid_out = True
        return image.contiguous(memory_format=layout)


def make_optimizer(network: nn.Module, training: TrainingConfig) -> torch.optim.Optimizer:
    """Make the configured optimizer over what is to be trained."""
    optimizer = instantiate(training.optimizer, _partial_=True)(
        [weight for weight in network.parameters() if weight.requires_grad]
    )
    assert isinstance(optimizer, torch.optim.Optimizer)
    return optimizer
