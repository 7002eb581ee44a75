"""Masked image modelling: the encoder learns to paint what is hidden from it.

SimMIM, Xie et al. 2022, https://arxiv.org/abs/2111.09886: squares are hidden behind a colour that
is learned, one linear layer paints all voxels from the encoder's last map, and the loss is L1 on
what was hidden.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from polyclinic.errors import ConfigError
from polyclinic.learning.modes import bf16_autocast
from polyclinic.learning.optimizing.checkpoint import Checkpoint
from polyclinic.learning.optimizing.schedules import set_rate
from polyclinic_strategies.universal.images.views import batches, view
from polyclinic_strategies.universal.networks.network import UniversalNetwork

OnStep = Callable[[int, int, float], None]  # step, steps, loss
KEEP_EVERY = 50  # steps


@dataclass(frozen=True)
class Pretraining:
    """Length of the training, and how much is hidden.

    Attributes:
        steps: Number of optimizer steps.
        batch_size: Number of images in a step.
        learning_rate: Highest rate; it rises in the first steps and falls to zero along a cosine.
        mask_ratio: Share of the squares that are hidden.
        mask_size: Voxels of a square (or cube) along each axis.
    """

    steps: int = 1000
    batch_size: int = 64
    learning_rate: float = 0.001
    mask_ratio: float = 0.6
    mask_size: int = 8


class Painter(nn.Module):
    """Colour that hides, and layer that paints."""

    def __init__(self, network: UniversalNetwork) -> None:
        """Build it for a network's encoder."""
        super().__init__()
        encoder = network.encoder
        with torch.no_grad():
            last = encoder(
                torch.zeros(
                    1, encoder.in_channels, *encoder.size, device=next(encoder.parameters()).device
                )
            )[-1]
        self.factors = [
            whole // part for whole, part in zip(encoder.size, last.shape[2:], strict=True)
        ]
        convolution = nn.Conv2d if network.spatial_dims == 2 else nn.Conv3d
        self.colour = nn.Parameter(torch.zeros(1, encoder.in_channels, *(1 for _ in encoder.size)))
        self.paint = convolution(
            encoder.widths[-1], encoder.in_channels * math.prod(self.factors), 1
        )
        self.to(last.device)

    def forward(
        self, network: UniversalNetwork, image: Tensor, hidden: Tensor
    ) -> Float[Tensor, "batch channels *size"]:
        """Compute the whole image as the network paints it.

        Args:
            network: Reads the image.
            image: (batch, channels, *size).
            hidden: bool, (batch, 1, *size): what it does not see.
        """
        painted = self.paint(network.encoder(torch.where(hidden, self.colour, image))[-1]).float()
        dims = len(self.factors)
        split = painted.view(len(painted), -1, *self.factors, *painted.shape[2:])
        order = [
            0,
            1,
            *(axis for number in range(dims) for axis in (2 + dims + number, 2 + number)),
        ]
        whole: Tensor = split.permute(order).reshape(image.shape)
        return whole


def hide(
    count: int, size: tuple[int, ...], settings: Pretraining, generator: torch.Generator
) -> Bool[Tensor, "batch 1 *size"]:
    """Choose what is hidden: the same share of squares in every image.

    Raises:
        ConfigError: The squares do not fit into the image.
    """
    if any(length % settings.mask_size for length in size):
        raise ConfigError(
            f"mask_size={settings.mask_size}: must divide the image's size {list(size)}."
        )
    places = [length // settings.mask_size for length in size]
    number = round(settings.mask_ratio * math.prod(places))
    ranks = torch.rand(count, math.prod(places), generator=generator).argsort(1)
    mask = (ranks < number).view(count, 1, *places)
    for axis in range(2, mask.ndim):
        mask = mask.repeat_interleave(settings.mask_size, axis)
    return mask


def masked_loss(
    network: UniversalNetwork, painter: Painter, images: Tensor, hidden: Tensor
) -> Tensor:
    """Compute the mean absolute error on what was hidden (SimMIM, eq. 1)."""
    painted = painter(network, images, hidden)
    wrong = (painted - images).abs() * hidden
    loss: Tensor = wrong.sum() / (hidden.sum() * images.shape[1])
    return loss


def pretrain(
    network: UniversalNetwork,
    images: Float[Tensor, "images channels *size"],
    settings: Pretraining,
    seed: int,
    *,
    painter: Painter | None = None,
    checkpoint: Path | None = None,
    on_step: OnStep | None = None,
) -> list[float]:
    """Train the encoder in place, from the checkpoint if there is one.

    Args:
        network: Its encoder is trained; a head plays no part.
        images: About -1 to 1.
        settings: How.
        seed: Seed of batches, views and masks.
        painter: What paints; a new one if None.
        checkpoint: File that is written now and then; the caller removes it.
        on_step: Called after every step.

    Returns:
        The loss of every step, those before an interruption included.

    Raises:
        ConfigError: The loss is no longer finite, or the masks do not fit.
    """
    device = next(network.parameters()).device
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        painter = painter or Painter(network)
    trained = nn.ModuleDict({"encoder": network.encoder, "painter": painter})
    optimizer = torch.optim.AdamW(trained.parameters(), settings.learning_rate, weight_decay=0.05)
    keeper = Checkpoint(checkpoint, trained, optimizer, every=KEEP_EVERY)
    losses = keeper.resume()
    network.train()
    for step, chosen, generator in batches(
        len(images), settings.batch_size, settings.steps, seed, len(losses)
    ):
        batch = view(images[chosen], generator).to(device)
        hidden = hide(len(batch), network.encoder.size, settings, generator).to(device)
        set_rate(optimizer, settings.learning_rate, step, settings.steps)
        optimizer.zero_grad(set_to_none=True)
        with bf16_autocast(device):
            loss = masked_loss(network, painter, batch, hidden)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(finite(float(loss.detach()), step, settings.learning_rate))
        keeper.keep(losses, settings.steps)
        if on_step is not None:
            on_step(step, settings.steps, losses[-1])
    network.eval()
    return losses


def finite(loss: float, step: int, learning_rate: float) -> float:
    """Return the loss.

    Raises:
        ConfigError: It is NaN or Inf.
    """
    if not math.isfinite(loss):
        raise ConfigError(
            f"Training diverged at step {step} (loss {loss}): lower learning_rate, which is "
            f"{learning_rate:g}."
        )
    return loss
