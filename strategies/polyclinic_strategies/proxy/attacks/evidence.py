"""Evidence for an attacker: proxies of people with known identities, or of unknown people."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from polyclinic.imaging.deformation import upsample, warp
from polyclinic_strategies.proxy.cases import CanonicalCase, group
from polyclinic_strategies.proxy.generator import Field, shrink
from polyclinic_strategies.proxy.protection import TOP, draw_deformation

# number of keys of each visit whose texture is described; it is slow and hardly depends on the key
TEXTURES = 2


@dataclass(frozen=True, eq=False)
class Evidence:
    """Proxies and originals of the same people.

    Attributes:
        proxies: (people, visits, keys, h, w, d), float16, every 4 mm: averages of the sent proxies.
        originals: (people, visits, h, w, d), float16.
        textures: (people, visits, at most 2 keys, features), see `describe_texture`.
    """

    proxies: Tensor
    originals: Tensor
    textures: Tensor

    @property
    def visits(self) -> int:
        """Number of visits of every person."""
        return int(self.proxies.shape[1])


def collect(field: Field, cases: Sequence[CanonicalCase], keys: int, seed: int) -> Evidence:
    """Make proxies of everybody, with the same number of keys for every visit.

    Args:
        field: The generator; attackers have it, too.
        cases: Scans of people who came at least twice. As many visits of each are used as the
            person with the fewest has.
        keys: Number of proxies of each visit.
        seed: Seed of the keys.
    """
    people = group(cases)
    visits = min(len(each) for each in people)
    generator = torch.Generator().manual_seed(seed)
    proxies, originals, textures = [], [], []
    with torch.inference_mode():
        for person in people:
            made = [_proxies(field, case, keys, generator) for case in person[:visits]]
            proxies.append(torch.stack([proxy for proxy, _ in made]))
            textures.append(torch.stack([texture for _, texture in made]))
            originals.append(torch.stack([case.coarse[0].half() for case in person[:visits]]))
    return Evidence(torch.stack(proxies), torch.stack(originals), torch.stack(textures))


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


def _proxies(
    field: Field, case: CanonicalCase, keys: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    images: list[Tensor] = []
    textures: list[Tensor] = []
    middle = case.middle.float()[None]
    for _ in range(keys):
        seed = int(torch.randint(2**62, (), generator=generator))
        ddf, _ = draw_deformation(field, case.coarse[None], seed)
        proxy = (warp(middle, upsample(ddf, middle.shape[2:])).clamp(0, 1) * TOP).round() / TOP
        images.append(shrink(proxy, 2)[0, 0].half())
        if len(textures) < TEXTURES:
            textures.append(describe_texture(proxy[0, 0]))
    return torch.stack(images), torch.stack(textures)
