"""Coefficients that a hospital finds on its own images, without labels.

Toys where it is known which vector is right.
"""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from benchmarks.closed_form_heads.adaptive import OBJECTIVES, Adapted, adapt
from polyclinic.learning.state_dict import StateDict

UNSURE = {"a": 0.5, "b": 0.5}


class Vector:
    """A contribution, opened."""

    def __init__(self, state: StateDict) -> None:
        self.state = state

    def task_vector(self, name: str) -> Tensor:
        return self.state[name]


class Classifier(nn.Module):
    """Bright above the middle, or bright below it: the weights say where to look."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 2)
        self.last = nn.Linear(2, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.first(images.flatten(1)))


class Segmenter(nn.Module):
    """Each voxel by its own intensity."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)
        self.norm = nn.BatchNorm2d(2)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(images))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def floating(network: nn.Module) -> StateDict:
    return {
        name: tensor.clone()
        for name, tensor in network.state_dict().items()
        if tensor.is_floating_point()
    }


def classifier() -> tuple[Classifier, StateDict, dict[str, Vector]]:
    """Make a model: a is sure, whatever half is bright; b guesses, and the base is undecided."""
    network = Classifier()
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.zero_()
    base = floating(network)
    eye = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    look = torch.cat(
        [
            torch.ones(2, 4) * torch.tensor([[1.0], [-1.0]]),
            torch.ones(2, 4) * torch.tensor([[-1.0], [1.0]]),
        ],
        1,
    )
    right = {
        "first.weight": 0.5 * look,
        "first.bias": torch.zeros(2),
        "last.weight": 2 * eye,
        "last.bias": torch.zeros(2),
    }
    wrong = {name: 0.01 * noise(*tensor.shape, seed=1) for name, tensor in base.items()}
    return network, base, {"a": Vector(right), "b": Vector(wrong)}


def halves(batches: int = 20) -> list[Tensor]:
    """Images of shape (2, 4) with a bright left half, or a bright right one.

    Mirroring along the first axis leaves the class.
    """
    made = []
    for seed in range(batches):
        images = 0.1 * noise(6, 1, 2, 4, seed=seed).abs()
        for number in range(6):
            images[number, 0, number % 2] += 1.0
        made.append(images)
    return made


def segmenter() -> tuple[Segmenter, StateDict, dict[str, Vector]]:
    """a's threshold lies between dark and bright and so outlasts a bent.

    b's lies in the middle of the bright.
    """
    network = Segmenter()
    with torch.no_grad():
        network.conv.weight.zero_()
        network.conv.bias.zero_()
    base = floating(network)
    vectors = {}
    for site, threshold in (("a", 0.3), ("b", 0.9)):
        vectors[site] = Vector({name: torch.zeros_like(tensor) for name, tensor in base.items()})
        vectors[site].state["conv.weight"] = torch.tensor([-8.0, 8.0]).reshape(2, 1, 1, 1)
        vectors[site].state["conv.bias"] = torch.tensor([8.0, -8.0]) * threshold
    return network, base, vectors


def dark_and_bright(batches: int = 20) -> list[Tensor]:
    """Make images with a dark half and a bright half, the bright one between 0.8 and 1."""
    made = []
    for seed in range(batches):
        images = 0.05 * torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
        images[..., 3:] = 0.8 + 4 * images[..., 3:]
        made.append(images)
    return made


def check(found: Adapted, base: StateDict) -> None:
    """Shares of each parameter add up to 1, and the model is what they say."""
    assert set(found.coefficients) == set(found.state) == set(base)
    for shares in found.coefficients.values():
        assert min(shares.values()) > 0 and sum(shares.values()) == pytest.approx(1.0, abs=1e-5)


def test_entropy_finds_the_vector_that_is_sure() -> None:
    network, base, vectors = classifier()
    found = adapt(network, base, vectors, UNSURE, halves(), objective="entropy")
    check(found, base)
    assert (
        found.coefficients["first.weight"]["a"] > 0.6
        and found.coefficients["last.weight"]["a"] > 0.6
    )
    assert len(found.losses) == 20 and found.losses[-1] < found.losses[0]


def test_consistency_finds_the_vector_whose_answer_outlasts_a_bend() -> None:
    network, base, vectors = segmenter()
    found = adapt(network, base, vectors, UNSURE, dark_and_bright(), objective="consistency")
    check(found, base)
    assert found.coefficients["conv.bias"]["a"] > 0.6
    assert found.coefficients["norm.running_mean"] == {"a": 0.5, "b": 0.5}  # has no gradient
    assert found.losses[-1] < found.losses[0]


