"""Restoration after merging: statistics from unlabelled images, or a few labelled steps."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, Dataset

from polyclinic.config.schemas import DataConfig, TrainingConfig
from polyclinic.learning.training import fit
from polyclinic_strategies.merging.restore import fine_tune, recalibrate, several_together

TRAINING = TrainingConfig(
    epochs=7,
    batch_size=4,
    learning_rate=0.1,
    optimizer={"_target_": "torch.optim.SGD", "lr": 0.1},
    loss={"_target_": "torch.nn.CrossEntropyLoss"},
)
DATA = DataConfig(
    task="classification",
    channels=1,
    labels=("left", "right"),
    orientation="LPS",
    spacing_mm=None,
    patch=(1, 1),
    samples_per_case=1,
    cache_gb=1.0,
    intensity=(),
    augment=(),
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Points(Dataset[dict[str, Tensor]]):
    """Two clouds around (2, 2) and (4, 4)."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {
            "image": random(2, seed=index) * 0.3 + 2 + 2 * (index % 2),
            "label": torch.tensor(index % 2),
        }


def loader(seed: int = 0) -> DataLoader[dict[str, Tensor]]:
    return DataLoader(
        Points(), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(seed)
    )


def copy_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.BatchNorm1d(3), (12, 3)),
        (nn.BatchNorm2d(3), (12, 3, 4, 5)),
        (nn.BatchNorm3d(3, momentum=None), (12, 3, 2, 3, 2)),
    ],
)
def test_new_statistics_are_the_mean_and_variance_of_all_images(layer: Any, shape: Any) -> None:
    images = 5 * random(*shape) + 100 * torch.arange(3.0).view(3, *[1] * (len(shape) - 2))
    layer.running_mean.fill_(1e6)
    assert recalibrate(layer, images.split([5, 5, 2])) == 1
    values = images.transpose(0, 1).flatten(1)
    assert_close(layer.running_mean, values.mean(1))
    assert_close(layer.running_var, values.var(1))
    assert layer.num_batches_tracked == 3


def test_a_layer_further_in_sees_what_was_normalized_by_the_batch() -> None:
    network = nn.Sequential(
        nn.BatchNorm1d(2), nn.Linear(2, 4), nn.Dropout(0.5), nn.BatchNorm1d(4, affine=False)
    )
    images = 3 * random(20, 2) + 7
    normalized = (images - images.mean(0)) / (images.var(0, unbiased=False) + network[0].eps).sqrt()
    assert recalibrate(network, [images]) == 2
    inside = network[1](normalized).detach()
    assert_close(network[3].running_mean, inside.mean(0))
    assert_close(network[3].running_var, inside.var(0))


def test_recalibrating_again_changes_nothing_and_the_order_hardly_matters() -> None:
    first, second = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    images = [random(4, 2), random(6, 2, seed=1)]
    recalibrate(first, images)
    once = copy_of(first)
    recalibrate(first, images)
    assert_close(copy_of(first), once, rtol=0, atol=0)
    recalibrate(second, reversed(images))
    assert_close(copy_of(second), once)


def test_a_network_with_ruined_statistics_gets_its_accuracy_back() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    fit(network, loader(), replace(TRAINING, epochs=20), DATA)
    images, labels = (
        torch.stack([point[key] for point in map(Points().__getitem__, range(10))])
        for key in ("image", "label")
    )

    def accuracy() -> float:
        network.eval()
        return float((network(images).argmax(1) == labels).float().mean())

    assert accuracy() == 1.0
    network[1].running_mean.add_(50)
    network[1].running_var.mul_(100)
    assert accuracy() == 0.5
    assert recalibrate(network, images.split(5)) == 1
    assert accuracy() == 1.0


@pytest.mark.parametrize(
    "norm",
    [nn.InstanceNorm2d(4), nn.InstanceNorm2d(4, track_running_stats=True), nn.GroupNorm(2, 4)],
)
def test_other_normalization_is_left_alone(norm: nn.Module) -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.BatchNorm2d(4, track_running_stats=False))
    before = copy_of(network)
    assert recalibrate(network, [random(2, 1, 5, 5)]) == 0
    assert_close(copy_of(network), before, rtol=0, atol=0)


def test_without_images_and_after_a_fault_the_network_is_as_it_was() -> None:
    network = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(), nn.BatchNorm1d(2))
    network[2].eval()
    before = copy_of(network)
    assert recalibrate(network, []) == 0
    with pytest.raises(ValueError, match="more than 1 value"):
        recalibrate(network, [random(4, 2), random(1, 2)])
    assert_close(copy_of(network), before, rtol=0, atol=0)
    assert [layer.training for layer in network] == [True, True, False]
    assert not any(layer._forward_pre_hooks for layer in network)
    assert network[0].track_running_stats


def test_a_last_batch_of_one_image_does_not_hinder_restoration() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    several, one = random(5, 3), random(1, 3, seed=1)
    with pytest.raises(ValueError, match="more than 1 value"):
        recalibrate(network, [several, one])
    assert recalibrate(network, several_together([several, one])) == 1
    assert list(several_together([one])) == [one], "an only image is tried"
    assert list(several_together([])) == []


def test_only_statistics_change() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    before = copy_of(network)
    recalibrate(network, [random(4, 2)])
    after = copy_of(network)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert all(weight.grad is None for weight in network.parameters())


def test_no_steps_are_the_identity() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = copy_of(network)
    assert fine_tune(network, loader(), TRAINING, DATA, 0) is None
    assert_close(copy_of(network), before, rtol=0, atol=0)
    with pytest.raises(ValueError, match="at least 0"):
        fine_tune(network, loader(), TRAINING, DATA, -1)


def test_steps_are_those_of_training() -> None:
    networks = [nn.Linear(2, 2) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    done = fine_tune(networks[0], loader(), TRAINING, DATA, 3)
    expected = fit(networks[1], loader(), replace(TRAINING, epochs=1), DATA)
    assert (
        done is not None
        and done.steps == expected.steps == 3
        and done.loss == pytest.approx(expected.loss)
    )
    assert_close(copy_of(networks[0]), copy_of(networks[1]), rtol=0, atol=0)


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_exactly_so_many_steps(steps: int) -> None:
    network = nn.Linear(2, 2)
    done = fine_tune(network, loader(), TRAINING, DATA, steps)
    assert done is not None and (done.steps, done.num_examples) == (steps, 10)
