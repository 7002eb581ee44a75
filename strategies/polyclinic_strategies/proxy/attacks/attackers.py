"""Who tries to recognize people by their proxies. All are trained on proxies, which anybody with the generator can make.

An attacker is told who is who among the people of `training`, and then says of `test`, whom it never saw, which visits are of the
same person. `attack` runs them all, several times with other seeds, and the strongest restart counts: an attacker that was not
retrained on proxies, or only once, says little.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

import torch
from torch import Tensor, nn
from torch.nn import functional

from polyclinic.imaging.deformation import upsample, warp
from polyclinic.learning.modes import quick, quicken
from polyclinic_strategies.proxy.attacks.evidence import Evidence
from polyclinic_strategies.proxy.attacks.verification import Recognition, likenesses, score
from polyclinic_strategies.proxy.generator import displace
from polyclinic_strategies.proxy.losses import recognition, roughness
from polyclinic_strategies.proxy.networks.flow_generator import FlowGenerator
from polyclinic_strategies.proxy.networks.identity import IdentityNetwork

FORMAT = torch.channels_last_3d
SIAMESE = "Siamese, proxy and proxy"
COMPONENTS = 48  # of a whitened description, at most
OnAttack = Callable[[str, int, Recognition], None]
Describe = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class AttackTraining:
    """How long an attacker trains.

    Attributes:
        siamese_steps: Of the Siamese networks.
        registration_steps: Of the network that registers to the atlas.
        batch: Pairs, or images, in a step.
        restarts: Seeds.
        only: `(SIAMESE,)`: the Siamese network between proxies alone; empty: all attackers.
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
    """Let every attacker try.

    Args:
        training: People whose names the attackers know; nobody of them is in `test`.
        test: People to be recognized.
        atlas: (1, 1, h, w, d), the reference every 4 mm.
        settings: How long they train.
        on_attack: Told of every result.

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
    """The attacker with the highest mean AUC, that mean, and the highest AUC of any restart of any attacker."""
    means = {name: mean(result.auc for result in results) for name, results in found.items()}
    name = max(means, key=lambda each: means[each])
    return name, means[name], max(result.auc for results in found.values() for result in results)


def _likenesses(
    training: Evidence, test: Evidence, atlas: Tensor, settings: AttackTraining, seed: int
) -> Iterator[tuple[str, Tensor]]:
    """Each attacker's name and its (comparisons, people, people)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield from _siamese(training, test, settings)
        if settings.only == (SIAMESE,):
            return
        originals = training.originals[:, :, None]
        clean = _train_siamese(training.proxies, originals, settings)
        yield (
            "Siamese, proxy and original",
            _between_visits(test.proxies[:, :, 0], clean, clean, test.originals),
        )
        register = _train_registration(training.proxies, atlas, settings)
        shape = _whitened(lambda images: _shape_of(register, images, atlas), training.proxies)
        yield (
            "registration to the atlas, its field",
            _between_visits(test.proxies[:, :, 0], shape, shape, test.proxies[:, :, 0]),
        )
        yield (
            "registration, several keys averaged",
            _between_visits(test.proxies, _averaged(shape), _averaged(shape), test.proxies),
        )
        rest = _whitened(
            lambda images: _rest_of(register, images, atlas),
            torch.cat([training.proxies, originals], 2),
        )
        yield (
            "nearest original after registration",
            _between_visits(test.proxies[:, :, 0], rest, rest, test.originals),
        )
        texture = _whitening(training.textures)
        yield (
            "histogram and texture",
            _between_visits(test.textures[:, :, 0], texture, texture, test.textures[:, :, 0]),
        )


def _siamese(
    training: Evidence, test: Evidence, settings: AttackTraining
) -> Iterator[tuple[str, Tensor]]:
    tell = _train_siamese(training.proxies, training.proxies, settings)
    yield SIAMESE, _between_visits(test.proxies[:, :, 0], tell, tell, test.proxies[:, :, 0])
    yield (
        "Siamese, several keys averaged",
        _between_visits(test.proxies, _averaged(tell), _averaged(tell), test.proxies),
    )


