"""Evidence for an attacker: proxies of people with known identities, or of unknown people."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from polyclinic.imaging.deformation import identity, sample, upsample, warp
from polyclinic_strategies.proxy.cases import CanonicalCase, group
from polyclinic_strategies.proxy.frame.frames import ratio_of
from polyclinic_strategies.proxy.generator import Field, shrink
from polyclinic_strategies.proxy.protection import TOP, draw_deformation

# number of keys of each visit whose texture is described; it is slow and hardly depends on the key
TEXTURES = 2
PATCHES = 2  # number along each axis
PATCH, LEAST_PATCH, STRIDES = 32, 16, 8  # edge of a patch in voxels; a network halves it thrice


@dataclass(frozen=True, eq=False)
class Evidence:
    """Proxies and originals of the same people.

    Attributes:
        proxies: (people, visits, keys, h, w, d), float16, every 4 mm: averages of the sent proxies.
        originals: (people, visits, h, w, d), float16.
        textures: (people, visits, at most 2 keys, features), see `describe_texture`.
        answers: (people, visits, classes - 1, h, w, d), float16, every 4 mm: the first key's true
            labels, warped. They are a cleaner view than what the service returns.
        patches: (people, visits, places, h, w, d), float16: parts of the first key's proxy around
            the middle, with its finest voxels.
    """

    proxies: Tensor
    originals: Tensor
    textures: Tensor
    answers: Tensor | None = None
    patches: Tensor | None = None

    @property
    def visits(self) -> int:
        """Number of visits of every person."""
        return int(self.proxies.shape[1])


def collect(
    field: Field, cases: Sequence[CanonicalCase], keys: int, seed: int, *, agree: bool = False
) -> Evidence:
    """Make proxies of everybody, with the same number of keys for every visit.

    Args:
        field: The generator; attackers have it, too.
        cases: Scans of people who came at least twice. As many visits of each are used as the
            person with the fewest has.
        keys: Number of proxies of each visit.
        seed: Seed of the keys.
        agree: Whether all visits of a person have the same keys.
    """
    people = group(cases)
    visits = min(len(each) for each in people)
    used = [person[:visits] for person in people]
    generator = torch.Generator().manual_seed(seed)
    made = []
    with torch.inference_mode():
        for person in used:
            seeds = [_draw_seeds(keys, generator) for _ in person]
            chosen = seeds[:1] * visits if agree else seeds
            made += [_make(field, case, each) for case, each in zip(person, chosen, strict=True)]
    shape = (len(used), visits)
    originals = torch.stack([case.coarse[0].half() for person in used for case in person])
    return Evidence(
        _stacked([each.proxies for each in made], shape),
        originals.view(*shape, *originals.shape[1:]),
        _stacked([each.textures for each in made], shape),
        _stack_known([each.answer for each in made], shape),
        _stack_known([each.patches for each in made], shape),
    )


def describe_texture(proxy: Tensor) -> Tensor:
    """Describe a proxy without its shape.

    The features are a histogram and, at three scales, the distributions of edges and of local
    contrast.

    Args:
        proxy: (H, W, D), in [0, 1].

    Returns:
        (features,).
    """
    features, level = [], proxy[None, None].float()
    brain = level > 0.1
    features.append(torch.histc(level[brain], 32, 0, 1) / brain.sum())
    for _ in range(3):
        inner = level[:, :, 1:-1, 1:-1, 1:-1]
        inside = inner > 0.1
        for axis in range(2, 5):
            size = level.shape[axis]
            ahead = level.narrow(axis, 2, size - 2) - level.narrow(axis, 0, size - 2)
            for other in range(2, 5):
                if other != axis:
                    ahead = ahead.narrow(other, 1, ahead.shape[other] - 2)
            features.append(torch.histc(ahead[inside].abs(), 12, 0, 0.8) / inside.sum())
        spread = (shrink(level**2, 2) - shrink(level, 2) ** 2).clamp(min=0).sqrt()
        level = shrink(level, 2)
        features.append(torch.histc(spread[level > 0.1], 12, 0, 0.4) / (level > 0.1).sum())
    return torch.cat(features).sqrt()


@dataclass(frozen=True, eq=False)
class _Made:
    """What is made of one scan, see `Evidence`."""

    proxies: Tensor
    textures: Tensor
    answer: Tensor | None
    patches: Tensor | None


def _draw_seeds(keys: int, generator: torch.Generator) -> list[int]:
    return [int(torch.randint(2**62, (), generator=generator)) for _ in range(keys)]


def _make(field: Field, case: CanonicalCase, seeds: Sequence[int]) -> _Made:
    images, textures = [], []
    answer = patches = None
    middle, shares = case.middle.float()[None], case.shares
    for number, seed in enumerate(seeds):
        ddf, _ = draw_deformation(field, case.coarse[None], seed)
        proxy = (warp(middle, upsample(ddf, middle.shape[2:])).clamp(0, 1) * TOP).round() / TOP
        images.append(shrink(proxy, 2)[0, 0].half())
        if number < TEXTURES:
            textures.append(describe_texture(proxy[0, 0]))
        if number == 0 and shares is not None:
            answer = warp(shares.float()[None], ddf)[0].half()
        if number == 0 and case.fine is not None:
            patches = _cut(case.fine, ddf)
    return _Made(torch.stack(images), torch.stack(textures), answer, patches)


def _cut(fine: Tensor, ddf: Tensor) -> Tensor | None:
    """Return patches of the proxy around its middle, (places, h, w, d); None if it is too small."""
    sizes = [min(PATCH, size // PATCHES // STRIDES * STRIDES) for size in fine.shape]
    if min(sizes) < LEAST_PATCH:
        return None
    volume, ratio = fine[None, None].float() / TOP, ratio_of(fine.shape, ddf.shape[2:])
    found = []
    for place in np.ndindex(PATCHES, PATCHES, PATCHES):
        low = [
            (whole - PATCHES * size) // 2 + size * index
            for whole, size, index in zip(fine.shape, sizes, place, strict=True)
        ]
        points = identity(sizes) + torch.tensor(low).view(1, 3, 1, 1, 1)
        points = points + ratio * sample(ddf, (points + 0.5) / ratio - 0.5)
        patch = (sample(volume, points)[0, 0].clamp(0, 1) * TOP).round() / TOP
        found.append(patch.half())
    return torch.stack(found)


def _stacked(parts: Sequence[Tensor], shape: tuple[int, int]) -> Tensor:
    return torch.stack(list(parts)).view(*shape, *parts[0].shape)


def _stack_known(parts: Sequence[Tensor | None], shape: tuple[int, int]) -> Tensor | None:
    """Stack what every scan has; None if one lacks it."""
    known = [part for part in parts if part is not None]
    return _stacked(known, shape) if len(known) == len(parts) else None
