"""How much a teacher counts: on which images, and at all.

On an image: by its distance from the images that the teacher was trained on (`teachers.distances`);
what it says of others it never
learned. At all: by how far its weights are from the encoder that it started from. Fine-tuning moves
an encoder a little; one with random weights, or with its signs turned, is as far from the common
one as that is from a copy of itself whose entries are shuffled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from polyclinic.learning.state_dict import StateDict
from polyclinic_strategies.universal.teaching.teachers import Teacher, distances

# a teacher counts 1/e as much on an image whose squared distance is so much more than 1, the
# distance of its own images
FADE = 2.0
# distance from the common encoder, in that of a shuffled copy, up to which a teacher is fully
# trusted, and beyond which it is not at all
FULL, NONE = 0.4, 0.7


@dataclass(frozen=True, eq=False)
class TeacherWeight:
    """How much one teacher counts.

    Attributes:
        weights: Weight on each image, 0 to 1.
        trust: Weight of the teacher at all, 0 to 1.
    """

    weights: Float[Tensor, " images"]
    trust: float


def gate_teachers(
    teachers: Sequence[Teacher],
    looks: Mapping[str, Float[Tensor, "images numbers"]],
    base: StateDict,
    *,
    on: bool,
) -> dict[str, TeacherWeight]:
    """Compute how much each teacher counts.

    Args:
        teachers: All.
        looks: Site to the average features of the coordinator's images by its encoder.
        base: The encoder that all of them started from.
        on: Otherwise every teacher counts fully everywhere.
    """
    gates = {}
    for teacher in teachers:
        rows = looks[teacher.site]
        if not bool(torch.isfinite(rows).all()):
            # weights so large that nothing can be seen with them
            gates[teacher.site] = TeacherWeight(torch.zeros(len(rows)), 0.0)
        elif on:
            weights = torch.exp(-(distances(teacher, rows) - 1).clamp_min(0) / FADE)
            gates[teacher.site] = TeacherWeight(weights, trust(teacher.encoder, base))
        else:
            gates[teacher.site] = TeacherWeight(torch.ones(len(rows)), 1.0)
    return gates


def trust(encoder: StateDict, base: StateDict) -> float:
    """Compute how surely an encoder is a fine-tuned copy of another: 1 if it is, 0 if not.

    Args:
        encoder: Encoder of a teacher.
        base: Encoder that it started from; the same names.
    """
    generator = torch.Generator().manual_seed(0)
    moved = torch.stack(
        [(encoder[name] - base[name]).double().square().sum() for name in base]
    ).sum()
    mixed = torch.stack(
        [
            (_shuffled(tensor, generator) - tensor).double().square().sum()
            for tensor in base.values()
        ]
    ).sum()
    far = float((moved / mixed.clamp_min(1e-12)).sqrt())
    return min(1.0, max(0.0, (NONE - far) / (NONE - FULL)))


def _shuffled(tensor: Tensor, generator: torch.Generator) -> Tensor:
    return tensor.flatten()[torch.randperm(tensor.numel(), generator=generator)].view_as(tensor)