def _between_visits(
    probes: Tensor, tell: Describe, tell_gallery: Describe, gallery: Tensor
) -> Tensor:
    """Likenesses of every two different visits: (comparisons, people, people)."""
    visits = probes.shape[1]
    with torch.inference_mode():
        told = [tell(probes[:, visit].float()) for visit in range(visits)]
        kept = [tell_gallery(gallery[:, visit].float()) for visit in range(visits)]
    return torch.stack(
        [
            likenesses(told[one], kept[other])
            for one in range(visits)
            for other in range(visits)
            if one != other
        ]
    )


def _averaged(tell: Describe) -> Describe:
    """What is told of a person on average over keys: (people, keys, ...) -> (people, features)."""
    return lambda images: torch.stack(
        [functional.normalize(tell(images[:, key]), dim=1) for key in range(images.shape[1])]
    ).mean(0)


def _train_siamese(first: Tensor, second: Tensor, settings: AttackTraining) -> Describe:
    """An identity network that finds a person of `first` among those of `second`; both (people, visits, keys, h, w, d)."""
    height, width, depth = first.shape[3:]
    network = quicken(IdentityNetwork((height, width, depth)))
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2e-3, total_steps=settings.siamese_steps
    )
    people, visits = first.shape[:2]
    for _ in range(settings.siamese_steps):
        who = torch.randperm(people)[: settings.batch]
        one = torch.randint(visits, (len(who),))
        other = (one + torch.randint(1, visits, (len(who),))) % visits
        told = [
            _tell(network, source[who, visit, torch.randint(source.shape[2], (len(who),))])
            for source, visit in ((first, one), (second, other))
        ]
        optimizer.zero_grad()
        recognition(*told).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    network.eval()
    return lambda images: torch.cat([_tell(network, part) for part in torch.split(images, 16)])


def _tell(network: IdentityNetwork, images: Tensor) -> Tensor:
    """Features of images (B, h, w, d)."""
    with quick(images.device):
        features: Tensor = network(images[:, None].float().to(memory_format=FORMAT))
    return features.float()


def _train_registration(proxies: Tensor, atlas: Tensor, settings: AttackTraining) -> FlowGenerator:
    """A network that registers a proxy to the atlas, trained without labels.

    Balakrishnan et al. 2019 (VoxelMorph), https://arxiv.org/abs/1809.05231.
    """
    network = quicken(FlowGenerator())
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
    with quick(images.device):
        velocity: Tensor = network(
            torch.cat([images, atlas.expand_as(images)], 1).to(memory_format=FORMAT), no_key
        )
    return velocity.float()


def _shape_of(network: FlowGenerator, images: Tensor, atlas: Tensor) -> Tensor:
    """The velocity that brings an image to the atlas: (B, 3 voxels)."""
    return _register(network, images[:, None].float(), atlas).flatten(1)


def _rest_of(network: FlowGenerator, images: Tensor, atlas: Tensor) -> Tensor:
    """What differs from the atlas after registration: (B, voxels)."""
    batch = images[:, None].float()
    registered = warp(batch, upsample(displace(_register(network, batch, atlas)), batch.shape[2:]))
    return functional.avg_pool3d(registered - atlas, 2).flatten(1)


def _whitened(describe: Describe, images: Tensor) -> Describe:
    """A description in which people differ and a person's visits and keys do not, learned from (people, visits, keys, h, w, d)."""
    with torch.inference_mode():
        described = torch.stack(
            [describe(person.flatten(0, 1)).view(*person.shape[:2], -1) for person in images]
        )
    whiten = _whitening(described)
    return lambda batch: whiten(describe(batch))


def _whitening(described: Tensor) -> Describe:
    """Principal components, then whitening by the spread within a person: (people, visits, keys, features).

    Hatch et al. 2006 (within-class covariance normalization), https://doi.org/10.21437/Interspeech.2006-183.
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
    covariance = (
        0.9 * covariance + 0.1 * torch.eye(len(covariance)).double() * covariance.diagonal().mean()
    )
    factor = torch.linalg.cholesky(torch.linalg.inv(covariance))
    return lambda features: ((features.double() - middle) @ directions @ factor).float()
