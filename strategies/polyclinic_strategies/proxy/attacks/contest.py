"""What every attacker is given and returns, and how people's descriptions are compared."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from polyclinic_strategies.proxy.attacks.evidence import Evidence
from polyclinic_strategies.proxy.attacks.verification import likenesses
from polyclinic_strategies.proxy.generator import Field

COMPONENTS = 48  # largest number of components of a whitened description
Describe = Callable[[Tensor], Tensor]
# an attacker's name, and its likenesses: (comparisons, people, people)
Found = Iterator[tuple[str, Tensor]]


@dataclass(frozen=True)
class AttackTraining:
    """Length of an attacker's training.

    Attributes:
        siamese_steps: Number of steps of the Siamese networks.
        registration_steps: Number of steps of the network that registers to the atlas, and of the
            one that finds keys.
        batch: Number of pairs, or images, in a step.
        restarts: Number of seeds.
    """

    siamese_steps: int = 300
    registration_steps: int = 250
    batch: int = 24
    restarts: int = 3


@dataclass(frozen=True, eq=False)
class Contest:
    """What an attacker is given.

    Attributes:
        training: People whose names it knows; none of them is in `test`.
        test: People to be recognized.
        atlas: (1, 1, h, w, d), the reference with voxels of 4 mm.
        settings: Length of its training.
        field: The generator, for an attacker who draws keys.
    """

    training: Evidence
    test: Evidence
    atlas: Tensor
    settings: AttackTraining
    field: Field | None = None


class Attacker(Protocol):
    """One kind of attack, which may give several results."""

    def __call__(self, contest: Contest) -> Found:
        """Learn from people who are known; yield names and likenesses of those in the test."""


def between_visits(probes: Tensor, describe: Describe, gallery: Tensor) -> Tensor:
    """Return the likenesses of every two different visits: (comparisons, people, people)."""
    visits = range(probes.shape[1])
    asked, known = _described(probes, describe), _described(gallery, describe)
    pairs = [(one, other) for one in visits for other in visits if one != other]
    return torch.stack([likenesses(asked[one], known[other]) for one, other in pairs])


def over_visits(probes: Tensor, describe: Describe, gallery: Tensor) -> Tensor:
    """Return likenesses of one visit and the average over all others, as `between_visits`."""
    asked = [functional.normalize(each, dim=1) for each in _described(probes, describe)]
    known = _described(gallery, describe)
    visits = range(len(known))
    rest = [torch.stack([asked[one] for one in visits if one != other]).mean(0) for other in visits]
    return torch.stack([likenesses(rest[other], known[other]) for other in visits])


def averaged(describe: Describe) -> Describe:
    """Average a description over keys: (people, keys, ...) -> (people, features)."""
    return lambda images: torch.stack(
        [functional.normalize(describe(images[:, key]), dim=1) for key in range(images.shape[1])]
    ).mean(0)


def whitened(describe: Describe, images: Tensor) -> Describe:
    """Return a description in which people differ, and a person's visits and keys do not.

    It is learned from images (people, visits, keys, h, w, d).
    """
    with torch.inference_mode():
        described = torch.stack(
            [describe(person.flatten(0, 1)).view(*person.shape[:2], -1) for person in images]
        )
    whiten = whitening(described)
    return lambda batch: whiten(describe(batch))


def whitening(described: Tensor) -> Describe:
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


def _described(images: Tensor, describe: Describe) -> list[Tensor]:
    with torch.inference_mode():
        return [describe(images[:, visit].float()) for visit in range(images.shape[1])]
