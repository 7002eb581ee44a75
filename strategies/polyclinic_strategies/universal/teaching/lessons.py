"""Lessons: what encoders say of random views of images, in comparable numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from polyclinic.learning.modes import bf16_autocast, training_mode
from polyclinic.learning.state_dict import StateDict
from polyclinic_strategies.universal.networks.encoders import embed, read_at
from polyclinic_strategies.universal.networks.network import UniversalNetwork
from polyclinic_strategies.universal.teaching.teachers import Teacher

COSINE, SMOOTH = 0.9, 0.1
AT_ONCE = 64  # images that a teacher reads together


@dataclass(frozen=True, eq=False)
class Lesson:
    """Features of all views by one encoder: of the whole image and of some of its places."""

    whole: Float[Tensor, "views numbers"]
    local: Float[Tensor, "views places channels"]

    @property
    def average(self) -> Float[Tensor, "views numbers"]:
        """Averages of the maps, which are the first half of an embedding."""
        return self.whole[:, : self.local.shape[-1]]

    def standardized(self, scale: "Scale") -> "Lesson":
        """Standardize by a scale; float16, as there are many."""
        return Lesson(scale.whole(self.whole).half(), scale.local(self.local).half())


@dataclass(frozen=True, eq=False)
class Scale:
    """Mean and spread of an encoder's features over the images on which it counts."""

    means: tuple[Tensor, Tensor]
    spreads: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, lesson: Lesson, weights: Float[Tensor, " views"]) -> "Scale":
        """Measure mean and spread over all views, by weight."""
        weights = (weights + 1e-6) / (weights + 1e-6).sum()
        found = []
        for rows in (lesson.whole[:, None], lesson.local):
            mean = torch.einsum("v,vpn->n", weights, rows.float()) / rows.shape[1]
            square = (
                torch.einsum("v,vpn->n", weights, (rows.float() - mean).square()) / rows.shape[1]
            )
            found.append((mean, square.sqrt().clamp_min(1e-4)))
        return cls((found[0][0], found[1][0]), (found[0][1], found[1][1]))

    def whole(self, rows: Tensor) -> Tensor:
        """Standardize embeddings."""
        return (rows - self.means[0].to(rows)) / self.spreads[0].to(rows)

    def local(self, rows: Tensor) -> Tensor:
        """Standardize features of places."""
        return (rows - self.means[1].to(rows)) / self.spreads[1].to(rows)


def look(network: UniversalNetwork, seen: Tensor, places: Tensor) -> Lesson:
    """Compute the encoder's features of all views, not standardized."""
    device = next(network.parameters()).device
    whole, local = [], []
    with training_mode(network, train=False), torch.inference_mode(), bf16_autocast(device):
        for images, where in zip(
            torch.split(seen, AT_ONCE), torch.split(places, AT_ONCE), strict=True
        ):
            maps = network.encoder(images.to(device))
            whole.append(embed(maps).float().cpu())
            local.append(read_at(maps, where.to(device), network.encoder.size).float().cpu())
    return Lesson(torch.cat(whole), torch.cat(local))


def average_teachers(
    base: StateDict, teachers: Sequence[Teacher], trust: Mapping[str, float]
) -> StateDict:
    """Add the mean of the teachers' task vectors to the base, each as much as it is trusted."""
    total = sum(trust[teacher.site] for teacher in teachers)
    moved = {
        name: sum(trust[each.site] / total * (each.encoder[name] - tensor) for each in teachers)
        for name, tensor in base.items()
    }
    return {name: tensor + moved[name] for name, tensor in base.items()}


def miss(guess: Tensor, wanted: Tensor) -> Tensor:
    """Compute how far guessed features are from the wanted ones, by cosine and smooth L1."""
    cosine = functional.cosine_similarity(guess, wanted, dim=-1)
    return COSINE * (1 - cosine) + SMOOTH * functional.smooth_l1_loss(
        guess, wanted, reduction="none"
    ).mean(-1)
