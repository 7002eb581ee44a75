"""Training of generator, segmenter and adversary, one after another in each step.

A step takes two visits of each of a few people, warps both with keys of their own, and then updates

    the adversary          on  recognition(proxies of two visits)
                               + recognition(proxies of one, originals of the other),
                               all of them with their segmentation, warped alike
    generator + segmenter  on  segmentation + adversarial * identity leak
                               + stranger * |proxy - stranger|^2 + smoothness * roughness
                               + diversity * sameness + unfolded * folding

The stranger is the reference warped by the key. Segmentation, adversary, smoothness and a
diversity term are those of Kim et al. 2020, https://arxiv.org/abs/2011.12835; the stranger is
ours, see `generator.py`. The segmentation loss is taken after unwarping, on a patch, because the
hospital gets the unwarped answer.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from polyclinic.imaging.deformation import identity, sample, upsample
from polyclinic.learning.modes import bf16_autocast, channels_last
from polyclinic_strategies.proxy import losses
from polyclinic_strategies.proxy.cases import CanonicalCase, group
from polyclinic_strategies.proxy.generator import (
    STRANGER_MM,
    displace,
    draw_keys,
    warp_coarsely,
)
from polyclinic_strategies.proxy.networks.adversaries import Adversaries, Shown
from polyclinic_strategies.proxy.networks.identity import IdentityNetwork
from polyclinic_strategies.proxy.settings import ProxyConfig
from polyclinic_strategies.proxy.system import ProxySystem, generator_parameters

OnStep = Callable[[int, int, Mapping[str, float]], None]
FORMAT = torch.channels_last_3d
_MEMORY = 0.95  # weight of the past in the running means that are reported


class Trainer:
    """Trains a system in place.

    Args:
        system: The system to train.
        cases: Scans with fine images and labels, of people who came at least twice.
        settings: Settings of the training.
        learning_rate: Highest learning rate of a cycle that starts and ends low.
        seed: Determines all random draws.
    """

    def __init__(
        self,
        system: ProxySystem,
        cases: Sequence[CanonicalCase],
        settings: ProxyConfig,
        learning_rate: float,
        seed: int,
    ) -> None:
        self.system, self.settings, self._learning_rate = (
            channels_last(system),
            settings,
            learning_rate,
        )
        self._people = group(cases)
        if len(self._people) < 2:
            raise ValueError("at least two subjects with two visits each are needed")
        self._coarse = [
            torch.stack([_with_tissues(case) for case in visits]) for visits in self._people
        ]
        self._seed, self._random = seed, torch.Generator().manual_seed(seed)
        self._reference = system.reference
        self._running: dict[str, float] = {}

    def train(self, on_step: OnStep | None = None) -> dict[str, float]:
        """Train all three, and at the end the segmenter alone for some steps.

        Returns:
            The running means of the losses.
        """
        networks = [self.system.adversary, *self._further_adversaries()]
        adversaries = Adversaries(networks, self.settings.memory, self._random)
        generator = generator_parameters(self.system)
        joint_steps = self.settings.steps if generator else 0

        def loss(step: int) -> Tensor:
            return self._joint(adversaries) if step < joint_steps else self._segmentation_alone()

        groups = [generator, list(self.system.segmenter.parameters())]
        steps = self.settings.steps + self.settings.more_segmentation
        return self._descend(groups, steps, loss, on_step)

    def polish(self, on_step: OnStep | None = None) -> dict[str, float]:
        """Train the segmenter alone on the generator's proxies, with its own learning-rate cycle.

        The result is the same after `train` and after loading.
        """
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
        """Minimize a loss over one cycle of the learning rate."""
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

    def _further_adversaries(self) -> list[nn.Module]:
        """Make adversaries that are needed in training alone."""
        system = self.system
        with torch.random.fork_rng():
            torch.manual_seed(self._seed)
            return [
                channels_last(IdentityNetwork(system.coarse, inputs=system.classes)).train()
                for _ in range(self.settings.adversaries - 1)
            ]

    def _joint(self, adversaries: Adversaries) -> Tensor:
        """Update the adversaries; return the loss of generator and segmenter."""
        chosen = self._choose()
        number, times = len(chosen), self.settings.keys
        seen = torch.cat([self._coarse_of(chosen, 0), self._coarse_of(chosen, 1)])
        seen = self._invent(seen, number)
        every = seen.repeat(times, 1, 1, 1, 1)
        keys = self._keys(len(every))
        velocity = self._field(every[:, :1], keys)
        warped = warp_coarsely(every, velocity)
        strangers = warp_coarsely(self._reference.expand(len(every), -1, -1, -1, -1), keys)
        shown = Shown(warped.view(times, 2, number, *warped.shape[1:]), seen[number:])
        unmasked = adversaries.learn(shown)
        two = slice(number, 2 * number)
        wanted = (strangers[:number] - strangers[two]).square().mean((1, 2, 3, 4))
        parts = {
            "adversarial": adversaries.leak(shown),
            "stranger": (warped[:, :1] - strangers).square().mean(),
            "smoothness": losses.roughness(velocity),
            "diversity": losses.sameness(warped[:number, :1], warped[two, :1], wanted),
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
        """Draw a scan of any person, and a velocity for it."""
        visits = self._people[self._draw(len(self._people))]
        case = visits[self._draw(len(visits))]
        return case, self._field(case.coarse[None], self._keys(1))

    def _segment(self, case: CanonicalCase, velocity: Tensor) -> Tensor:
        """Return the segmentation loss on a patch of one proxy.

        The patch lies in the unwarped image.
        """
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
        with bf16_autocast(proxy.device):
            logits = self.system((proxy / 255).to(memory_format=FORMAT))
        probabilities = logits.float().softmax(1)
        there = patch + ratio * sample(inverse, (patch + 0.5) / ratio - 0.5)
        there = there - corner.view(1, 3, 1, 1, 1)
        limits = torch.tensor(size).view(1, 3, 1, 1, 1) - 1
        known = ((there >= 0) & (there <= limits)).all(1).float()
        starts = [int(low) for low in corner]
        cut = (slice(low, low + part) for low, part in zip(starts, size, strict=True))
        labels = case.labels[tuple(cut)]
        return losses.focal_tversky(sample(probabilities, there), labels[None].long(), known)

    def _field(self, images: Tensor, keys: Tensor) -> Tensor:
        with bf16_autocast(images.device):
            return self.system.field(images.to(memory_format=FORMAT), keys).float()

    def _choose(self) -> list[tuple[int, list[int]]]:
        """Draw some people, and two visits of each."""
        shuffled = torch.randperm(len(self._people), generator=self._random)
        order = shuffled[: self.settings.people].tolist()
        return [
            (person, torch.randperm(len(self._people[person]), generator=self._random)[:2].tolist())
            for person in order
        ]

    def _coarse_of(self, chosen: Sequence[tuple[int, list[int]]], which: int) -> Tensor:
        return torch.stack(
            [self._coarse[person][visits[which]] for person, visits in chosen]
        ).float()

    def _invent(self, seen: Tensor, number: int) -> Tensor:
        """Warp both visits of a person alike, so that no person is seen twice."""
        if self.settings.invented_mm == 0:
            return seen
        share = torch.rand((number, 1, 1, 1, 1), generator=self._random)
        strength = share * self.settings.invented_mm / STRANGER_MM
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


def _with_tissues(case: CanonicalCase) -> Tensor:
    """Stack the coarse image and the share of each foreground class: (classes, h, w, d), half."""
    assert case.shares is not None
    return torch.cat([case.coarse.half(), case.shares])


def _start(points: Tensor) -> Tensor:
    """Return the lowest corner of the voxels that points touch, (1, 3, 1, 1, 1)."""
    return points.detach().amin((0, 2, 3, 4)).floor().clamp(min=0).view(1, 3, 1, 1, 1)


def _crop_around(volume: Tensor, points: Tensor) -> Tensor:
    """Return the part of a uint8 volume that points touch, as (1, 1, h, w, d) float32.

    Reading a whole volume would take longer than a step.
    """
    low = _start(points).flatten().long().tolist()
    high = (points.detach().amax((0, 2, 3, 4)).ceil().long() + 1).tolist()
    parts = []
    for start, end, size in zip(low, high, volume.shape, strict=True):
        first = min(start, size - 1)
        parts.append(slice(first, min(max(end, first + 1), size)))
    return volume[tuple(parts)][None, None].float()
