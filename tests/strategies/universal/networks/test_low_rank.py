"""Updates of low rank: what travels is small, and expands to what was trained."""

import math
from copy import deepcopy

import pytest
import torch
from torch.nn.utils import parametrize
from torch.testing import assert_close

from polyclinic.config.compose import instantiate, load_config
from polyclinic.learning.state_dict import StateDict, shared_names
from polyclinic_strategies.universal import exchange
from polyclinic_strategies.universal.networks.low_rank import (
    attach,
    expand,
    factors,
    is_factored,
    layout,
)
from polyclinic_strategies.universal.networks.network import UniversalNetwork

MODELS = {
    "universal": ["model=universal", "model.encoder.widths=[8,16,32,64]"],
    "universal_vit": [
        "model=universal_vit",
        "model.encoder.width=32",
        "model.encoder.layers=2",
        "model.encoder.heads=2",
    ],
    "universal in 3-D": ["model=universal", "model.encoder.widths=[8,16]", "data.patch=[16,16,16]"],
}


def network(model: str) -> UniversalNetwork:
    torch.manual_seed(0)
    made = instantiate(
        load_config(
            ["data=universal", "training=universal", "data.patch=[32,32]", *MODELS[model]]
        ).model
    )
    assert isinstance(made, UniversalNetwork)
    return made


def base_of(one: UniversalNetwork) -> StateDict:
    return {name: one.state_dict()[name].clone() for name in shared_names(one, "none")}


def shapes_of(state: StateDict) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def train(one: UniversalNetwork, steps: int = 3) -> None:
    optimizer = torch.optim.AdamW(
        [weight for weight in one.parameters() if weight.requires_grad], 0.01
    )
    for step in range(steps):
        optimizer.zero_grad()
        images = torch.rand(
            2,
            one.encoder.in_channels,
            *one.encoder.size,
            generator=torch.Generator().manual_seed(step),
        )
        one(images).square().mean().backward()
        optimizer.step()


def merged(one: UniversalNetwork) -> StateDict:
    """The trained encoder with the updates written into its weights."""
    plain = deepcopy(one)
    for layer in plain.modules():
        if parametrize.is_parametrized(layer):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    return dict(plain.state_dict())


@pytest.mark.parametrize("model", sorted(MODELS))
def test_factors_expand_to_what_was_trained(model: str) -> None:
    one = network(model)
    base = base_of(one)
    attach(one.encoder, 2)
    train(one)
    travelled = factors(one, base)
    assert shapes_of(travelled) == layout(shapes_of(base), 2)
    assert all(
        tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in travelled.values()
    )
    tuned, vector = merged(one), expand(travelled, shapes_of(base))
    assert set(vector) == set(base) == set(tuned)
    for name, tensor in base.items():
        assert_close(vector[name], tuned[name] - tensor, atol=1e-6, rtol=1e-5)
    assert sum(bool(tensor.any()) for tensor in vector.values()) > len(vector) / 2


@pytest.mark.parametrize("model", sorted(MODELS))
def test_at_first_the_encoder_computes_what_it_did_and_frozen_weights_stay(model: str) -> None:
    one = network(model).eval()
    images = torch.rand(2, one.encoder.in_channels, *one.encoder.size)
    with torch.inference_mode():
        before = one(images)
    base = base_of(one)
    attach(one.encoder, 2)
    with torch.inference_mode():
        assert torch.equal(one(images), before)
    train(one)
    state = one.state_dict()
    frozen = [name for name in state if name.endswith("parametrizations.weight.original")]
    assert frozen
    for name in frozen:
        assert torch.equal(
            state[name], base[name.replace("parametrizations.weight.original", "weight")]
        )


def test_the_layout_is_of_factors_vectors_and_what_would_not_become_smaller() -> None:
    shapes = {
        "encoder.c.weight": (16, 8, 3, 3),
        "encoder.c.bias": (16,),
        "encoder.s.weight": (4, 2, 1, 1),
        "encoder.places": (1, 64, 32),
    }
    assert layout(shapes, 2) == {
        "encoder.c.weight.up": (16, 2), "encoder.c.weight.down": (2, 72), "encoder.c.bias": (16,),
        "encoder.s.weight": (4, 2, 1, 1), "encoder.places": (1, 64, 32),
    }  # fmt: skip
    assert layout(shapes, 1000) == shapes
    assert not is_factored("encoder.n.weight", (64,), 1)


@pytest.mark.parametrize("model", sorted(MODELS))
def test_fewer_numbers_travel_the_lower_the_rank(model: str) -> None:
    shapes = shapes_of(base_of(network(model)))
    sizes = [sum(map(math.prod, layout(shapes, rank).values())) for rank in (1, 2, 4)]
    whole = sum(map(math.prod, shapes.values()))
    assert sizes[0] < sizes[1] < sizes[2] <= whole and sizes[0] < whole / 2


def test_exchange_asks_here(model: str = "universal") -> None:
    one = network(model)
    base = base_of(one)
    exchange.prepare_tuning(one, 2)
    train(one, 1)
    travelled = exchange.task_vector(one, base, 2)
    assert shapes_of(travelled) == exchange.layout_of(base, 2)


def test_the_random_factors_are_the_same_everywhere() -> None:
    one, other = network("universal"), network("universal")
    torch.manual_seed(5)
    attach(one.encoder, 2)
    torch.manual_seed(6)
    attach(other.encoder, 2)
    assert all(
        torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items()
    )
