"""Reconstruction: how well a network paints what is hidden of images that it was not trained on."""

from dataclasses import dataclass

import torch
from torch import Tensor

from polyclinic.learning.modes import bf16_autocast, training_mode
from polyclinic_strategies.universal.networks.network import UniversalNetwork
from polyclinic_strategies.universal.pretraining import Painter, Pretraining, hide, masked_loss

SHOWN = 8  # pictures at most
MASKS = 8  # of every image that was held back


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """One image that was held back, CXY or CXYZ.

    Attributes:
        original: The image.
        hidden: What of it is hidden; bool, one channel.
        painted: The image with that painted.
    """

    original: Tensor
    hidden: Tensor
    painted: Tensor


def measure(
    network: UniversalNetwork, painter: Painter, images: Tensor, settings: Pretraining, seed: int
) -> tuple[float, float, list[Reconstruction]]:
    """Measure how well hidden squares are painted.

    Args:
        network: Left as it is.
        painter: Painter that was trained with it.
        images: Images that were held back.
        settings: Says how much is hidden.
        seed: Seed of the masks.

    Returns:
        Mean absolute error on what was hidden, the same of the mean colour of what was seen, and
        pictures of at most eight.
    """
    device, generator = next(network.parameters()).device, torch.Generator().manual_seed(seed)
    wrong, plain = [], []
    with training_mode(network, train=False), torch.inference_mode(), bf16_autocast(device):
        for number in range(MASKS):
            hidden = hide(len(images), network.encoder.size, settings, generator).to(device)
            for image, mask in zip(
                torch.split(images.to(device), 64), torch.split(hidden, 64), strict=True
            ):
                wrong.append(float(masked_loss(network, painter, image, mask)) * len(image))
                plain.append(
                    float(
                        ((_mean_colour(image, mask) - image).abs() * mask).sum()
                        / (mask[0].sum() * image.shape[1])
                    )
                )
            if number == 0:
                chosen = torch.linspace(0, len(images) - 1, min(SHOWN, len(images))).round().long()
                shown, masks = images[chosen].to(device), hidden[chosen.to(device)]
                painted = painter(network, shown, masks)
                pictures = zip(
                    shown.cpu(),
                    masks.cpu(),
                    torch.where(masks, painted, shown).float().cpu(),
                    strict=True,
                )
                found = [Reconstruction(*each) for each in pictures]
    total = MASKS * len(images)
    return sum(wrong) / total, sum(plain) / total, found


def _mean_colour(images: Tensor, hidden: Tensor) -> Tensor:
    """Compute the mean colour of what is seen of each image."""
    axes = list(range(2, images.ndim))
    return (images * ~hidden).sum(axes, keepdim=True) / (~hidden).sum(axes, keepdim=True)
