"""The generator's opponents in training: one or several networks that recognize people.

With a memory they also learn from proxies of past generators, so that a generator cannot go back to
a trick that its opponents have forgotten.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from polyclinic.learning.modes import bf16_autocast
from polyclinic_strategies.proxy import losses

Compare = Callable[[Tensor, Tensor], Tensor]


class Shown(NamedTuple):
    """What adversaries see in a step.

    Attributes:
        proxies: (keys, 2 visits, B, channels, h, w, d), proxies of B people and their tissues.
        originals: (B, channels, h, w, d), the second visits, not warped.
    """

    proxies: Tensor
    originals: Tensor


class Adversaries:
    """Networks that learn to recognize people, each for itself.

    Args:
        networks: From images (B, channels, h, w, d) to unit vectors.
        memory: Number of past steps from which one is drawn in every step, to learn from it again.
        random: Determines which.
    """

    def __init__(self, networks: Sequence[nn.Module], memory: int, random: torch.Generator) -> None:
        self._networks, self._memory, self._random = networks, memory, random
        self._past: list[Shown] = []
        parameters = [each for network in networks for each in network.parameters()]
        self._optimizer = torch.optim.AdamW(parameters, 1e-3, weight_decay=0.02)

    def learn(self, shown: Shown) -> Tensor:
        """Take a step; return the loss of recognizing people, mean over the networks."""
        shown = Shown(shown.proxies.detach(), shown.originals)
        unmasked = self._loss(shown)
        total = unmasked
        if self._past:
            chosen = self._past[self._draw(len(self._past))]
            total = total + self._loss(Shown(*(part.float() for part in chosen)))
        self._optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._remember(shown)
        return unmasked

    def leak(self, shown: Shown) -> Tensor:
        """Return the generator's loss, mean over the networks and over what they compare."""
        found = [
            torch.stack(_compare(network, shown, losses.identity_leak)).mean()
            for network in self._networks
        ]
        return torch.stack(found).mean()

    def _loss(self, shown: Shown) -> Tensor:
        found = [
            torch.stack(_compare(network, shown, losses.recognition)).sum()
            for network in self._networks
        ]
        return torch.stack(found).mean()

    def _remember(self, shown: Shown) -> None:
        if self._memory == 0:
            return
        kept = Shown(*(part.half() for part in shown))
        if len(self._past) < self._memory:
            self._past.append(kept)
        else:
            self._past[self._draw(self._memory)] = kept

    def _draw(self, end: int) -> int:
        return int(torch.randint(end, (), generator=self._random))


def _compare(network: nn.Module, shown: Shown, compare: Compare) -> list[Tensor]:
    """Compare two visits' proxies, and a proxy with the original.

    With several keys of a visit, features that are averaged over them are compared as well.
    """
    number, originals = len(shown.originals), shown.originals
    features = _identify(network, torch.cat([shown.proxies.flatten(0, 2), originals]))
    proxies, original = features[:-number].view(*shown.proxies.shape[:3], -1), features[-number:]
    first, second = proxies.unbind(1)
    pairs = [(first[0], second[0]), (first[0], original)]
    if len(first) > 1:
        one, other = (functional.normalize(each.mean(0), dim=1) for each in (first, second))
        pairs += [(one, other), (one, original)]
    return [compare(*pair) for pair in pairs]


def _identify(network: nn.Module, images: Tensor) -> Tensor:
    with bf16_autocast(images.device):
        features: Tensor = network(images.to(memory_format=torch.channels_last_3d))
    return features.float()
