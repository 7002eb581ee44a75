"""Task vectors of low rank: two thin matrices of each layer travel instead of the whole.

A layer's task vector W (out, in x kernel) is U D with U (out, rank), D (rank, in x kernel). It is
trained like that: the layer's weight is frozen, and U from zero and D from random numbers are
learned beside it (LoRA, Hu et al. 2022, https://arxiv.org/abs/2106.09685, whose scale alpha / rank
is 1 here). What would not become four times smaller is trained whole: norms, biases, small heads.

To train the whole network and to keep the best approximation of that rank (TSV-Compress, Gargiulo
et al. 2025, https://arxiv.org/abs/2412.00081) loses what an optimizer such as Adam spreads over all
directions: see docs/explanation/when-merging-helps.md.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from polyclinic.config.schemas import TrainingConfig
from polyclinic.learning.optimizing.schedules import scale_rate

SMALLER = 4  # times, that factors must be
FASTER = 5.0  # times the learning rate of the whole network, for factors


class Update(nn.Module):
    """A weight with an update of low rank.

    Args:
        shape: Shape of the weight.
        rank: Rank of the update.
        generator: Draws the lower factor, with the spread of a linear layer's first weights.
    """

    def __init__(self, shape: tuple[int, ...], rank: int, generator: torch.Generator) -> None:
        super().__init__()
        numbers = math.prod(shape[1:])
        bound = 1 / math.sqrt(numbers)
        self.up = nn.Parameter(torch.zeros(shape[0], rank))
        self.down = nn.Parameter((2 * torch.rand(rank, numbers, generator=generator) - 1) * bound)

    def forward(self, weight: Tensor) -> Tensor:
        """Compute the weight as it is used, in float32 as the coordinator computes it."""
        with torch.autocast(weight.device.type, enabled=False):
            return weight + (self.up @ self.down).view(weight.shape)


@contextmanager
def learning_factors(network: nn.Module, rank: int) -> Iterator[None]:
    """Let updates of low rank be trained instead of the weights; afterwards they are in them.

    Args:
        network: Changed in place; inside, its tensors have other names.
        rank: At least 1.
    """
    generator = torch.Generator().manual_seed(rank)  # the same everywhere, also after a crash
    chosen = [
        (layer, name, weight)
        for layer in network.modules()
        for name, weight in layer.named_parameters(recurse=False)
        if weight.requires_grad and is_thin(tuple(weight.shape), rank)
    ]
    for layer, name, weight in chosen:
        attach_update(layer, name, Update(tuple(weight.shape), rank, generator))
    try:
        yield
    finally:
        for layer, name, _ in chosen:
            parametrize.remove_parametrizations(layer, name, leave_parametrized=True)
            layer.get_parameter(name).requires_grad_(True)


def attach_update(layer: nn.Module, name: str, update: Update) -> None:
    """Freeze a layer's weight, and let an update of it be trained."""
    weight = layer.get_parameter(name)
    weight.requires_grad_(False)
    parametrize.register_parametrization(layer, name, update.to(weight.device))


def faster(training: TrainingConfig) -> TrainingConfig:
    """Return the settings with the learning rate that factors need."""
    return scale_rate(training, FASTER)


def is_thin(shape: tuple[int, ...], rank: int) -> bool:
    """Tell whether a weight's update travels as factors: they are four times smaller."""
    if len(shape) < 2:
        return False
    return SMALLER * rank * (shape[0] + math.prod(shape[1:])) < math.prod(shape)


def factorize(
    vector: Float[Tensor, "..."], rank: int
) -> tuple[Float[Tensor, "out rank"], Float[Tensor, "rank ..."]] | None:
    """Return the factors of a layer's task vector; None where it travels whole.

    They are the best approximation of that rank (Eckart and Young 1936); of a vector that was
    trained as factors, that is the vector itself.

    Args:
        vector: (out, *rest), finite.
        rank: At least 1.

    Returns:
        U (out, rank), and D (rank, *rest); float32. Of the same vector they are the same bits on
        the same machine.
    """
    if not is_thin(tuple(vector.shape), rank):
        return None
    left, lengths, right = torch.linalg.svd(vector.double().flatten(1), full_matrices=False)
    half = lengths[:rank].sqrt()
    down = (half[:, None] * right[:rank]).reshape(rank, *vector.shape[1:])
    return (left[:, :rank] * half).float().contiguous(), down.float().contiguous()


def expand(
    up: Float[Tensor, "out rank"], down: Float[Tensor, "rank ..."]
) -> Float[Tensor, "out ..."]:
    """Return the task vector that two factors make, (out, *rest), float32."""
    return (up @ down.flatten(1)).reshape(len(up), *down.shape[1:])
