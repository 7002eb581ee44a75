"""Updates of low rank: only two thin matrices of each layer travel, instead of the whole encoder.

W' = W + U D, W frozen, U (out, rank) from zero, D (rank, in) from random numbers; a convolution's
weight is taken as (out, in x kernel). LoRA, Hu et al. 2022, https://arxiv.org/abs/2106.09685, whose
scale alpha / rank is 1 here. What is no such weight (norms, biases, positions), or would not become
smaller, is trained and travels as a difference, whole.
"""

import math
from collections.abc import Mapping

import torch
from torch import nn

from polyclinic.learning.low_rank import Update, attach_update
from polyclinic.learning.state_dict import StateDict, subtract
from polyclinic_strategies.universal.networks.network import ENCODER, UniversalNetwork

UP, DOWN = ".up", ".down"
WEIGHT = "weight"
Shape = tuple[int, ...]


def layout(shapes: Mapping[str, Shape], rank: int) -> dict[str, Shape]:
    """List names and shapes of what travels.

    Args:
        shapes: Shapes of the encoder's tensors.
        rank: Rank of the updates, at least 1.
    """
    found: dict[str, Shape] = {}
    for name, shape in shapes.items():
        if is_factored(name, shape, rank):
            found[name + UP], found[name + DOWN] = _factor_shapes(shape, rank)
        else:
            found[name] = tuple(shape)
    return found


def is_factored(name: str, shape: Shape, rank: int) -> bool:
    """Tell whether a tensor's update travels as factors.

    The weight of a convolution or linear layer does, if the factors are smaller.
    """
    if name.rpartition(".")[2] != WEIGHT or len(shape) < 2:
        return False
    return sum(math.prod(factor) for factor in _factor_shapes(shape, rank)) < math.prod(shape)


def attach(encoder: nn.Module, rank: int) -> None:
    """Freeze what is factored, and train updates of it instead; the encoder computes what it did.

    Args:
        encoder: Changed in place; its tensors get other names.
        rank: Rank of the updates.
    """
    generator = torch.Generator().manual_seed(rank)  # the same everywhere, also after a crash
    shapes = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    for name, shape in shapes.items():
        if is_factored(name, shape, rank):
            layer = encoder.get_submodule(name.rpartition(".")[0])
            attach_update(layer, WEIGHT, Update(shape, rank, generator))


def factors(network: UniversalNetwork, base: StateDict) -> StateDict:
    """Return what travels of a trained network.

    Args:
        network: After `attach`.
        base: The encoder's tensors before.

    Returns:
        Float32, with the names and shapes of `layout`.
    """
    state = {
        name: tensor.detach().cpu()
        for name, tensor in network.state_dict().items()
        if name.startswith(ENCODER)
    }
    found: StateDict = {}
    for name in base:
        if name in state:
            found |= subtract({name: state[name]}, {name: base[name]})
            continue
        inside = f"{name.removesuffix(WEIGHT)}parametrizations.{WEIGHT}.0"
        found |= {name + end: state[inside + end].float().contiguous() for end in (UP, DOWN)}
    return found


def expand(travelled: StateDict, shapes: Mapping[str, Shape]) -> StateDict:
    """Return the whole task vector.

    Args:
        travelled: From `factors`.
        shapes: Shapes of the encoder's tensors.
    """
    return {
        name: (travelled[name + UP] @ travelled[name + DOWN]).view(shape)
        if name + UP in travelled
        else travelled[name]
        for name, shape in shapes.items()
    }


def _factor_shapes(shape: Shape, rank: int) -> tuple[Shape, Shape]:
    return (shape[0], rank), (rank, math.prod(shape[1:]))
