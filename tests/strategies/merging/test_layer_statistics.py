"""Gram matrices and the Fisher diagonal against what they are on paper."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from polyclinic.config.compose import load_data
from polyclinic.config.schemas import TrainingConfig
from polyclinic.imaging.datasets import Case
from polyclinic.learning.preparation import PreparedCases, PreparedSite, Sample
from polyclinic_strategies.merging import layer_statistics as statistics
from polyclinic_strategies.merging.layer_statistics import (
    fisher_diagonal,
    gram_matrices,
    measure_fisher,
    measure_gram,
    subject_batches,
)

TRAINING = TrainingConfig(
    epochs=1,
    batch_size=4,
    learning_rate=0.1,
    optimizer={"_target_": "torch.optim.SGD"},
    loss={"_target_": "torch.nn.CrossEntropyLoss"},
)
SQUARES = TrainingConfig(
    1, 4, 0.1, {"_target_": "torch.optim.SGD"}, {"_target_": "torch.nn.MSELoss"}
)


def images(*batches: Tensor) -> list[Mapping[str, Tensor]]:
    return [{"image": batch} for batch in batches]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_gram_matrix_of_a_linear_layer_is_the_second_moment_of_its_inputs() -> None:
    first, second = random(5, 3), random(2, 3, seed=1)
    pooled = torch.cat([first, second])
    grams = gram_matrices(nn.Linear(3, 4), images(first, second), 2)
    assert_close(grams, {"gram/weight": pooled.T @ pooled / 7})
    assert_close(
        gram_matrices(nn.Linear(3, 4), images(first, second), 1),
        {"gram/weight": first.T @ first / 5},
    )


def test_a_layer_inside_a_network_sees_what_the_layers_before_it_answer() -> None:
    network = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Dropout(0.9), nn.Linear(6, 2))
    batch = random(5, 4, 3)  # two leading axes
    inside = network[:2](batch).flatten(0, 1).detach()
    grams = gram_matrices(network, images(batch), 9)
    assert set(grams) == {"gram/0.weight", "gram/3.weight"}
    assert_close(grams["gram/3.weight"], inside.T @ inside / 20)
    assert grams["gram/3.weight"].dtype == torch.float32


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("at_once", [1, 100, 2**22])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(2, 3, 3, padding="same", dilation=2), (2, 2, 9)),
        (nn.Conv2d(3, 4, 3), (2, 3, 7, 6)),
        (nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (2, 3, 7, 6)),
        (nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), (2, 2, 5, 6)),
        (nn.Conv2d(2, 4, 2, padding="same"), (2, 2, 5, 6)),
        (nn.Conv2d(2, 4, 1, padding="valid"), (2, 2, 5, 6)),
        (nn.Conv3d(2, 3, 3, stride=2, padding=1), (2, 2, 5, 4, 6)),
    ],
)
def test_unfolded_patches_times_the_weights_are_the_convolution(
    layer: Any, shape: Any, at_once: int, monkeypatch: Any
) -> None:
    monkeypatch.setattr(statistics, "_AT_ONCE", at_once)
    batch = random(*shape)
    rows = torch.cat(list(statistics._rows(layer, batch)))
    answer = layer(batch).movedim(1, -1)
    assert_close(rows @ layer.weight.flatten(1).T + layer.bias, answer.flatten(0, -2))
    assert_close(gram_matrices(layer, images(batch), 1), {"gram/weight": rows.T @ rows / len(rows)})


def test_the_gram_matrix_of_a_convolution_is_that_of_torchs_own_unfolding() -> None:
    layer, batch = nn.Conv2d(3, 4, 3, stride=2, padding=1), random(2, 3, 7, 6)
    patches = nn.functional.unfold(batch, 3, stride=2, padding=1).movedim(1, -1).flatten(0, 1)
    assert_close(
        gram_matrices(layer, images(batch), 1)["gram/weight"], patches.T @ patches / len(patches)
    )


def test_layers_without_a_matrix_have_no_entry() -> None:
    network = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=4),
        nn.ConvTranspose2d(4, 4, 2),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 8, 3),
        nn.Conv2d(8, 1, 1),
    )
    grams = gram_matrices(network, images(random(2, 4, 6, 6)), 1, max_inputs=35)
    assert set(grams) == {"gram/4.weight"}


def test_what_never_ran_has_no_entry() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, image: Tensor) -> Tensor:
            return self.used(self.used(image))

    network, batch = Half(), random(3, 2)
    both = torch.cat([batch, network.used(batch).detach()])
    assert_close(gram_matrices(network, images(batch), 1), {"gram/used.weight": both.T @ both / 6})


def test_sums_are_exact_where_float32_would_lose_the_small_ones() -> None:
    batch = torch.tensor([[4096.0]] + [[1.0]] * 3000)
    assert gram_matrices(nn.Linear(1, 1), images(batch), 1)["gram/weight"].item() == pytest.approx(
        (4096**2 + 3000) / 3001, rel=1e-7
    )


def test_the_fisher_information_of_a_logistic_regression() -> None:
    """For W x + b the slope of log p(y) along W is (onehot(y) - p) x^T, along b onehot(y) - p."""
    network, batch, labels = nn.Linear(3, 2), random(6, 3), torch.tensor([0, 1, 1, 0, 1, 0])
    residual = nn.functional.one_hot(labels, 2) - network(batch).softmax(1).detach()
    expected = {
        "fisher/weight": (residual[:, :, None] * batch[:, None, :]).square().mean(0),
        "fisher/bias": residual.square().mean(0),
    }
    loader = [{"image": batch[:4], "label": labels[:4]}, {"image": batch[4:], "label": labels[4:]}]
    assert_close(fisher_diagonal(network, loader, TRAINING, 2), expected)


def test_the_fisher_information_of_a_linear_gaussian() -> None:
    """With the loss (w x - y)^2, a Gaussian of variance 1/2, the slope is 2 (w x - y) x."""
    network, batch, targets = nn.Linear(1, 1, bias=False), random(5, 1), random(5, 1, seed=1)
    slopes = 2 * (network(batch) - targets).detach() * batch
    loader = [{"image": batch, "label": targets}]
    assert_close(
        fisher_diagonal(network, loader, SQUARES, 1),
        {"fisher/weight": slopes.square().mean().reshape(1, 1)},
    )


def test_frozen_and_unused_parameters() -> None:
    network = nn.ModuleDict(
        {"head": nn.Linear(2, 2), "body": nn.Linear(2, 2), "spare": nn.Linear(2, 2)}
    )
    network["body"].requires_grad_(False)
    network.forward = lambda image: network["head"](network["body"](image))  # type: ignore[method-assign]
    fishers = fisher_diagonal(
        network, [{"image": random(3, 2), "label": torch.tensor([0, 1, 0])}], TRAINING, 1
    )
    assert set(fishers) == {
        f"fisher/{layer}.{kind}" for layer in ("head", "spare") for kind in ("weight", "bias")
    }
    assert not fishers["fisher/spare.weight"].any()
    assert fishers["fisher/head.weight"].all()


@pytest.mark.parametrize("broken", [False, True])
def test_the_network_is_left_as_it_was(broken: bool) -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Flatten(), nn.Linear(8, 2)
    )
    network[1].eval()
    batch = {"image": random(3, 1, 4, 4), "label": torch.tensor([0, 1, 0])}
    network(batch["image"]).sum().backward()
    slopes = [weight.grad.clone() for weight in network.parameters() if weight.grad is not None]
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    bad = {"image": random(3, 1, 9, 9), "label": batch["label"]}
    loader = [batch, bad] if broken else [batch]
    for compute in (
        lambda: gram_matrices(network, loader, 2),
        lambda: fisher_diagonal(network, loader, TRAINING, 2),
    ):
        if broken:
            with pytest.raises(RuntimeError):
                compute()
        else:
            compute()
    assert [layer.training for layer in network] == [True, False, True, True, True]
    assert not any(layer._forward_pre_hooks for layer in network)
    assert_close(network.state_dict(), state, rtol=0, atol=0)
    assert_close([weight.grad for weight in network.parameters()], slopes, rtol=0, atol=0)


def test_nothing_to_compute_from_is_said() -> None:
    with pytest.raises(ValueError, match="at least one"):
        gram_matrices(nn.Linear(1, 1), [], 0)
    with pytest.raises(ValueError, match="at least one"):
        fisher_diagonal(nn.Linear(1, 1), [], TRAINING, 0)
    with pytest.raises(ValueError, match="yields nothing"):
        fisher_diagonal(nn.Linear(1, 1), [], TRAINING, 1)
    assert gram_matrices(nn.Linear(1, 1), [], 1) == {}


def test_every_subject_counts_alike_however_many_cases_and_samples_it_has() -> None:
    visits = {"a": [1.0], "b": [2.0, 2.0, 2.0], "c": [3.0]}
    cases = [
        Case(f"{name}{number}", (Path(f"{name}{number}"),), 0, "training", name)
        for name, values in visits.items()
        for number in range(len(values))
    ]
    pictures = [value for values in visits.values() for value in values]
    prepared = prepare_pictures(cases, pictures)
    for batch_size in (1, 4):
        training = replace(TRAINING, batch_size=batch_size)
        network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
        gram = measure_gram(network, prepared, training, 0)["gram/1.weight"]
        assert_close(gram, torch.full((4, 4), (1.0 + 4.0 + 9.0) / 3))
        fisher = measure_fisher(network, prepared, training, 0)
        batches = list(subject_batches(prepared, training, 0))
        alone = [fisher_diagonal(network, [batch], training, 1) for batch in batches]
        assert len(alone) == 3
        mean = torch.stack([each["fisher/1.weight"] for each in alone]).mean(0)
        assert_close(fisher["fisher/1.weight"], mean)


def prepare_pictures(cases: list[Case], values: list[float]) -> PreparedSite:
    """Pictures of one value each, as they are after preparation."""
    data = load_data(["data=classification_2d", "data.patch=[2,2]"])
    data = replace(data, augment=(), samples_per_case=2)
    samples = [
        Sample(case, torch.full((1, 2, 2, 1), value), 0, torch.arange(1))
        for case, value in zip(cases, values, strict=True)
    ]
    training = PreparedCases([], data, 0.0, lambda: None)
    training.cases = tuple(cases)
    training._kept = dict(enumerate(samples))
    return PreparedSite(None, data, training, training)  # type: ignore[arg-type]
