"""The imprint layer of a dishonest coordinator, with and without protections."""

import torch
from imprint_models import imprint_gradients, imprint_layers, read_bins
from torch import Tensor, nn

from leaks.images import similarity
from polyclinic.errors import NotAllowed
from polyclinic_client.policy.imprint import check_imprint

BINS = 256
CLEAR = 0.9  # similarity from which on an image counts as taken


def imprint(images: Tensor, targets: Tensor, noise: float | None) -> tuple[Tensor, Tensor]:
    """Take images out of one batch's gradient.

    Args:
        images: All of the batch, (batch, 1, 28, 28).
        targets: Those of them that are looked for.
        noise: Noise multiplier of private training with gradients of length 1; None: plain.

    Returns:
        The most similar image that came out, for each target, and the similarities.
    """
    flat = images.flatten(1)
    layer, behind = imprint_layers(flat, BINS, 0)
    if noise is None:
        by_weight, by_bias = imprint_gradients(flat, layer, behind)
    else:
        by_weight, by_bias = _private(flat, layer, behind, noise)
    found = read_bins(by_weight, by_bias).nan_to_num(0, 0, 0).clamp(0, 1)
    found = found.reshape(-1, *images.shape[1:])
    best, scores = [], []
    for target in targets:
        similarities = similarity(found, target.expand_as(found))
        best.append(found[similarities.argmax()])
        scores.append(similarities.max())
    return torch.stack(best), torch.stack(scores)


def _private(
    flat: Tensor, layer: nn.Linear, behind: nn.Linear, noise: float
) -> tuple[Tensor, Tensor]:
    total = [torch.zeros_like(layer.weight), torch.zeros_like(layer.bias)]
    for image in flat:
        pair = imprint_gradients(image[None], layer, behind)
        length = float(torch.cat([each.flatten() for each in pair]).norm())
        for each, slope in zip(total, pair, strict=True):
            each.add_(slope, alpha=min(1.0, 1 / length) if length > 0 else 1.0)
    return tuple(each + noise * torch.randn_like(each) for each in total)  # type: ignore[return-value]


def is_refused(images: Tensor) -> bool:
    """Tell whether a hospital's guard refuses the layer."""
    layer, _ = imprint_layers(images.flatten(1), BINS, 0)
    try:
        check_imprint(layer.state_dict())
    except NotAllowed:
        return True
    return False
