"""Distillation: one student learns the features of many teachers, on images without labels.

L = mean_k t_k sum_x w_k(x) [0.9 (1 - cos(P_k f(x), g_k(x))) + 0.1 smoothL1(P_k f(x), g_k(x))] /
    sum_x w_k(x) + mim L_MIM + old |f - f_old|^2

f: the student's features; g_k: those of teacher k, each number standardized over the images on
which it counts (UNIC, Sariyildiz et al. 2024, https://arxiv.org/abs/2408.05088; PHI-S, Ranzinger et
al. 2024, https://arxiv.org/abs/2410.01680); P_k: two layers for each teacher; w_k(x): how much
teacher k counts on image x, t_k: how much it counts at all (`gating`). Cosine and smooth L1 as in
AM-RADIO, Ranzinger et al. 2024, https://arxiv.org/abs/2312.06709. Features are of the whole image
(its embedding) and of a few of its places, so that those who segment teach too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from polyclinic.learning.modes import bf16_autocast
from polyclinic.learning.optimizing.checkpoint import Checkpoint
from polyclinic.learning.optimizing.schedules import set_rate
from polyclinic.learning.state_dict import StateDict
from polyclinic_strategies.universal.images.views import batches, view
from polyclinic_strategies.universal.networks.encoders import embed, read_at
from polyclinic_strategies.universal.networks.network import ENCODER, UniversalNetwork
from polyclinic_strategies.universal.pretraining import (
    KEEP_EVERY,
    OnStep,
    Painter,
    Pretraining,
    finite,
    hide,
    masked_loss,
)
from polyclinic_strategies.universal.teaching.gating import TeacherWeight, gate_teachers
from polyclinic_strategies.universal.teaching.lessons import (
    Lesson,
    Scale,
    average_teachers,
    look,
    miss,
)
from polyclinic_strategies.universal.teaching.teachers import Teacher, check_statistics


@dataclass(frozen=True)
class Distillation:
    """How the student learns.

    Attributes:
        steps: Of the optimizer.
        batch_size: Images in a step.
        learning_rate: At its highest.
        mim: Weight of masked image modelling.
        old: Weight of staying close to the features before the stage.
        places: Of an image, whose features are learned beside the embedding.
        views: Of every image, on which the teachers are asked.
        hidden: Numbers between the two layers of a projector.
        start: average: the student starts from the average of the believed teachers; before: from
            the encoder before the stage.
        gate: Whether teachers count less far from their own images, and not at all if they are no
            fine-tuned copies (`gating`).
        mask_ratio, mask_size: Of masked image modelling.
    """

    steps: int = 1000
    batch_size: int = 64
    learning_rate: float = 0.0003
    mim: float = 0.5
    old: float = 0.2
    places: int = 4
    views: int = 2
    hidden: int = 128
    start: Literal["average", "before"] = "average"
    gate: bool = True
    mask_ratio: float = 0.6
    mask_size: int = 8


@dataclass(frozen=True, eq=False)
class Distilled:
    """What came of it.

    Attributes:
        state: The student's tensors, `encoder.*`.
        weights: Site to the mean of its teacher's weight over the images.
        trust: Site to how much its teacher counted at all.
        losses: Of every step; none if no teacher was believed, and then the student is as it was.
    """

    state: StateDict
    weights: Mapping[str, float]
    trust: Mapping[str, float]
    losses: list[float]


@dataclass(frozen=True, eq=False)
class _Course:
    """All that is taught."""

    seen: Tensor
    places: Tensor
    lessons: Mapping[str, Lesson]
    gates: Mapping[str, TeacherWeight]
    before: Lesson
    scale: Scale  # of the student's features


def distil(
    network: UniversalNetwork,
    teachers: Sequence[Teacher],
    images: Float[Tensor, "images channels *size"],
    settings: Distillation,
    seed: int,
    *,
    checkpoint: Path | None = None,
    on_step: OnStep | None = None,
) -> Distilled:
    """Teach the network's encoder, in place.

    Args:
        network: The universal encoder as it was before the stage; it becomes the student.
        teachers: At least one.
        images: Without labels, about -1 to 1.
        settings: How.
        seed: Of views, batches and masks.
        checkpoint: Kept now and then; the work goes on from it if it is there.
        on_step: Told after every step.

    Raises:
        ModelInvalid: A teacher's tensors or statistics are not those of this encoder.
        ConfigError: The loss is no longer finite.
    """
    numbers = sum(network.encoder.widths)
    for teacher in teachers:
        check_statistics(teacher, numbers)
    old = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    generator = torch.Generator().manual_seed(seed)
    seen = torch.cat([view(images, generator) for _ in range(settings.views)])
    places = torch.rand(len(seen), settings.places, network.spatial_dims, generator=generator)
    places = (places * torch.tensor(network.encoder.size)).floor()
    before = look(network, seen, places)
    looks = {}
    for teacher in teachers:
        network.load_state_dict({**old, **teacher.encoder})
        looks[teacher.site] = look(network, seen, places)
    network.load_state_dict(old)
    start = {name: old[name].cpu() for name in teachers[0].encoder}
    gates = gate_teachers(
        teachers, {site: look.average for site, look in looks.items()}, start, on=settings.gate
    )
    believed = [site for site, gate in gates.items() if gate.trust > 0]
    means = {site: float(gate.weights.mean()) for site, gate in gates.items()}
    trust = {site: gate.trust for site, gate in gates.items()}
    if not believed:
        return Distilled(start, means, trust, [])
    if settings.start == "average":
        network.load_state_dict(
            {
                **old,
                **average_teachers(
                    start, [each for each in teachers if each.site in believed], trust
                ),
            }
        )
    lessons = {
        site: looks[site].standardized(Scale.of(looks[site], gates[site].weights))
        for site in believed
    }
    scale = Scale.of(before, torch.ones(len(seen)))
    course = _Course(seen, places, lessons, gates, before.standardized(scale), scale)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        student = _Student(network, list(lessons), settings)
    losses = student.learn(course, seed, checkpoint, on_step)
    state = {
        name: tensor.detach().cpu().clone()
        for name, tensor in network.state_dict().items()
        if name.startswith(ENCODER)
    }
    return Distilled(state, means, trust, losses)


class _Student:
    """The network with a projector for each teacher, and with what paints hidden squares."""

    def __init__(
        self, network: UniversalNetwork, sites: Sequence[str], settings: Distillation
    ) -> None:
        numbers, device = sum(network.encoder.widths), next(network.parameters()).device
        self.network, self.settings, self.device = network, settings, device
        self.painter = Painter(network)
        self.masking = Pretraining(mask_ratio=settings.mask_ratio, mask_size=settings.mask_size)

        def projectors(size: int) -> nn.ModuleList:
            layers = [
                (nn.Linear(size, settings.hidden), nn.GELU(), nn.Linear(settings.hidden, size))
                for _ in sites
            ]
            return nn.ModuleList(nn.Sequential(*each) for each in layers).to(device)

        self.trained = nn.ModuleDict(
            {
                "encoder": network.encoder,
                "painter": self.painter,
                "whole": projectors(2 * numbers),
                "local": projectors(numbers),
            }
        )
        self.optimizer = torch.optim.AdamW(
            self.trained.parameters(), settings.learning_rate, weight_decay=0.02
        )

    def learn(
        self, course: _Course, seed: int, checkpoint: Path | None, on_step: OnStep | None
    ) -> list[float]:
        """All steps; the loss of each."""
        settings = self.settings
        keeper = Checkpoint(checkpoint, self.trained, self.optimizer, every=KEEP_EVERY)
        losses = keeper.resume()
        self.network.train()
        for step, chosen, generator in batches(
            len(course.seen), settings.batch_size, settings.steps, seed, len(losses)
        ):
            set_rate(self.optimizer, settings.learning_rate, step, settings.steps)
            self.optimizer.zero_grad(set_to_none=True)
            loss = self._loss(course, chosen, generator)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            losses.append(finite(float(loss.detach()), step, settings.learning_rate))
            keeper.keep(losses, settings.steps)
            if on_step is not None:
                on_step(step, settings.steps, losses[-1])
        self.network.eval()
        return losses

    def _loss(self, course: _Course, chosen: Tensor, generator: torch.Generator) -> Tensor:
        images, places = course.seen[chosen].to(self.device), course.places[chosen].to(self.device)
        with bf16_autocast(self.device):
            maps = self.network.encoder(images)
        whole = course.scale.whole(embed(maps).float())
        local = course.scale.local(read_at(maps, places, self.network.encoder.size))
        total = self._taught(course, chosen, whole, local)
        if self.settings.old > 0:
            kept = (course.before.whole[chosen].to(whole), course.before.local[chosen].to(local))
            total = (
                total
                + self.settings.old
                * (functional.mse_loss(whole, kept[0]) + functional.mse_loss(local, kept[1]))
                / 2
            )
        if self.settings.mim > 0:
            hidden = hide(len(images), self.network.encoder.size, self.masking, generator).to(
                self.device
            )
            with bf16_autocast(self.device):
                total = total + self.settings.mim * masked_loss(
                    self.network, self.painter, images, hidden
                )
        return total

    def _taught(self, course: _Course, chosen: Tensor, whole: Tensor, local: Tensor) -> Tensor:
        """Compute how far the student is from the teachers, each in its own numbers."""
        total, trust = whole.new_zeros(()), 0.0
        for number, (site, lesson) in enumerate(course.lessons.items()):
            gate = course.gates[site]
            weights = gate.weights[chosen].to(whole)
            with bf16_autocast(self.device):
                guesses = self.trained["whole"][number](whole), self.trained["local"][number](local)  # type: ignore[index]
            missed = miss(guesses[0].float(), lesson.whole[chosen].to(whole))
            missed = missed + miss(guesses[1].float(), lesson.local[chosen].to(whole)).mean(1)
            total = total + gate.trust * (weights * missed).sum() / (
                2 * weights.sum().clamp_min(1e-3 * len(weights))
            )
            trust += gate.trust
        return total / max(trust, 1e-6)
