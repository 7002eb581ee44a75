"""Attackers that try to recognize people by their proxies.

All are trained on proxies, which anybody with the generator can make. An attacker knows the
identities of the people in `training`. It then says which visits in `test`, of people that it never
saw, are of the same person. `attack` runs all attackers, several times with other seeds, and the
strongest restart counts: an attacker that was not retrained on proxies, or only once, says little.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

import torch
from torch import Tensor, nn
from torch.nn import functional

from polyclinic.imaging.deformation import upsample, warp
from polyclinic.learning.modes import bf16_autocast, channels_last
from polyclinic_strategies.proxy.attacks.evidence import Evidence
from polyclinic_strategies.proxy.attacks.verification import Recognition, likenesses, score
from polyclinic_strategies.proxy.generator import displace
from polyclinic_strategies.proxy.losses import recognition, roughness
from polyclinic_strategies.proxy.networks.flow_generator import FlowGenerator
from polyclinic_strategies.proxy.networks.identity import IdentityNetwork

FORMAT = torch.channels_last_3d
SIAMESE = "Siamese, proxy and proxy"
COMPONENTS = 48  # largest number of components of a whitened description
OnAttack = Callable[[str, int, Recognition], None]
Describe = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class AttackTraining:
    """Length of an attacker's training.

    Attributes:
        siamese_steps: Number of steps of the Siamese networks.
        registration_steps: Number of steps of the network that registers to the atlas.
        batch: Number of pairs, or images, in a step.
        restarts: Number of seeds.
        only: `(SIAMESE,)` for the Siamese network between proxies alone; empty for all attackers.
    """

    siamese_steps: int = 300
    registration_steps: int = 250
    batch: int = 24
    restarts: int = 3
    only: tuple[str, ...] = ()


def attack(
    training: Evidence,
    test: Evidence,
    atlas: Tensor,
    settings: AttackTraining,
    on_attack: OnAttack | None = None,
) -> dict[str, list[Recognition]]:
    """Run every attacker.

    Args:
        training: People whose names the attackers know; none of them is in `test`.
        test: People to be recognized.
        atlas: (1, 1, h, w, d), the reference with voxels of 4 mm.
        settings: Length of the training.
        on_attack: Called with every result.

    Returns:
        Attacker to its results, one for each restart.
    """
    found: dict[str, list[Recognition]] = {}
    for seed in range(settings.restarts):
        for name, likeness in _likenesses(training, test, atlas, settings, seed):
            result = score(likeness)
            found.setdefault(name, []).append(result)
            if on_attack is not None:
                on_attack(name, seed, result)
    return found


def strongest(found: Mapping[str, Sequence[Recognition]]) -> tuple[str, float, float]:
    """Return the attacker with the highest mean AUC, that mean, and the highest AUC of all.

    The last is over all restarts of all attackers.
    """
    means = {name: mean(result.auc for result in results) for name, results in found.items()}
    name = max(means, key=lambda each: means[each])
    return name, means[name], max(result.auc for results in found.values() for result in results)


def _likenesses(
    training: Evidence, test: Evidence, atlas: Tensor, settings: AttackTraining, seed: int
) -> Iterator[tuple[str, Tensor]]:
    """Yield each attacker's name and its likenesses, (comparisons, people, people)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield from _siamese(training, test, settings)
        if settings.only == (SIAMESE,):
            return
        known, proxies = training.originals[:, :, None], test.proxies[:, :, 0]
        clean = _train_siamese(training.proxies, known, settings)
        yield "Siamese, proxy and original", _between_visits(proxies, clean, test.originals)
        register = _train_registration(training.proxies, atlas, settings)
        shape = _whitened(lambda images: _shape_of(register, images, atlas), training.proxies)
        yield "registration to the atlas, its field", _between_visits(proxies, shape, proxies)
        averaged = _between_visits(test.proxies, _averaged(shape), test.proxies)
        yield "registration, several keys averaged", averaged
        images = torch.cat([training.proxies, known], 2)
        rest = _whitened(lambda images: _rest_of(register, images, atlas), images)
        yield "nearest original after registration", _between_visits(proxies, rest, test.originals)
        texture, textures = _whitening(training.textures), test.textures[:, :, 0]
        yield "histogram and texture", _between_visits(textures, texture, textures)


def _siamese(
    training: Evidence, test: Evidence, settings: AttackTraining
) -> Iterator[tuple[str, Tensor]]:
    describe, proxies = _train_siamese(training.proxies, training.proxies, settings), test.proxies
    yield SIAMESE, _between_visits(proxies[:, :, 0], describe, proxies[:, :, 0])
    averaged = _between_visits(proxies, _averaged(describe), proxies)
    yield "Siamese, several keys averaged", averaged


def _between_visits(probes: Tensor, describe: Describe, gallery: Tensor) -> Tensor:
    """Return the likenesses of every two different visits: (comparisons, people, people)."""
    visits = range(probes.shape[1])
    with torch.inference_mode():
        asked = [describe(probes[:, visit].float()) for visit in visits]
        known = [describe(gallery[:, visit].float()) for visit in visits]
    pairs = [(one, other) for one in visits for other in visits if one != other]
    return torch.stack([likenesses(asked[one], known[other]) for one, other in pairs])


