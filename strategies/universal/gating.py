"""How much a teacher counts: on which images, and at all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from strategies.universal.teachers import Teacher, distances

FADE = 2.0  # a teacher counts 1/e as much on an image that is so much farther than its own


@dataclass(frozen=True, eq=False)
class Gate:
    """How much one teacher counts.

    Attributes:
        weights: On each image, 0 to 1.
        trust: At all, 0 to 1.
    """

    weights: Float[Tensor, " images"]
    trust: float


def gate_teachers(
    teachers: Sequence[Teacher],
    looks: Mapping[str, Float[Tensor, "images numbers"]],
    before: Float[Tensor, "images numbers"],
    *,
    on: bool,
) -> dict[str, Gate]:
    """How much each teacher counts.

    Args:
        teachers: All.
        looks: Site to the embeddings of the coordinator's images by its encoder.
        before: The same by the encoder that all of them started from.
        on: Otherwise every teacher counts fully everywhere.
    """
    gates = {}
    for teacher in teachers:
        rows = looks[teacher.site]
        weights = torch.exp(-(distances(teacher, rows) - 1).clamp_min(0) / FADE) if on else torch.ones(len(rows))
        gates[teacher.site] = Gate(weights, 1.0)
    return gates


def alignment(one: Float[Tensor, "images numbers"], other: Float[Tensor, "images numbers"]) -> float:
    """How alike two encoders see the same images: linear centred kernel alignment, 0 to 1.

    Kornblith et al. 2019, https://arxiv.org/abs/1905.00414.
    """
    one, other = (rows.double() - rows.double().mean(0) for rows in (one, other))
    one, other = (rows / rows.std(0).clamp_min(1e-9) for rows in (one, other))
    return float((one.T @ other).square().sum() / ((one.T @ one).norm() * (other.T @ other).norm()).clamp_min(1e-12))
