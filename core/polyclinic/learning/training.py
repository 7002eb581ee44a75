"""Loops: train a network for one round, and evaluate it on its own grid.

A network takes `image` of shape BCHWD (BCHW in 2-D) and returns logits: B, outputs, then the same
axes; where an answer is about the whole image B, outputs. While it trains it may return a list of
logits, the full size first (deep supervision). All work happens on the device that holds the
network's parameters.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from polyclinic.learning.metrics import Evaluation
from polyclinic.learning.modes import training_mode
from polyclinic.learning.optimizing.schedules import Round
from polyclinic.learning.optimizing.stepping import Stepper
from polyclinic.learning.preparation import Sample
from polyclinic.learning.state_dict import all_finite
from polyclinic.learning.tasks.registry import task_of

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
    stepper: Stepper | None = None,
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
        stepper: One that has made steps before, so that its moments go on, or with FedProx's term;
            None makes the configured one.
        place: Which of the training's rounds this is, for a rate that falls over all of them.
        on_step: Called with (step, steps, loss) after each step.

    Raises:
        ConfigError: The loss or the weights stopped being finite.
    """
    stepper = stepper or Stepper(network, training)
    optimizer = stepper.optimizer
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
    if not all_finite(stepper.weights):
        _finite(math.nan, steps, training)
    return FitResult(total / seen, steps, len(loader.dataset) // data.samples_per_case)  # type: ignore[arg-type]


def evaluate(
    network: nn.Module,
    cases: Iterable[Sample],
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
        Segmentation: mean Dice of each foreground class or region over the cases. Classification:
        recall of each class. Findings: AUROC of each. Numbers: closeness of each. Images are not
        mirrored, whatever `data.mirrored_inference` says.
    """
    loss_of = instantiate(training.loss) if training is not None else None
    task, losses = task_of(data), []
    tally = task.tally(data)
    with training_mode(network, train=False), torch.inference_mode():
        for sample in cases:
            logits = infer(network, sample.image, data)
            assert sample.label is not None
            tally.add(task.decide(logits, data), task.truth(sample.label, data))
            if loss_of is not None:
                target = task.target(sample.label, data)[None].to(logits.device)
                losses.append(float(judge(loss_of, logits[None], target)))
    return tally.evaluation(sum(losses) / len(losses) if losses else None)


def infer(
    network: nn.Module, volume: Tensor, data: DataConfig, *, mirrored: bool = False
) -> Tensor:
    """Compute the logits of one preprocessed image; call in evaluation mode, without gradients.

    Args:
        network: 2-D networks read the axial slices, in batches.
        volume: float32, CXYZ, on the network's grid.
        data: Task and patch.
        mirrored: Whether to take the mean over mirrored images.

    Returns:
        Segmentation: shape (outputs, X, Y, Z). Of a whole image: shape (outputs,); for slices the
            mean over them.
    """
    device = device_of(network)
    called = _Mirrored(network, mirrored_axes(data)) if mirrored else network
    if not data.kind.per_voxel:
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
