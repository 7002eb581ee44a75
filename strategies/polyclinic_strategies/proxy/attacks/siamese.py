"""Attackers that learn, by Siamese networks, which images show the same person."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from polyclinic.learning.modes import bf16_autocast, channels_last
from polyclinic_strategies.proxy.attacks.contest import (
    AttackTraining,
    Contest,
    Describe,
    Found,
    averaged,
    between_visits,
    over_visits,
)
from polyclinic_strategies.proxy.losses import recognition
from polyclinic_strategies.proxy.networks.identity import IdentityNetwork

FORMAT = torch.channels_last_3d
SIAMESE = "Siamese, proxy and proxy"


class ProxyAndProxy:
    """Compare proxies with proxies; also averaged over keys, and over visits."""

    def __call__(self, contest: Contest) -> Found:
        """Yield results, see `Attacker`."""
        proxies, known = contest.test.proxies, contest.training.proxies
        describe = train_siamese(known, known, contest.settings)
        one = proxies[:, :, 0]
        yield SIAMESE, between_visits(one, describe, one)
        several = between_visits(proxies, averaged(describe), proxies)
        yield "Siamese, several keys averaged", several
        if contest.test.visits > 2:
            yield "Siamese, two visits averaged", over_visits(one, describe, one)


class ProxyAndOriginal:
    """Find a proxy's person among originals, also by the average over visits."""

    def __call__(self, contest: Contest) -> Found:
        """Yield results, see `Attacker`."""
        training, test = contest.training, contest.test
        describe = train_siamese(training.proxies, training.originals[:, :, None], contest.settings)
        one = test.proxies[:, :, 0]
        yield "Siamese, proxy and original", between_visits(one, describe, test.originals)
        if test.visits > 2:
            likeness = over_visits(one, describe, test.originals)
            yield "Siamese, two visits and original", likeness


class Answer:
    """Compare the label maps that the service returns, before they are unwarped."""

    def __call__(self, contest: Contest) -> Found:
        """Yield results, see `Attacker`; none if the label maps are not known."""
        known, asked = contest.training.answers, contest.test.answers
        if known is None or asked is None:
            return
        known = known[:, :, None]
        describe = train_siamese(known, known, contest.settings)
        yield "Siamese, returned labels", between_visits(asked, describe, asked)


class Patches:
    """Compare what proxies show at their finest resolution, in patches."""

    def __call__(self, contest: Contest) -> Found:
        """Yield results, see `Attacker`; none if there are no patches."""
        known, asked = contest.training.patches, contest.test.patches
        if known is None or asked is None:
            return
        describe = averaged(train_siamese(known, known, contest.settings, alike=True))
        yield "Siamese, patches of the finest voxels", between_visits(asked, describe, asked)


def train_siamese(
    first: Tensor, second: Tensor, settings: AttackTraining, *, alike: bool = False
) -> Describe:
    """Train an identity network that finds a person of `first` among those of `second`.

    Args:
        first, second: (people, visits, keys, h, w, d), or with channels before the height.
        settings: Length of the training.
        alike: Whether entries of the third axis differ in more than the key, as places do: then the
            same one is taken of both.

    Returns:
        Function from images, (B, h, w, d) or (B, channels, h, w, d), to features.
    """
    height, width, depth = first.shape[-3:]
    channels = first.shape[3] if first.ndim == 7 else 1
    network = channels_last(IdentityNetwork((height, width, depth), channels))
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2e-3, total_steps=settings.siamese_steps
    )
    draw = _drawing(first, second, settings.batch, alike)
    for _ in range(settings.siamese_steps):
        features = [_features_of(network, images) for images in draw()]
        optimizer.zero_grad()
        recognition(*features).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    network.eval()
    return lambda images: torch.cat(
        [_features_of(network, part) for part in torch.split(images, 16)]
    )


def _drawing(
    first: Tensor, second: Tensor, batch: int, alike: bool
) -> Callable[[], tuple[Tensor, Tensor]]:
    """Return a function that draws two visits each of some people."""
    people, visits = first.shape[:2]

    def draw() -> tuple[Tensor, Tensor]:
        who = torch.randperm(people)[:batch]
        one = torch.randint(visits, (len(who),))
        other = (one + torch.randint(1, visits, (len(who),))) % visits
        key = torch.randint(first.shape[2], (len(who),))
        probe = first[who, one, key]
        if not alike:
            key = torch.randint(second.shape[2], (len(who),))
        return probe, second[who, other, key]

    return draw


def _features_of(network: nn.Module, images: Tensor) -> Tensor:
    """Return the features of images (B, h, w, d) or (B, channels, h, w, d)."""
    images = images[:, None] if images.ndim == 4 else images
    with bf16_autocast(images.device):
        features: Tensor = network(images.float().to(memory_format=FORMAT))
    return features.float()
