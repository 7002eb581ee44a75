"""Task vectors as two thin factors."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from polyclinic.config.compose import load_config
from polyclinic.learning.low_rank import FASTER, expand, factorize, faster, learning_factors
from polyclinic.learning.state_dict import StateDict, subtract


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(24, 32), (24, 4, 3, 3), (24, 2, 3, 3, 3)])
def test_a_vector_of_low_rank_is_kept_whole(shape: tuple[int, ...]) -> None:
    vector = (random(shape[0], 2) @ random(2, random(*shape[1:]).numel())).reshape(shape)
    factors = factorize(vector, 2)
    assert factors is not None
    up, down = factors
    assert up.shape == (24, 2) and down.shape == (2, *shape[1:])
    assert_close(expand(up, down), vector)


def test_what_is_lost_is_what_the_smallest_singular_values_hold() -> None:
    vector = random(80, 20, 3, 3)
    lengths = torch.linalg.svdvals(vector.flatten(1))
    factors = factorize(vector, 7)
    assert factors is not None
    lost = (expand(*factors) - vector).norm()
    assert_close(lost, lengths[7:].square().sum().sqrt(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("shape", [(9,), (), (4, 1, 3, 3), (8, 8), (4, 1280)])
def test_what_would_not_become_four_times_smaller_stays_whole(shape: tuple[int, ...]) -> None:
    assert factorize(random(*shape), 3) is None


def test_nothing_learned_has_factors_of_nothing() -> None:
    factors = factorize(torch.zeros(32, 32), 2)
    assert factors is not None and not expand(*factors).any()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 24, 3), nn.BatchNorm2d(24), nn.ConvTranspose2d(24, 24, 3), nn.Flatten(),
        nn.Linear(24 * 8 * 8, 2),
    )  # fmt: skip


def learn(trained: nn.Module, rank: int, steps: int) -> StateDict:
    """Train as factors; return the task vector."""
    images, before = random(4, 3, 8, 8), {k: v.clone() for k, v in trained.state_dict().items()}
    with learning_factors(trained, rank):
        optimizer = torch.optim.SGD([w for w in trained.parameters() if w.requires_grad], 0.05)
        for _ in range(steps):
            optimizer.zero_grad()
            trained(images).square().sum().backward()
            nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
            optimizer.step()
    names = [name for name, tensor in before.items() if tensor.is_floating_point()]
    after = trained.state_dict()
    assert set(after) == set(before)
    return subtract({name: after[name] for name in names}, {name: before[name] for name in names})


def test_what_is_learned_as_factors_travels_as_factors_without_loss() -> None:
    trained = network()
    vector = learn(trained, 2, steps=5)
    for name in ("0.weight", "2.weight"):
        factors = factorize(vector[name], 2)
        assert factors is not None
        assert vector[name].any()
        assert_close(expand(*factors), vector[name], rtol=1e-3, atol=1e-6)
    # what stays whole is learned, too: norms, biases, and a head with two classes
    assert all(vector[name].any() for name in ("1.weight", "2.bias", "4.weight"))
    assert factorize(vector["4.weight"], 2) is None
    assert all(weight.requires_grad for weight in trained.parameters())
    assert torch.isfinite(trained(random(4, 3, 8, 8))).all()


def test_without_a_step_nothing_changes_and_every_time_the_same_is_learned() -> None:
    assert not any(tensor.any() for tensor in learn(network(), 2, steps=0).values())
    one, other = (learn(network(), 2, steps=2) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_is_frozen_stays_frozen() -> None:
    trained = network()
    trained[0].weight.requires_grad_(False)
    vector = learn(trained, 2, steps=2)
    assert not vector["0.weight"].any() and not trained[0].weight.requires_grad


def test_an_error_leaves_the_network_as_it_was_made() -> None:
    trained = network()
    with pytest.raises(KeyError), learning_factors(trained, 2):
        raise KeyError
    assert set(trained.state_dict()) == set(network().state_dict())


def test_factors_learn_faster() -> None:
    training = load_config([]).training
    quick = faster(training)
    assert quick.learning_rate == quick.optimizer["lr"] == FASTER * training.learning_rate
    assert quick.optimizer["_target_"] == training.optimizer["_target_"]