def _averaged(describe: Describe) -> Describe:
    """Average a description over keys: (people, keys, ...) -> (people, features)."""
    return lambda images: torch.stack(
        [functional.normalize(describe(images[:, key]), dim=1) for key in range(images.shape[1])]
    ).mean(0)


def _train_siamese(first: Tensor, second: Tensor, settings: AttackTraining) -> Describe:
    """Train an identity network that finds a person of `first` among those of `second`.

    Both are (people, visits, keys, h, w, d).
    """
    height, width, depth = first.shape[3:]
    network = channels_last(IdentityNetwork((height, width, depth)))
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2e-3, total_steps=settings.siamese_steps
    )
    people, visits = first.shape[:2]
    for _ in range(settings.siamese_steps):
        who = torch.randperm(people)[: settings.batch]
        one = torch.randint(visits, (len(who),))
        other = (one + torch.randint(1, visits, (len(who),))) % visits
        features = [
            _features_of(network, source[who, visit, torch.randint(source.shape[2], (len(who),))])
            for source, visit in ((first, one), (second, other))
        ]
        optimizer.zero_grad()
        recognition(*features).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    network.eval()
    return lambda images: torch.cat(
        [_features_of(network, part) for part in torch.split(images, 16)]
    )


def _features_of(network: IdentityNetwork, images: Tensor) -> Tensor:
    """Return the features of images (B, h, w, d)."""
    with bf16_autocast(images.device):
        features: Tensor = network(images[:, None].float().to(memory_format=FORMAT))
    return features.float()


def _train_registration(proxies: Tensor, atlas: Tensor, settings: AttackTraining) -> FlowGenerator:
    """Train, without labels, a network that registers a proxy to the atlas.

    Balakrishnan et al. 2019 (VoxelMorph), https://arxiv.org/abs/1809.05231.
    """
    network = channels_last(FlowGenerator())
    images = proxies.flatten(0, 2)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 3e-3, total_steps=settings.registration_steps
    )
    for _ in range(settings.registration_steps):
        batch = images[torch.randint(len(images), (8,))][:, None].float()
        velocity = _register(network, batch, atlas)
        registered = warp(batch, upsample(displace(velocity), batch.shape[2:]))
        loss = 100 * (registered - atlas).square().mean() + 0.3 * roughness(velocity)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    network.eval()
    return network


def _register(network: FlowGenerator, images: Tensor, atlas: Tensor) -> Tensor:
    height, width, depth = (size // 2 for size in atlas.shape[2:])
    no_key = images.new_zeros(len(images), 3, height, width, depth)
    with bf16_autocast(images.device):
        velocity: Tensor = network(
            torch.cat([images, atlas.expand_as(images)], 1).to(memory_format=FORMAT), no_key
        )
    return velocity.float()


def _shape_of(network: FlowGenerator, images: Tensor, atlas: Tensor) -> Tensor:
    """Return the velocity that brings an image to the atlas: (B, 3 voxels)."""
    return _register(network, images[:, None].float(), atlas).flatten(1)


def _rest_of(network: FlowGenerator, images: Tensor, atlas: Tensor) -> Tensor:
    """Return the difference from the atlas after registration: (B, voxels)."""
    batch = images[:, None].float()
    registered = warp(batch, upsample(displace(_register(network, batch, atlas)), batch.shape[2:]))
    return functional.avg_pool3d(registered - atlas, 2).flatten(1)


def _whitened(describe: Describe, images: Tensor) -> Describe:
    """Return a description in which people differ, and a person's visits and keys do not.

    It is learned from images (people, visits, keys, h, w, d).
    """
    with torch.inference_mode():
        described = torch.stack(
            [describe(person.flatten(0, 1)).view(*person.shape[:2], -1) for person in images]
        )
    whiten = _whitening(described)
    return lambda batch: whiten(describe(batch))


def _whitening(described: Tensor) -> Describe:
    """Return principal components, whitened by the spread within a person.

    It is learned from descriptions (people, visits, keys, features).

    Hatch et al. 2006 (within-class covariance normalization),
    https://doi.org/10.21437/Interspeech.2006-183.
    """
    people = described.shape[0]
    rows = described.flatten(1, 2).double()
    middle = rows.mean((0, 1))
    _, values, directions = torch.pca_lowrank(
        (rows - middle).flatten(0, 1), min(COMPONENTS, people - 1), center=False, niter=4
    )
    directions = directions[:, values > 1e-9]
    within = ((rows - rows.mean(1, keepdim=True)) @ directions).flatten(0, 1)
    covariance = within.T @ within / len(within)
    ridge = torch.eye(len(covariance)).double() * covariance.diagonal().mean()
    covariance = 0.9 * covariance + 0.1 * ridge
    factor = torch.linalg.cholesky(torch.linalg.inv(covariance))
    return lambda features: ((features.double() - middle) @ directions @ factor).float()
