"""What one hospital's private training is: steps, noise, and what does not go with it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from polyclinic.config.schemas import TrainingConfig
from polyclinic.errors import ConfigError
from polyclinic.imaging.datasets import SiteDataset
from polyclinic.imaging.subjects import count_subjects, number_subjects
from polyclinic.learning.modes import find_dtype, training_mode
from polyclinic.learning.private.accounting import Spending, find_noise
from polyclinic.learning.training import device_of

BELOW = 10  # delta is at most one in so many times the number of patients


@dataclass(frozen=True)
class PrivatePlan:
    """How a hospital trains for one round.

    Attributes:
        patients: Number of patients with training cases.
        spending: The round's steps.
        clipping_norm: Length to which one patient's gradient is shortened.
        delta: For which epsilon counts.
    """

    patients: int
    spending: Spending
    clipping_norm: float
    delta: float

    @property
    def expected(self) -> float:
        """Number of patients in a step, on average."""
        return self.spending.share * self.patients


@dataclass(frozen=True)
class Wanted:
    """What all rounds of a run may tell about one patient.

    Attributes:
        epsilon: At most so much.
        delta: The coordinator's, or the hospital's if that is smaller.
        clipping_norm: Length to which one patient's gradient is shortened.
        rounds: Number of rounds.
    """

    epsilon: float
    delta: float
    clipping_norm: float
    rounds: int


def plan_round(dataset: SiteDataset, training: TrainingConfig, wanted: Wanted) -> PrivatePlan:
    """Find the noise with which all rounds together stay within an epsilon.

    A step has `training.batch_size` patients on average, a round `training.steps` steps; if that is
    0, so many that each patient is drawn `training.epochs` times on average.

    Args:
        dataset: The hospital's cases.
        training: Batch size, and steps or epochs.
        wanted: What all rounds may tell.

    Raises:
        ConfigError: No noise is enough.
    """
    patients = count_subjects(dataset.training)
    share = min(1.0, training.batch_size / patients)
    steps = training.steps or training.epochs * math.ceil(patients / training.batch_size)
    delta = min(wanted.delta, 1 / (BELOW * patients))
    noise = find_noise(wanted.epsilon, delta, share, steps * wanted.rounds)
    if math.isinf(noise):
        raise ConfigError(
            f"No noise makes {steps * wanted.rounds} steps tell as little as epsilon "
            f"{wanted.epsilon:g}: raise privacy.patients.epsilon, or train for fewer steps."
        )
    return PrivatePlan(patients, Spending(share, noise, steps), wanted.clipping_norm, delta)


def check_network(network: nn.Module, training: TrainingConfig, shared: Sequence[str]) -> None:
    """Refuse what would leave without protection, or makes patients depend on each other.

    Args:
        network: That is trained.
        training: How.
        shared: Names of the tensors that leave.

    Raises:
        ConfigError: What it is.
    """
    with training_mode(network, train=True):  # what is frozen stays in evaluation mode
        moving = {
            f"{name}.running_mean".removeprefix("."): name
            for name, module in network.named_modules()
            if getattr(module, "running_mean", None) is not None and module.training
        }
    for tensor, name in moving.items():
        if tensor in shared:
            raise ConfigError(
                f"privacy=patient_dp: the running statistics of '{name}' are means over patients "
                "that would leave without noise. Choose a model with instance or group "
                "normalization (model=unet, or norm=instance), strategy=averaging/fedbn, which "
                "keeps them at the hospital, or model.frozen=true where the model has it."
            )
    if training.shifts.feature != "none":
        raise ConfigError(
            "privacy=patient_dp: training.shifts.feature mixes or remembers what patients look "
            "like: set it to none."
        )
    if find_dtype(device_of(network), training.precision) == torch.float16:
        raise ConfigError(
            f"privacy=patient_dp: training.precision={training.precision} computes in float16 "
            "here, which leaves out steps depending on the images: choose float32 or bfloat16."
        )


def check_splits(dataset: SiteDataset) -> None:
    """Refuse a patient who is trained on and scored: scores leave without noise.

    Raises:
        ConfigError: There is one.
    """
    scored = [*dataset.validation, *dataset.test]
    numbers = number_subjects([*dataset.training, *scored])
    count = len(dataset.training)
    if both := set(numbers[:count]) & set(numbers[count:]):
        raise ConfigError(
            f"privacy=patient_dp: {len(both)} of this hospital's patients are in 'training' and in "
            "'validation' or 'test' of dataset.json. Scores leave without noise, so split by "
            "patient."
        )
