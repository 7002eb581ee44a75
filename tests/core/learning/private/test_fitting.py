"""Steps of private training: whose gradients, how long, how much noise."""

import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from polyclinic.config.compose import load_config
from polyclinic.config.schemas import Config
from polyclinic.errors import ConfigError
from polyclinic.imaging.datasets import read_dataset
from polyclinic.learning.networks.efficientnet import EfficientNetLite0
from polyclinic.learning.optimizing.stepping import Stepper
from polyclinic.learning.preparation import PreparedSite, prepare
from polyclinic.learning.private.accounting import Spending
from polyclinic.learning.private.fitting import Patients, add_noise, fit_privately, private_step
from polyclinic.learning.private.plan import (
    PrivatePlan,
    Wanted,
    check_network,
    check_splits,
    plan_round,
)
from tests.core.simulation.small_hospitals import SMALL, write_hospitals


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hospitals(tmp_path_factory.mktemp("site"), "north")[0]


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(SMALL)


@pytest.fixture(scope="module")
def prepared(folder: Path, config: Config) -> PreparedSite:
    return prepare(read_dataset(folder), config.data)


def plan(noise: float, patients: int, share: float = 1.0, clip: float = 1.0) -> PrivatePlan:
    return PrivatePlan(patients, Spending(share, noise, 1), clip, 1e-5)


class Product(nn.Module):
    """The loss is weight * image: a patient's gradient is the image."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def forward(self, image: Tensor) -> Tensor:
        return (self.weight * image).sum(1)


class Sum(nn.Module):
    """A loss that is the output."""

    def forward(self, output: Tensor, label: Tensor) -> Tensor:
        return output.sum()


def product_stepper(config: Config) -> Stepper:
    network = Product()
    stepper = Stepper(network, config.training, torch.optim.SGD(network.parameters(), lr=1.0))
    stepper._loss_of = Sum()
    return stepper


def batch(*values: float) -> dict[str, Tensor]:
    return {"image": torch.tensor([values]), "label": torch.zeros(1)}


def test_a_step_is_the_mean_of_shortened_gradients(config: Config) -> None:
    stepper = product_stepper(config)
    patients = [batch(3.0, 4.0), batch(0.1, 0.0), batch(math.inf, 0.0)]
    private_step(stepper, patients, plan(1e-12, 4))
    # (0.6, 0.8) + (0.1, 0) + nothing, over four expected patients
    assert torch.allclose(stepper.weights[0].detach(), -torch.tensor([0.7, 0.8]) / 4, atol=1e-6)


def test_one_patient_moves_a_step_by_no_more_than_the_bound(config: Config) -> None:
    moved = []
    for patients in ([batch(1.0, 0.0)], [batch(1.0, 0.0), batch(0.0, 1e6)]):
        stepper = product_stepper(config)
        private_step(stepper, patients, plan(1e-12, 2, clip=0.5))
        moved.append(stepper.weights[0].detach())
    assert float((moved[0] - moved[1]).norm()) == pytest.approx(0.5 / 2, rel=1e-5)


def test_a_step_without_any_patient_still_has_the_noise(config: Config) -> None:
    stepper = product_stepper(config)
    assert private_step(stepper, [], plan(2.0, 4)) == []
    assert bool((stepper.weights[0] != 0).all())


def test_noise_has_its_deviation_and_never_repeats() -> None:
    first, second = torch.zeros(200, 1000), torch.zeros(200, 1000)
    for values in (first, second):
        add_noise(values, 3.0)
    assert float(first.std()) == pytest.approx(3.0, rel=0.01)
    assert float((first * second).mean()) == pytest.approx(0.0, abs=0.1)


def test_each_patient_is_drawn_with_the_same_chance_and_alone(
    prepared: PreparedSite, config: Config
) -> None:
    patients = Patients(prepared, config.training, 0)
    counts = [len(list(patients.draw(0.5))) for _ in range(200)]
    assert 150 < sum(counts) < 250 and set(counts) == {0, 1, 2}  # of two patients
    (one, _) = patients.draw(1.0)
    assert one["image"].shape == (config.data.samples_per_case, 1, 16, 16)


def test_visits_of_one_patient_are_one_unit(folder: Path, config: Config, tmp_path: Path) -> None:
    dataset = read_dataset(folder)
    same = tuple(replace(case, subject="a") for case in dataset.training)
    joined = prepare(replace(dataset, training=same), config.data)
    assert len(list(Patients(joined, config.training, 0).draw(1.0))) == 1
    wanted = Wanted(8.0, 1e-5, 1.0, 2)
    assert plan_round(joined.dataset, config.training, wanted).patients == 1
    assert tmp_path.exists()


def test_training_moves_the_weights_and_tells_no_loss(
    prepared: PreparedSite, config: Config
) -> None:
    from polyclinic.config.compose import instantiate

    network, told = instantiate(config.model), list[tuple[int, int]]()
    before = [weight.detach().clone() for weight in network.parameters()]
    made = plan_round(prepared.dataset, config.training, Wanted(8.0, 1e-5, 1.0, 1))
    result = fit_privately(
        network, prepared, config.training, made, 0, on_step=lambda *at: told.append(at[:2])
    )
    assert math.isnan(result.loss) and result.steps == made.spending.steps == len(told)
    moved = [bool((a != b).all()) for a, b in zip(before, network.parameters(), strict=True)]
    assert all(moved)


def test_a_plan_takes_steps_and_shares_from_the_training(folder: Path, config: Config) -> None:
    dataset, wanted = read_dataset(folder), Wanted(8.0, 1e-5, 1.0, 2)
    training = replace(config.training, batch_size=1, epochs=3)
    assert plan_round(dataset, training, wanted).spending.share == 0.5
    assert plan_round(dataset, training, wanted).spending.steps == 6
    assert plan_round(dataset, replace(training, steps=5), wanted).spending.steps == 5
    generous = replace(wanted, delta=0.5)
    assert plan_round(dataset, training, generous).delta == 1 / 20  # of two patients
    with pytest.raises(ConfigError, match="No noise"):
        plan_round(dataset, training, replace(wanted, epsilon=1e-6, delta=1e-300))


def test_what_would_leave_without_noise_is_refused(folder: Path, config: Config) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    shared = [*network.state_dict()]
    with pytest.raises(ConfigError, match="running statistics of '1'"):
        check_network(network, config.training, shared)
    check_network(network, config.training, [name for name in shared if name[0] == "0"])
    shifts = replace(config.training.shifts, feature="mixstyle")
    with pytest.raises(ConfigError, match=r"shifts\.feature"):
        check_network(nn.Linear(2, 2), replace(config.training, shifts=shifts), [])
    dataset = read_dataset(folder)
    check_splits(dataset)
    with pytest.raises(ConfigError, match="split by patient"):
        check_splits(replace(dataset, validation=dataset.training[:1]))


def test_frozen_running_statistics_may_leave_and_moving_ones_may_not() -> None:
    job = ["data=white_blood_cells", "training=fine_tuning", "model=efficientnet_lite0"]
    config = load_config(job)
    for frozen in (True, False):
        network = EfficientNetLite0(4, frozen=frozen)
        with nullcontext() if frozen else pytest.raises(ConfigError, match="stem"):
            check_network(network, config.training, list(network.state_dict()))
