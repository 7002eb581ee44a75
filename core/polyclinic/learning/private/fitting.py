"""The loop of private training: draw patients, shorten each one's gradient, add noise."""

import math
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from polyclinic.config.release import gaussian
from polyclinic.config.schemas import TrainingConfig
from polyclinic.errors import ConfigError
from polyclinic.imaging.subjects import number_subjects
from polyclinic.learning.loading.batches import Draw
from polyclinic.learning.loading.samples import TrainingSamples
from polyclinic.learning.modes import training_mode
from polyclinic.learning.optimizing.schedules import Round
from polyclinic.learning.optimizing.stepping import Stepper
from polyclinic.learning.preparation import PreparedSite
from polyclinic.learning.private.plan import PrivatePlan
from polyclinic.learning.state_dict import all_finite
from polyclinic.learning.training import ONLY, FitResult

AT_ONCE = 2**20  # numbers for which noise is drawn
Batch = dict[str, Tensor]


def fit_privately(
    network: nn.Module,
    prepared: PreparedSite,
    training: TrainingConfig,
    plan: PrivatePlan,
    seed: int,
    *,
    stepper: Stepper | None = None,
    place: Round = ONLY,
    on_step: Callable[[int, int, float], None] | None = None,
) -> FitResult:
    """Train in place for the steps of a plan.

    Who is drawn, and the noise, come from the operating system's randomness: no two trainings are
    the same. The seed decides crops, augmentation and dropout alone, which may be known.

    Args:
        network: Changed in place.
        prepared: The hospital's cases.
        training: Optimizer, loss, schedule; `clip` shortens the noisy gradient.
        plan: From `plan_round`.
        seed: Of crops, augmentation and dropout.
        stepper: One that has made steps before; None makes the configured one.
        place: Which of the training's rounds this is.
        on_step: Called with (step, steps, loss) after each step. The loss has no noise: it must
            not leave.

    Returns:
        The result; its loss is NaN, because it may leave.

    Raises:
        ConfigError: The weights stopped being finite.
    """
    stepper = stepper or Stepper(network, training)
    patients, steps = Patients(prepared, training, seed), plan.spending.steps
    with training_mode(network, train=True), torch.random.fork_rng():
        torch.manual_seed(seed)
        for step in range(1, steps + 1):
            place.set_rate(
                stepper.optimizer, training.schedule, training.learning_rate, step, steps
            )
            losses = private_step(stepper, patients.draw(plan.spending.share), plan)
            if on_step is not None:
                on_step(step, steps, sum(losses) / len(losses) if losses else math.nan)
    if not all_finite(stepper.weights):
        raise ConfigError(
            f"Private training diverged: lower training.learning_rate, which is "
            f"{training.learning_rate:g}."
        )
    return FitResult(math.nan, steps, len(prepared.training))


def private_step(stepper: Stepper, patients: Iterable[Batch], plan: PrivatePlan) -> list[float]:
    """Make one step along the noisy mean of the patients' gradients, each of bounded length.

    g = (sum over patients of g_p min(1, C / |g_p|) + N(0, s^2 C^2)) / B with the bound C, the noise
    s and the expected number of patients B. A gradient that is not finite counts as 0.

    Args:
        stepper: Has the network.
        patients: All samples of each patient in the step.
        plan: Bound, noise and expected number.

    Returns:
        The loss of each patient. It has no noise.
    """
    sums = [torch.zeros_like(weight) for weight in stepper.weights]
    losses = []
    for batch in patients:
        losses.append(float(stepper.backward(batch["image"], batch["label"]).detach()))
        found = [(total, weight.grad) for total, weight in zip(sums, stepper.weights, strict=True)]
        present = [(total, slope) for total, slope in found if slope is not None]
        length = float(get_total_norm([slope for _, slope in present]))
        if math.isfinite(length):
            scale = min(1.0, plan.clipping_norm / length) if length > 0 else 1.0
            for total, slope in present:
                total.add_(slope, alpha=scale)
    deviation = plan.spending.noise * plan.clipping_norm
    for total, weight in zip(sums, stepper.weights, strict=True):
        add_noise(total, deviation)
        weight.grad = total.div_(plan.expected)
    stepper.update()
    return losses


def add_noise(values: Tensor, deviation: float) -> None:
    """Add Gaussian noise from the operating system's randomness, in place."""
    flat = values.view(-1)
    for start in range(0, flat.numel(), AT_ONCE):
        part = flat[start : start + AT_ONCE]
        part.add_((deviation * gaussian(part.numel())).to(part))


class Patients:
    """Training samples by patient.

    Args:
        prepared: The hospital's cases.
        training: For generated shifts.
        seed: Of crops and augmentation.
    """

    def __init__(self, prepared: PreparedSite, training: TrainingConfig, seed: int) -> None:
        data = prepared.data
        self._each, self._share = data.samples_per_case, data.foreground_share
        self._samples = TrainingSamples(
            prepared.training, data, seed, training.shifts, each_seeded=True
        )
        cases: dict[int, list[int]] = defaultdict(list)
        for case, patient in enumerate(number_subjects(prepared.dataset.training)):
            cases[patient].append(case)
        self._cases = list(cases.values())
        self._random, self._number = secrets.SystemRandom(), 0

    def draw(self, share: float) -> Iterator[Batch]:
        """Draw each patient with the same chance; yield all samples of each in one batch."""
        for cases in self._cases:
            if share >= 1 or self._random.random() < share:
                yield self._batch(cases)

    def _batch(self, cases: list[int]) -> Batch:
        """Take `samples_per_case` samples of a patient, of cases that are drawn."""
        centred = max(1, round(self._each * self._share)) if self._share > 0 else 0
        drawn = []
        for place in range(self._each):
            case = self._random.choice(cases)
            centre = place >= self._each - centred
            drawn.append(self._samples[Draw(case * self._each + place, self._number, centre)])
            self._number += 1
        return {key: torch.stack([each[key] for each in drawn]) for key in drawn[0]}