def test_two_that_are_equally_sure_differ_in_what_a_bend_does_to_them() -> None:
    """Grey is 0.5, bent 0.35: a threshold of 0.75 lies above both, one of 0.43 between them.

    Stripes run across the mirrored axis.
    """
    network, base, vectors = segmenter()
    for site, threshold in (("a", 0.75), ("b", 0.43)):
        vectors[site].state["conv.weight"] = torch.tensor([-100.0, 100.0]).reshape(2, 1, 1, 1)
        vectors[site].state["conv.bias"] = torch.tensor([100.0, -100.0]) * threshold
    stripes = (
        torch.tensor([0.0, 0.5, 1.0]).repeat_interleave(2).reshape(1, 1, 6, 1).expand(2, 1, 6, 4)
    )
    losses = {
        (site, objective): adapt(
            network, base, vectors, {site: 1.0}, [stripes], objective=objective
        ).losses[0]
        for site in "ab"
        for objective in OBJECTIVES
    }
    # minus the entropy of the mean answer
    of_two_thirds = -float(torch.special.entr(torch.tensor([1 / 3, 2 / 3])).sum())
    assert losses["a", "entropy"] == pytest.approx(0.0, abs=1e-3) and losses[
        "b", "entropy"
    ] == pytest.approx(0.0, abs=1e-3)
    assert losses["a", "consistency"] == pytest.approx(of_two_thirds, abs=1e-2)
    assert losses["b", "consistency"] > 1.0


def test_the_model_is_the_base_and_the_vectors_times_their_coefficients() -> None:
    network, base, vectors = segmenter()
    found = adapt(network, base, vectors, UNSURE, dark_and_bright(3))
    for name, shares in found.coefficients.items():
        expected = base[name] + sum(
            share * vectors[site].task_vector(name) for site, share in shares.items()
        )
        assert_close(found.state[name], expected)
        assert not found.state[name].requires_grad


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_one_set_for_all_parameters_or_one_for_each(objective: str) -> None:
    network, base, vectors = classifier()
    together = adapt(
        network, base, vectors, UNSURE, halves(5), objective=objective, layer_wise=False
    )
    check(together, base)
    assert len({tuple(shares.items()) for shares in together.coefficients.values()}) == 1
    assert together.coefficients["last.bias"]["a"] != pytest.approx(0.5, abs=1e-3)
    apart = adapt(network, base, vectors, UNSURE, halves(5), objective=objective)
    assert len({tuple(shares.items()) for shares in apart.coefficients.values()}) > 1


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_of_identical_vectors_the_coefficients_do_not_matter_and_stay(objective: str) -> None:
    network, base, vectors = classifier()
    found = adapt(
        network,
        base,
        {"a": vectors["a"], "b": vectors["a"]},
        {"a": 0.7, "b": 0.3},
        halves(5),
        objective=objective,
    )
    for name, shares in found.coefficients.items():
        assert shares == pytest.approx({"a": 0.7, "b": 0.3}, abs=1e-3)
        assert_close(found.state[name], base[name] + vectors["a"].task_vector(name))


def test_without_images_it_stays_where_it_started() -> None:
    network, base, vectors = classifier()
    found = adapt(network, base, vectors, {"a": 0.75, "b": 0.25}, [])
    assert found.losses == ()
    assert all(
        shares == pytest.approx({"a": 0.75, "b": 0.25}) for shares in found.coefficients.values()
    )
    one_sided = adapt(network, base, vectors, {"b": 1.0}, [])
    assert 0 < one_sided.coefficients["last.bias"]["a"] < 0.02  # small, but it can be found


def test_the_order_of_the_vectors_changes_nothing() -> None:
    network, base, vectors = classifier()
    one = adapt(network, base, vectors, {"a": 0.6, "b": 0.4}, halves(3))
    other = adapt(network, base, dict(reversed(vectors.items())), {"b": 0.4, "a": 0.6}, halves(3))
    assert one.coefficients == other.coefficients and one.losses == other.losses


def test_the_network_is_left_as_it_was() -> None:
    network, base, vectors = segmenter()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.train()
    with torch.no_grad():  # as callers may
        adapt(network, base, vectors, UNSURE, dark_and_bright(3))
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("objective", "start"),
    [("magic", UNSURE), ("entropy", {}), ("entropy", {"c": 1.0}), ("consistency", {"a": 0.0})],
)
def test_an_unknown_objective_or_nowhere_to_start_is_refused(
    objective: str, start: dict[str, float]
) -> None:
    network, base, vectors = classifier()
    with pytest.raises(ValueError, match="objective"):
        adapt(network, base, vectors, start, halves(1), objective=objective)
