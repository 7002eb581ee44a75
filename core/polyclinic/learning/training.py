"""Loops: train a network for one round, and evaluate it on its own grid.

A network takes `image` of shape BCHWD (BCHW in 2-D) and returns logits: B, classes, then the same
axes; in a classification B, classes. While it trains it may return a list of logits, the full size
first (deep supervision). All work happens on the device that holds the network's
parameters.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, combinations, islice, repeat
from typing import Any

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn
from torch.utils.data import DataLoader

from polyclinic.config.compose import instantiate
from polyclinic.config.mirroring import mirrored_axes
from polyclinic.config.schemas import DataConfig, TrainingConfig
from polyclinic.errors import ConfigError
from polyclinic.learning.augmenting.feature_shifts import feature_shifts
from polyclinic.learning.crops import as_batch
from polyclinic.learning.losses import judge
from polyclinic.learning.metrics import Evaluation, dice_per_class, recall_per_class, summarize
from polyclinic.learning.modes import training_mode
from polyclinic.learning.optimizing.schedules import Round
from polyclinic.learning.optimizing.stepping import Stepper
from polyclinic.learning.preparation import Sample

SLICES_AT_ONCE = 16
ONLY = Round()


@dataclass(frozen=True)
class FitResult:
    """Outcome of one round of training.

    Attributes:
        loss: Mean over the samples, without the proximal term.
        steps: Number of optimizer steps.
        num_examples: Number of training cases, the weight of this hospital in an average.
    """

    loss: float
    steps: int
    num_examples: int


def fit(
    network: nn.Module,
    loader: DataLoader[dict[str, Tensor]],
    training: TrainingConfig,
    data: DataConfig,
    *,
    proximal_mu: float = 0.0,
    optimizer: torch.optim.Optimizer | None = None,
    place: Round = ONLY,
    on_step: Callable[[int, int, float], None] | None = None,
) -> FitResult:
    """Train in place for `training.steps` steps; if that is 0, for `training.epochs` passes.

    The same loader seed and weights give the same result, bit for bit.

    Args:
        network: Changed in place.
        loader: From `loading.samples.training_loader`.
        training: Optimizer, loss, steps or epochs, schedule, precision, generated shifts of
            features. A loader with fewer batches than `steps` is read again.
        data: Says how many samples are drawn from one case.
        proximal_mu: Weight of FedProx's term mu / 2 * ||w - w_received||^2, which keeps w near the
            weights at entry.
        optimizer: One that has been used before, so that its moments go on; None makes the
            configured one.
        place: Which of the training's rounds this is, for a rate that falls over all of them.
        on_step: Called with (step, steps, loss) after each step.

    Raises:
        ConfigError: The loss or the weights stopped being finite.

    FedProx, Li et al. 2020, https://arxiv.org/abs/1812.06127.
    """
    optimizer = optimizer or make_optimizer(network, training)
    stepper = Stepper(network, training, optimizer, proximal_mu)
    steps, total, seen = training.steps or training.epochs * len(loader), 0.0, 0
    with (
        training_mode(network, train=True),
        _loader_randomness(loader),
        feature_shifts(network, training.shifts, torch.initial_seed()),
    ):
        batches = islice(chain.from_iterable(repeat(loader)), steps)
        for step, batch in enumerate(batches, start=1):
            place.set_rate(optimizer, training.schedule, training.learning_rate, step, steps)
            image = batch["image"]
            value = _finite(stepper.step(image, batch["label"]), step, training)
            total, seen = total + value * len(image), seen + len(image)
            if on_step is not None:
                on_step(step, steps, value)
    if not all(bool(torch.isfinite(weight).all()) for weight in stepper.weights):
        _finite(math.nan, steps, training)
    return FitResult(total / seen, steps, len(loader.dataset) // data.samples_per_case)  # type: ignore[arg-type]


def make_optimizer(network: nn.Module, training: TrainingConfig) -> torch.optim.Optimizer:
    """Make the configured optimizer over what is to be trained."""
    optimizer = instantiate(training.optimizer, _partial_=True)(
        [weight for weight in network.parameters() if weight.requires_grad]
    )
    assert isinstance(optimizer, torch.optim.Optimizer)
    return optimizer


def evaluate(
    network: nn.Module,
    cases: Sequence[Sample],
    data: DataConfig,
    training: TrainingConfig | None = None,
) -> Evaluation:
    """Score prepared cases on the network's own grid: fast, for use after every round.

    Args:
        network: Left unchanged.
        cases: `PreparedSite.validation`, say; all of them labelled.
        data: Task, labels and patch.
        training: If given, its loss is reported too.

    Returns:
        Segmentation: mean Dice of each foreground class over the cases. Classification: recall of
            each class.
    """
    loss_of = instantiate(training.loss) if training is not None else None
    losses, rows, predicted, truths, classes = [], [], [], [], len(data.labels)
    with training_mode(network, train=False), torch.inference_mode():
        for sample in cases:
            logits = infer(network, sample.image, data)
            if isinstance(sample.label, Tensor):
                truth = sample.label.to(logits.device)
                rows.append(dice_per_class(logits.argmax(0), truth[0], classes).cpu())
                target = truth[None].long()
            else:
                assert sample.label is not None
                predicted.append(int(logits.argmax()))
                truths.append(sample.label)
                target = torch.tensor([sample.label], device=logits.device)
            if loss_of is not None:
                losses.append(float(judge(loss_of, logits[None], target)))
    loss = sum(losses) / len(losses) if losses else None
    if data.task == "segmentation":
        return summarize(rows, data.labels[1:], loss, len(cases))
    recalls = recall_per_class(torch.tensor(predicted), torch.tensor(truths), classes)
    return summarize([recalls], data.labels, loss, len(cases))


def infer(network: nn.Module, volume: Tensor, data: DataConfig) -> Tensor:
    """Compute the logits of one preprocessed image; call in evaluation mode, without gradients.

    Args:
        network: 2-D networks read the axial slices, in batches.
        volume: float32, CXYZ, on the network's grid.
        data: Task and patch.

    Returns:
        Segmentation: shape (classes, X, Y, Z). Classification: shape (classes,); for slices the
            mean over them.
    """
    device = device_of(network)
    called = _Mirrored(network, mirrored_axes(data)) if data.mirrored_inference else network
    if data.task == "classification":
        return torch.cat(
            [
                called(part)
                for part in torch.split(as_batch(volume, data).to(device), SLICES_AT_ONCE)
            ]
        ).mean(0)
    batch = (volume[None] if data.spatial_dims == 3 else volume.permute(3, 0, 1, 2)).to(device)
    logits = torch.cat([_slide(called, part, data) for part in torch.split(batch, SLICES_AT_ONCE)])
    return logits[0] if data.spatial_dims == 3 else logits.permute(1, 2, 3, 0)


class _Mirrored:
    """Mean of a network's logits over all combinations of mirrored axes, mirrored back."""

    def __init__(self, network: nn.Module, axes: Sequence[int]) -> None:
        self._network = network
        self._flips = [
            tuple(axis + 2 for axis in chosen)
            for count in range(len(axes) + 1)
            for chosen in combinations(axes, count)
        ]

    def __call__(self, image: Tensor) -> Tensor:
        total = torch.zeros(())
        for flip in self._flips:
            logits: Tensor = self._network(image.flip(flip))
            total = total.to(logits) + (logits.flip(flip) if logits.ndim == image.ndim else logits)
        return total / len(self._flips)


def _slide(network: Callable[[Tensor], Tensor], batch: Tensor, data: DataConfig) -> Tensor:
    many = SLICES_AT_ONCE if data.spatial_dims == 2 else 2
    logits: Tensor = sliding_window_inference(
        batch, data.patch, many, network, overlap=data.overlap, mode="gaussian"
    )
    return logits


def device_of(network: nn.Module) -> torch.device:
    """Return the device of a network's parameters."""
    return next((weight.device for weight in network.parameters()), torch.device("cpu"))


def _finite(value: float, step: int, training: TrainingConfig) -> float:
    if not math.isfinite(value):
        raise ConfigError(
            f"Training diverged at step {step} (loss {value}): lower training.learning_rate, which "
            f"is {training.learning_rate:g}."
        )
    return value


@contextmanager
def _loader_randomness(loader: DataLoader[Any]) -> Iterator[None]:
    """Let dropout and shifts draw from the loader's seed; keep the process's random state."""
    with torch.random.fork_rng():
        if loader.generator is not None:
            torch.manual_seed(loader.generator.initial_seed())
        yield
