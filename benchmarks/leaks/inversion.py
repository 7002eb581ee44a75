"""Gradient inversion: images whose gradient looks like the update that was seen.

Geiping et al. 2020, "Inverting Gradients", https://arxiv.org/abs/2003.14053: the cosine between
gradients is maximized over the images, with total variation as a prior. The attacker knows the
weights before, the labels, and how many images there were: more than a coordinator does.
"""

import copy
from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from leaks.images import similarity

RATE = 0.05
PRIORS = (0.0005, 0.02)  # weights of total variation: for exact gradients, and for noisy ones


def gradients(network: nn.Module, images: Tensor, labels: Tensor, *, graph: bool) -> Tensor:
    """Return the gradient of the mean loss, flat."""
    loss = cross_entropy(network(images), labels)
    found = torch.autograd.grad(loss, list(network.parameters()), create_graph=graph)
    return torch.cat([each.flatten() for each in found])


def invert(
    network: nn.Module,
    update: Tensor,
    labels: Tensor,
    iterations: int,
    seed: int,
    prior: float = PRIORS[0],
) -> Tensor:
    """Find images whose mean gradient points where an update does.

    Args:
        network: With the weights before the update.
        update: Against the gradient, flat; its length does not matter.
        labels: Of the images.
        iterations: Number of steps.
        seed: Of the first images.
        prior: Weight of total variation.

    Returns:
        Shape (images, 1, 28, 28), of 0 to 1.
    """
    wanted = normalize(-update, dim=0)
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(len(labels), 1, 28, 28, generator=generator).requires_grad_()
    optimizer = torch.optim.Adam([images], RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    for _ in range(iterations):
        found = normalize(gradients(network, images, labels, graph=True), dim=0)
        rough = (images.diff(dim=-1).abs().mean() + images.diff(dim=-2).abs().mean()) / 2
        cost = 1 - found @ wanted + prior * rough
        optimizer.zero_grad()
        cost.backward()
        assert images.grad is not None
        images.grad.sign_()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            images.clamp_(0, 1)
    return images.detach()


def update_of(before: nn.Module, after: nn.Module) -> Tensor:
    """Return the difference of weights, flat."""
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    return torch.cat([(new.detach() - old.detach()).flatten() for old, new in pairs])


def steps_on(network: nn.Module, images: Tensor, labels: Tensor, rate: float) -> nn.Module:
    """Return a copy after one step of SGD on each image by itself."""
    made = copy.deepcopy(network)
    optimizer = torch.optim.SGD(made.parameters(), rate)
    for at in range(len(images)):
        optimizer.zero_grad()
        cross_entropy(made(images[[at]]), labels[[at]]).backward()
        optimizer.step()
    return made


def matched(found: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Pair images so that their similarities are largest in all.

    Returns:
        The found images in the order of the wanted ones, and the similarities.
    """
    table = torch.stack([similarity(found, each.expand_as(found)) for each in wanted])
    _, order = linear_sum_assignment(-table.numpy())
    ordered = found[torch.as_tensor(order)]
    return ordered, similarity(ordered, wanted)


def mean_guess(images: Tensor, others: Sequence[int]) -> Tensor:
    """Return what somebody guesses who saw no update: the mean of other images."""
    return images[list(others)].mean(0, keepdim=True)
