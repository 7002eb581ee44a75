"""Train generator, segmenter and adversary end to end, one after another in each step.

A step takes two visits of each of a few people, warps both with keys of their own and then moves

    the adversary          on recognition(proxies of two visits) + recognition(proxies of one, originals of the other),
                               all of them with their segmentation, warped alike
    generator + segmenter  on  segmentation + adversarial * betrayal + stranger * |proxy - stranger|^2 + smoothness * roughness
                               + diversity * sameness + unfolded * folding

where the stranger is the reference warped by the key. Kim et al. 2020, https://arxiv.org/abs/2011.12835, have the segmentation, the
adversary, the smoothness and a diversity term; the stranger is ours, see `generator.py`. The segmentation's loss is taken after
unwarping, on a patch: there lies what the hospital gets.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from polyclinic.imaging.deformation import identity, sample, upsample
from polyclinic.learning.modes import quick, quicken
from polyclinic_strategies.proxy import losses
from polyclinic_strategies.proxy.cases import CanonicalCase, group
from polyclinic_strategies.proxy.generator import (
    STRANGER_MM,
    displace,
    draw_keys,
    shrink,
    warp_coarsely,
)
from polyclinic_strategies.proxy.settings import ProxyConfig
from polyclinic_strategies.proxy.system import ProxySystem, generator_parameters

OnStep = Callable[[int, int, Mapping[str, float]], None]
FORMAT = torch.channels_last_3d
_MEMORY = 0.95  # of the running means that are reported


class Trainer:
    """Trains a system in place.

    Args:
        system: Trained in place.
        cases: With fine images and labels; people who came at least twice.
        settings: How.
        learning_rate: The highest, of a cycle that starts and ends low.
        seed: Decides everything that is drawn.
    """

    def __init__(
        self,
        system: ProxySystem,
        cases: Sequence[CanonicalCase],
        settings: ProxyConfig,
        learning_rate: float,
        seed: int,
    ) -> None:
        self.system, self.settings, self._learning_rate = quicken(system), settings, learning_rate
        self._people = group(cases)
        if len(self._people) < 2:
            raise ValueError("at least two subjects with two visits each are needed")
        self._coarse = [
            torch.stack([_with_tissues(case, system.classes) for case in visits])
            for visits in self._people
        ]
        self._seed, self._random = seed, torch.Generator().manual_seed(seed)
        self._reference = system.reference
        self._running: dict[str, float] = {}

    def train(self, on_step: OnStep | None = None) -> dict[str, float]:
        """Joint training, at its end some steps of the segmenter alone; returns the running means of the losses."""
        adversary = torch.optim.AdamW(self.system.adversary.parameters(), 1e-3, weight_decay=0.02)
        moving, every = generator_parameters(self.system), self.settings

        def loss(step: int) -> Tensor:
            return (
                self._joint(adversary)
                if moving and step < every.steps
                else self._segmentation_alone()
            )

        return self._descend(
            [moving, list(self.system.segmenter.parameters())],
            every.steps + every.more_segmentation,
            loss,
            on_step,
        )

    def polish(self, on_step: OnStep | None = None) -> dict[str, float]:
        """The segmenter alone, on proxies of the generator as it is, in a cycle of its own; the same after `train` and after loading."""
        self._random.manual_seed(self._seed + 1)
        return self._descend(
            [list(self.system.segmenter.parameters())],
            self.settings.polish,
            lambda _: self._segmentation_alone(),
            on_step,
        )

    def _descend(
        self,
        groups: Sequence[list[nn.Parameter]],
        steps: int,
        loss_of: Callable[[int], Tensor],
        on_step: OnStep | None,
    ) -> dict[str, float]:
        """One cycle of the learning rate."""
        moved = [{"params": group} for group in groups if group]
        optimizer = torch.optim.AdamW(moved, self._learning_rate, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self._learning_rate, total_steps=max(steps, 2)
        )
        self.system.train()
        for step in range(steps):
            loss = loss_of(step)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            for each in groups:
                nn.utils.clip_grad_norm_(each, 1.0)
            optimizer.step()
            schedule.step()
            if on_step is not None:
                on_step(step + 1, steps, self._running)
        self.system.eval()
        return dict(self._running)

    def _joint(self, adversary: torch.optim.Optimizer) -> Tensor:
        """One step of all three; returns the loss of generator and segmenter."""
        chosen = self._choose()
        number = len(chosen)
        seen = torch.cat([self._coarse_of(chosen, 0), self._coarse_of(chosen, 1)])
        seen = self._invent(seen, number)
        keys = self._keys(len(seen))
        velocity = self._field(seen[:, :1], keys)
        warped = warp_coarsely(seen, velocity)
        strangers = warp_coarsely(self._reference.expand(len(seen), -1, -1, -1, -1), keys)
        told = self._tell(torch.cat([warped.detach(), seen[number:]]))
        first, second, original = torch.split(told, number)
        unmasked = losses.recognition(first, second) + losses.recognition(first, original)
        adversary.zero_grad()
        unmasked.backward()  # type: ignore[no-untyped-call]
        adversary.step()
        first, second, original = torch.split(
            self._tell(torch.cat([warped, seen[number:]])), number
        )
        wanted = (strangers[:number] - strangers[number:]).square().mean((1, 2, 3, 4))
        parts = {
            "adversarial": (losses.betrayal(first, second) + losses.betrayal(first, original)) / 2,
            "stranger": (warped[:, :1] - strangers).square().mean(),
            "smoothness": losses.roughness(velocity),
            "diversity": losses.sameness(warped[:number, :1], warped[number:, :1], wanted),
            "unfolded": losses.folding(displace(velocity)),
        }
        segmentation = self._segment(*self._one_patch())
        self._note({"adversary": unmasked, "segmentation": segmentation, **parts})
        return segmentation + sum(
            (getattr(self.settings, name) * part for name, part in parts.items()), torch.zeros(())
        )

    def _segmentation_alone(self) -> Tensor:
        with torch.no_grad():
            patch = self._one_patch()
        loss = self._segment(*patch)
        self._note({"segmentation": loss})
        return loss

    def _one_patch(self) -> tuple[CanonicalCase, Tensor]:
        """Anybody's scan and a velocity for it."""
        visits = self._people[self._draw(len(self._people))]
        case = visits[self._draw(len(visits))]
        return case, self._field(case.coarse[None], self._keys(1))

    def _segment(self, case: CanonicalCase, velocity: Tensor) -> Tensor:
        """The segmentation's loss on a patch of one proxy, taken where the answer is unwarped to."""
        assert case.fine is not None and case.labels is not None
        shape = case.fine.shape
        size = [min(part, whole) for part, whole in zip(self.settings.patch, shape, strict=True)]
        corner = torch.tensor(
            [self._draw(max(1, whole - part + 1)) for whole, part in zip(shape, size, strict=True)]
        )
        patch = identity(size) + corner.view(1, 3, 1, 1, 1)
        middle = self.system.coarse
        forward, inverse = (upsample(displace(sign * velocity), middle) for sign in (1, -1))
        ratio = shape[0] / middle[0]
        from_where = patch + ratio * sample(forward, (patch + 0.5) / ratio - 0.5)
        proxy = sample(_crop_around(case.fine, from_where), from_where - _start(from_where))
        with quick(proxy.device):
            logits = self.system((proxy / 255).to(memory_format=FORMAT))
        probabilities = logits.float().softmax(1)
        there = (
            patch
            + ratio * sample(inverse, (patch + 0.5) / ratio - 0.5)
            - corner.view(1, 3, 1, 1, 1)
        )
        limits = torch.tensor(size).view(1, 3, 1, 1, 1) - 1
        known = ((there >= 0) & (there <= limits)).all(1).float()
        labels = case.labels[
            tuple(slice(int(low), int(low) + part) for low, part in zip(corner, size, strict=True))
        ]
        return losses.focal_tversky(sample(probabilities, there), labels[None].long(), known)

    def _field(self, images: Tensor, keys: Tensor) -> Tensor:
        with quick(images.device):
            return self.system.field(images.to(memory_format=FORMAT), keys).float()

    def _tell(self, images: Tensor) -> Tensor:
        with quick(images.device):
            features: Tensor = self.system.adversary(images.to(memory_format=FORMAT))
        return features.float()

    def _choose(self) -> list[tuple[int, list[int]]]:
        """Some people, and two visits of each."""
        order = torch.randperm(len(self._people), generator=self._random)[
            : self.settings.people
        ].tolist()
        return [
            (person, torch.randperm(len(self._people[person]), generator=self._random)[:2].tolist())
            for person in order
        ]

    def _coarse_of(self, chosen: Sequence[tuple[int, list[int]]], which: int) -> Tensor:
        return torch.stack(
            [self._coarse[person][visits[which]] for person, visits in chosen]
        ).float()

    def _invent(self, seen: Tensor, number: int) -> Tensor:
        """Warp both visits of a person alike, so that nobody is met twice."""
        if self.settings.invented_mm == 0:
            return seen
        strength = (
            torch.rand((number, 1, 1, 1, 1), generator=self._random)
            * self.settings.invented_mm
            / STRANGER_MM
        )
        with torch.no_grad():
            return warp_coarsely(seen, (self._keys(number) * strength).repeat(2, 1, 1, 1, 1))

    def _keys(self, number: int) -> Tensor:
        height, width, depth = (size // 2 for size in self.system.coarse)
        return draw_keys(number, (height, width, depth), self._random)

    def _draw(self, end: int) -> int:
        return int(torch.randint(end, (), generator=self._random))

    def _note(self, parts: Mapping[str, Tensor]) -> None:
        for name, value in parts.items():
            now = float(value.detach())
            self._running[name] = _MEMORY * self._running.get(name, now) + (1 - _MEMORY) * now


def _with_tissues(case: CanonicalCase, classes: int) -> Tensor:
    """(classes, h, w, d), float16: the coarse image and the share of each foreground class."""
    assert case.labels is not None
    times = case.labels.shape[0] // case.coarse.shape[1]
    shares = [
        shrink((case.labels == number).float()[None, None], times)[0]
        for number in range(1, classes)
    ]
    return torch.cat([case.coarse, *shares]).half()


def _start(points: Tensor) -> Tensor:
    """The lowest corner of what points touch, (1, 3, 1, 1, 1)."""
    return points.detach().amin((0, 2, 3, 4)).floor().clamp(min=0).view(1, 3, 1, 1, 1)


def _crop_around(volume: Tensor, points: Tensor) -> Tensor:
    """The part of a uint8 volume that points touch, as (1, 1, h, w, d) float32: reading a whole volume would take longer than a step."""
    low = _start(points).flatten().long().tolist()
    high = (points.detach().amax((0, 2, 3, 4)).ceil().long() + 1).tolist()
    parts = []
    for start, end, size in zip(low, high, volume.shape, strict=True):
        first = min(start, size - 1)
        parts.append(slice(first, min(max(end, first + 1), size)))
    return volume[tuple(parts)][None, None].float()
