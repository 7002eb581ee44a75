"""Plain loops: train a network for one round, evaluate it, predict with it on an image's own grid.

A network takes `image` of shape BCHWD (BCHW in 2-D) and returns logits: B, classes, then the same
axes; in a classification B, classes. All work happens on the device that holds the network's
parameters.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from polyclinic.config.compose import instantiate
from polyclinic.config.schemas import DataConfig, TrainingConfig
from polyclinic.errors import ConfigError
from polyclinic.imaging.datasets import Case, SiteDataset, Split, evaluation_cases
from polyclinic.imaging.grids import resample
from polyclinic.imaging.headers import Grid, Header, check_header
from polyclinic.imaging.volumes import read_label
from polyclinic.learning.augmentation import feature_shifts
from polyclinic.learning.metrics import Evaluation, dice_per_class, recall_per_class, summarize
from polyclinic.learning.modes import training_mode
from polyclinic.learning.preparation import Sample, as_batch, prepare_image

OVERLAP = 0.25  # of neighbouring windows
SLICES_AT_ONCE = 16
SLAB = 24  # planes of the native grid that are interpolated at once


@dataclass(frozen=True)
class FitResult:
    """What one round of training did."""

    loss: float  # mean over the samples, without the proximal term
    steps: int
    num_examples: int  # training cases, the weight of this site in an average


@dataclass(frozen=True)
class CaseScore:
    """What one case scored."""

    name: str
    split: Split
    # segmentation: Dice of each foreground class, NaN if in neither map; classification: probabilities
    scores: dict[str, float]
    score: float  # mean Dice; or 1.0 if the class is right, 0.0 if not


def fit(
    network: nn.Module,
    loader: DataLoader[dict[str, Tensor]],
    training: TrainingConfig,
    data: DataConfig,
    *,
    proximal_mu: float = 0.0,
    optimizer: torch.optim.Optimizer | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
) -> FitResult:
    """Train in place for `training.epochs` passes; the same loader seed and weights give the same result, bit for bit.

    Args:
        network: Changed in place.
        loader: From `preparation.training_loader`.
        training: Optimizer, loss, epochs, generated shifts of features.
        data: For the number of samples drawn from one case.
        proximal_mu: Weight of FedProx's term mu / 2 * ||w - w_received||^2, which keeps w near the
            weights at entry.
        optimizer: One that has been used before, so that its moments go on; None makes the
            configured one.
        on_step: Called with (step, steps, loss) after each step.

    Raises:
        ConfigError: The loss or the weights stopped being finite.

    FedProx, Li et al. 2020, https://arxiv.org/abs/1812.06127.
    """
    device = device_of(network)
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    received = [weight.detach().clone() for weight in weights] if proximal_mu > 0 else []
    optimizer = optimizer or make_optimizer(network, training)
    loss_of = instantiate(training.loss)
    steps, step, total, seen = training.epochs * len(loader), 0, 0.0, 0
    with (
        training_mode(network, train=True),
        _own_randomness(loader),
        feature_shifts(network, training.shifts, torch.initial_seed()),
    ):
        for _ in range(training.epochs):
            for batch in loader:
                image, label = batch["image"].to(device), batch["label"].to(device)
                optimizer.zero_grad(set_to_none=True)
                loss = loss_of(network(image), label)
                loss.backward()
                for weight, anchor in zip(weights, received, strict=False):
                    if weight.grad is not None:
                        weight.grad.add_(weight.detach() - anchor, alpha=proximal_mu)
                optimizer.step()
                value, step = _finite(float(loss.detach()), step + 1, training), step + 1
                total, seen = total + value * len(image), seen + len(image)
                if on_step is not None:
                    on_step(step, steps, value)
    if not all(bool(torch.isfinite(weight).all()) for weight in weights):
        _finite(math.nan, steps, training)
    return FitResult(total / seen, steps, len(loader.dataset) // data.samples_per_case)  # type: ignore[arg-type]


def make_optimizer(network: nn.Module, training: TrainingConfig) -> torch.optim.Optimizer:
    """The configured optimizer over what is to be trained."""
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
                losses.append(float(loss_of(logits[None], target)))
    loss = sum(losses) / len(losses) if losses else None
    if data.task == "segmentation":
        return summarize(rows, data.labels[1:], loss, len(cases))
    recalls = recall_per_class(torch.tensor(predicted), torch.tensor(truths), classes)
    return summarize([recalls], data.labels, loss, len(cases))


def predict_label_map(
    network: nn.Module, image: Path | Sequence[Path], data: DataConfig
) -> tuple[NDArray[np.uint8], Header]:
    """Segment one image.

    Args:
        network: Left unchanged.
        image: One file, or one for each channel.
        data: What the network was trained on.

    Returns:
        Labels, uint8, the spatial shape of the file, and the file's header: ready for
        `volumes.write_label_map`.

    Raises:
        DataError: The typed fault of the file.
    """
    paths = (image,) if isinstance(image, Path) else tuple(image)
    header = check_header(paths[0])
    volume, grid, native = prepare_image(paths, data)
    with training_mode(network, train=False), torch.inference_mode():
        probabilities = infer(network, volume, data).softmax(0)
        labels = _label_natively(probabilities, grid, native)
    return labels.reshape(header.shape[:3]), header


def predict_class(network: nn.Module, image: Path | Sequence[Path], data: DataConfig) -> Tensor:
    """Probability of each class, float32, shape (classes,), on the CPU.

    Raises:
        DataError: The typed fault of the file.
    """
    volume, _, _ = prepare_image((image,) if isinstance(image, Path) else tuple(image), data)
    with training_mode(network, train=False), torch.inference_mode():
        return infer(network, volume, data).softmax(0).float().cpu()


def evaluate_natively(
    network: nn.Module,
    dataset: SiteDataset,
    data: DataConfig,
    split: Split = "test",
    on_case: Callable[[Case, NDArray[np.uint8] | int], None] | None = None,
) -> tuple[Evaluation, list[CaseScore]]:
    """Score a network as a hospital would use it: label maps on the images' own grids against the labels as drawn.

    Args:
        network: Left unchanged.
        dataset: The hospital's.
        data: What the network was trained on.
        split: Where the test split has no labels, the validation cases are used; each `CaseScore`
            says its split.
        on_case: Called with each case and its label map, or its predicted class.

    Raises:
        DataError: The typed fault of a file.
    """
    scored: list[CaseScore] = []
    rows, predicted, truths = [], [], []
    for case in evaluation_cases(dataset, split):
        if isinstance(case.label, Path):
            labels, _ = predict_label_map(network, case.image, data)
            truth = read_label(case.label, len(data.labels)).as_tensor()
            rows.append(
                dice_per_class(
                    torch.from_numpy(labels).view(-1), truth.reshape(-1), len(data.labels)
                )
            )
            one = summarize(rows[-1:], data.labels[1:], None, 1)
            scored.append(CaseScore(case.name, case.split, one.scores, one.score))
        else:
            assert case.label is not None
            probabilities = predict_class(network, case.image, data)
            chosen = int(probabilities.argmax())
            predicted.append(chosen)
            truths.append(case.label)
            table = dict(zip(data.labels, probabilities.tolist(), strict=True))
            scored.append(CaseScore(case.name, case.split, table, float(chosen == case.label)))
        if on_case is not None:
            on_case(case, labels if isinstance(case.label, Path) else chosen)
    if data.task == "segmentation":
        return summarize(rows, data.labels[1:], None, len(scored)), scored
    recalls = recall_per_class(torch.tensor(predicted), torch.tensor(truths), len(data.labels))
    return summarize([recalls], data.labels, None, len(scored)), scored


def infer(network: nn.Module, volume: Tensor, data: DataConfig) -> Tensor:
    """Logits of one preprocessed image; call in eval mode, without gradients.

    Args:
        network: 2-D networks read the axial slices, in batches.
        volume: float32, CXYZ, on the network's grid.
        data: Task and patch.

    Returns:
        Segmentation: shape (classes, X, Y, Z). Classification: shape (classes,); for slices the
            mean over them.
    """
    device = device_of(network)
    if data.task == "classification":
        return torch.cat(
            [
                network(part)
                for part in torch.split(as_batch(volume, data).to(device), SLICES_AT_ONCE)
            ]
        ).mean(0)
    batch = (volume[None] if data.spatial_dims == 3 else volume.permute(3, 0, 1, 2)).to(device)
    logits = torch.cat([_slide(network, part, data) for part in torch.split(batch, SLICES_AT_ONCE)])
    return logits[0] if data.spatial_dims == 3 else logits.permute(1, 2, 3, 0)


def _slide(network: nn.Module, batch: Tensor, data: DataConfig) -> Tensor:
    many = SLICES_AT_ONCE if data.spatial_dims == 2 else 2
    logits: Tensor = sliding_window_inference(
        batch, data.patch, many, network, overlap=OVERLAP, mode="gaussian"
    )
    return logits


def _label_natively(probabilities: Tensor, grid: Grid, native: Grid) -> NDArray[np.uint8]:
    """The most probable class on another grid, interpolated slab by slab so that memory stays small."""
    slabs = []
    for start in range(0, native.shape[0], SLAB):
        shift = np.eye(4)
        shift[0, 3] = start
        slab = Grid((min(SLAB, native.shape[0] - start), *native.shape[1:]), native.affine @ shift)
        slabs.append(_most_probable(resample(probabilities, grid, slab)).cpu())
    return np.asarray(torch.cat(slabs).numpy())


def _most_probable(probabilities: Tensor) -> Tensor:
    """Like `argmax(0)` as uint8, several times as fast for a few classes."""
    best, labels = probabilities[0].clone(), torch.zeros_like(probabilities[0], dtype=torch.uint8)
    for number, values in enumerate(probabilities[1:], start=1):
        labels.masked_fill_(values > best, number)
        torch.maximum(best, values, out=best)
    return labels


def device_of(network: nn.Module) -> torch.device:
    """Where a network's parameters are."""
    return next((weight.device for weight in network.parameters()), torch.device("cpu"))


def _finite(value: float, step: int, training: TrainingConfig) -> float:
    if not math.isfinite(value):
        raise ConfigError(
            f"Training diverged at step {step} (loss {value}): lower training.learning_rate, which is {training.learning_rate:g}."
        )
    return value


@contextmanager
def _own_randomness(loader: DataLoader[Any]) -> Iterator[None]:
    """Dropout and generated shifts draw from the loader's seed, and the process's own random state is left as it was."""
    with torch.random.fork_rng():
        if loader.generator is not None:
            torch.manual_seed(loader.generator.initial_seed())
        yield
