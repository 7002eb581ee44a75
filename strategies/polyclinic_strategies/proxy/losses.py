"""Losses of the segmentation, of the field, and of the generator and the adversary."""

import torch
from torch import Tensor
from torch.nn import functional

from polyclinic.imaging.deformation import jacobian_determinant

TEMPERATURE = 0.1


def focal_tversky(
    probabilities: Tensor,
    labels: Tensor,
    known: Tensor,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 0.75,
) -> Tensor:
    """Return the mean over the foreground classes of (1 - TP / (TP + alpha FP + beta FN))^gamma.

    Args:
        probabilities: (B, classes, *spatial).
        labels: (B, *spatial), int64.
        known: (B, *spatial), 1 where the probabilities are valid, else 0.
        alpha: Weight of false positives.
        beta: Weight of false negatives.
        gamma: Below 1, a class that is nearly right still counts.

    Abraham & Khan 2019, https://arxiv.org/abs/1810.07842, whose 1/gamma of 4/3 is this gamma.
    """
    axes = tuple(range(2, probabilities.ndim))
    masks = functional.one_hot(labels, probabilities.shape[1]).movedim(-1, 1)
    truth = masks[:, 1:] * known[:, None]
    found = probabilities[:, 1:] * known[:, None]
    both = (found * truth).sum(axes)
    false, missed = found.sum(axes) - both, truth.sum(axes) - both
    index = (both + 1) / (both + alpha * false + beta * missed + 1)
    return (1 - index).clamp(min=1e-6).pow(gamma).mean()


def roughness(velocity: Tensor) -> Tensor:
    """Return the mean squared difference between neighbours, summed over the axes.

    The unit is squared voxels.
    """
    squares = [velocity.diff(dim=axis).square().mean() for axis in range(2, velocity.ndim)]
    return torch.stack(squares).sum()


def folding(ddf: Tensor, least: float = 0.2) -> Tensor:
    """Return the mean of how far det J falls below `least`; at 0, space would be folded."""
    return (least - jacobian_determinant(ddf)).clamp(min=0).mean()


def sameness(first: Tensor, second: Tensor, wanted: Tensor) -> Tensor:
    """Return how much less two proxies of a person differ than two strangers do; at least 0.

    Args:
        first, second: (B, C, *spatial), proxies by two keys.
        wanted: (B,), the mean squared difference of two strangers.
    """
    axes = tuple(range(1, first.ndim))
    return (1 - (first - second).square().mean(axes) / wanted.clamp(min=1e-6)).clamp(min=0).mean()


def recognition(first: Tensor, second: Tensor) -> Tensor:
    """Return the adversary's loss: cross entropy of identifying B people among each other.

    Row i of one argument has to be matched with row i of the other, among all rows, both ways.

    Args:
        first, second: (B, features), unit vectors of two visits of B people.

    van den Oord et al. 2018 (InfoNCE), https://arxiv.org/abs/1807.03748.
    """
    likeness = first @ second.T / TEMPERATURE
    who = torch.arange(len(likeness), device=likeness.device)
    return (functional.cross_entropy(likeness, who) + functional.cross_entropy(likeness.T, who)) / 2


def identity_leak(first: Tensor, second: Tensor) -> Tensor:
    """Return the generator's loss against the adversary, at least 0.

    It is the mean similarity of the same person less that of different people.

    Args:
        first, second: (B, features), unit vectors of two visits of B people.
    """
    likeness = first @ second.T
    same = likeness.diagonal()
    others = (likeness.sum() - same.sum()) / (likeness.numel() - len(same))
    return (same.mean() - others).clamp(min=0)
