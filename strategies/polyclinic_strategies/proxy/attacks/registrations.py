"""Attackers that register a proxy to the atlas, and the one that looks at its texture alone.

The registering network is that of Balakrishnan et al. 2019 (VoxelMorph),
https://arxiv.org/abs/1809.05231.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from polyclinic.imaging.deformation import upsample, warp
from polyclinic.learning.modes import bf16_autocast, channels_last
from polyclinic_strategies.proxy.attacks.contest import (
    AttackTraining,
    Contest,
    Found,
    averaged,
    between_visits,
    over_visits,
    whitened,
    whitening,
)
from polyclinic_strategies.proxy.generator import displace
from polyclinic_strategies.proxy.losses import roughness
from polyclinic_strategies.proxy.networks.flow_generator import FlowGenerator

BATCH = 8
FORMAT = torch.channels_last_3d


class Registration:
    """Compare how proxies have to be bent to become the atlas, and what is then left of them."""

    def __call__(self, contest: Contest) -> Found:
        """Yield results, see `Attacker`."""
        atlas, training, test = contest.atlas, contest.training, contest.test
        proxies, one = test.proxies, test.proxies[:, :, 0]
        register = train_registration(training.proxies, atlas, contest.settings)
        shape = whitened(lambda images: _shape_of(register, images, atlas), training.proxies)
        yield "registration to the atlas, its field", between_visits(one, shape, one)
        several = between_visits(proxies, averaged(shape), proxies)
        yield "registration, several keys averaged", several
        images = torch.cat([training.proxies, training.originals[:, :, None]], 2)
        rest = whitened(lambda images: _rest_of(register, images, atlas), images)
        nearest = between_visits(one, rest, test.originals)
        yield "nearest original after registration", nearest
        if test.visits > 2:
            yield "registration, two visits averaged", over_visits(one, shape, one)
            likeness = over_visits(one, rest, test.originals)
            yield "nearest original, two visits averaged", likeness


class Texture:
    """Compare histograms of brightness, edges and contrast, without shape."""

    def __call__(self, contest: Contest) -> Found:
        """Yield results, see `Attacker`."""
        texture, textures = whitening(contest.training.textures), contest.test.textures[:, :, 0]
        yield "histogram and texture", between_visits(textures, texture, textures)


def train_registration(proxies: Tensor, atlas: Tensor, settings: AttackTraining) -> FlowGenerator:
    """Train, without labels, a network that registers a proxy to the atlas."""
    network = channels_last(FlowGenerator())
    images = proxies.flatten(0, 2)

    def loss() -> Tensor:
        batch = images[torch.randint(len(images), (BATCH,))][:, None].float()
        velocity = predict_velocity(network, batch, atlas)
        registered = warp(batch, upsample(displace(velocity), batch.shape[2:]))
        return 100 * (registered - atlas).square().mean() + 0.3 * roughness(velocity)

    return fit_flow(network, settings.registration_steps, loss)


def fit_flow(network: FlowGenerator, steps: int, loss: Callable[[], Tensor]) -> FlowGenerator:
    """Train a network in place for so many steps; `loss` draws a batch and judges it."""
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        found = loss()
        optimizer.zero_grad()
        found.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    network.eval()
    return network


def predict_velocity(network: FlowGenerator, images: Tensor, atlas: Tensor) -> Tensor:
    """Return what a network that is given no key finds in images beside the atlas.

    Args:
        network: The network.
        images: (B, 1, h, w, d).
        atlas: (1, 1, h, w, d).

    Returns:
        (B, 3, h/2, w/2, d/2), a velocity in voxels of 8 mm.
    """
    height, width, depth = (size // 2 for size in atlas.shape[2:])
    no_key = images.new_zeros(len(images), 3, height, width, depth)
    with bf16_autocast(images.device):
        velocity: Tensor = network(
            torch.cat([images, atlas.expand_as(images)], 1).to(memory_format=FORMAT), no_key
        )
    return velocity.float()


def _shape_of(network: FlowGenerator, images: Tensor, atlas: Tensor) -> Tensor:
    """Return the velocity that brings an image to the atlas: (B, 3 voxels)."""
    return predict_velocity(network, images[:, None].float(), atlas).flatten(1)


def _rest_of(network: FlowGenerator, images: Tensor, atlas: Tensor) -> Tensor:
    """Return the difference from the atlas after registration: (B, voxels)."""
    batch = images[:, None].float()
    velocity = predict_velocity(network, batch, atlas)
    registered = warp(batch, upsample(displace(velocity), batch.shape[2:]))
    return functional.avg_pool3d(registered - atlas, 2).flatten(1)
