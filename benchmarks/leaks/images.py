"""Images that are attacked, and the small network and training that they are attacked in."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from monai.metrics import SSIMMetric
from torch import Tensor, nn

from polyclinic.config.compose import load_config
from polyclinic.config.schemas import TrainingConfig
from polyclinic.learning.optimizing.stepping import Stepper
from polyclinic.learning.private.accounting import Spending
from polyclinic.learning.private.fitting import private_step
from polyclinic.learning.private.plan import PrivatePlan

SIDE = 28
DELTA = 1e-5
NO_NOISE = 1e-9  # noise multiplier of clipping alone


def read_images(data: Path | None, count: int) -> tuple[Tensor, Tensor]:
    """Return images of 0 to 1, (count, 1, 28, 28), and labels of 0 and 1.

    Args:
        data: Folder with pneumoniamnist.npz; None: bright spots are drawn.
        count: Number of images.
    """
    if data is None:
        return draw_spots(count)
    with np.load(data / "pneumoniamnist.npz") as file:
        images, labels = file["train_images"], file["train_labels"]
    shuffled = np.random.default_rng(0).permutation(len(images))
    classes = [shuffled[labels[shuffled].flatten() == each] for each in (0, 1)]
    half = min(len(each) for each in classes)
    order = np.stack([each[:half] for each in classes], 1).flatten()[:count]  # as many of each
    chosen = torch.from_numpy(images[order]).float()[:, None] / 255
    return chosen, torch.from_numpy(labels[order]).long().flatten()


def draw_spots(count: int) -> tuple[Tensor, Tensor]:
    """Draw images with a spot each, large or small."""
    generator = torch.Generator().manual_seed(0)
    axis = torch.arange(SIDE).float()
    images, labels = [], torch.arange(count) % 2
    for label in labels:
        x, y = (torch.rand(2, generator=generator) * 14 + 7).tolist()
        radius = 3.0 + 3.0 * int(label)
        spot = torch.exp(-((axis[:, None] - x) ** 2 + (axis - y) ** 2) / (2 * radius**2))
        images.append(spot + 0.05 * torch.rand(SIDE, SIDE, generator=generator))
    return torch.stack(images)[:, None].clamp(0, 1), labels.long()


def make_network(seed: int = 0) -> nn.Module:
    """Make a small network with smooth activations, which are the easiest to invert."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 12, 5, stride=2, padding=2),
        nn.GELU(),
        nn.Conv2d(12, 24, 5, stride=2, padding=2),
        nn.GELU(),
        nn.Conv2d(24, 24, 3, padding=1),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(24 * 49, 2),
    )


def training_of(rate: float) -> TrainingConfig:
    """Return AdamW on the cross-entropy."""
    made = load_config(["data=classification_2d", "model=densenet_2d", "training=classification"])
    optimizer = {"_target_": "torch.optim.AdamW", "lr": rate}
    loss = {"_target_": "torch.nn.CrossEntropyLoss"}
    return replace(made.training, learning_rate=rate, optimizer=optimizer, loss=loss)


def train_plainly(stepper: Stepper, images: Tensor, labels: Tensor, steps: int, batch: int) -> None:
    """Make steps of random batches."""
    for _ in range(steps):
        chosen = torch.randint(len(images), (batch,))
        stepper.step(images[chosen], labels[chosen])


def train_privately(
    stepper: Stepper, images: Tensor, labels: Tensor, spending: Spending, clip: float = 1.0
) -> None:
    """Make private steps; each image is a patient."""
    plan = PrivatePlan(len(images), spending, clip, DELTA)
    for _ in range(spending.steps):
        drawn = torch.nonzero(torch.rand(len(images)) < spending.share).flatten().tolist()
        patients = ({"image": images[[at]], "label": labels[[at]]} for at in drawn)
        private_step(stepper, patients, plan)


def similarity(found: Tensor, wanted: Tensor) -> Tensor:
    """Return the SSIM of each pair of images, (batch,)."""
    measured: Tensor = SSIMMetric(spatial_dims=2, data_range=1.0)(found, wanted)
    return measured.flatten()
