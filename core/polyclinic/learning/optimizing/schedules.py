"""The learning rate over a training: of all its rounds, or of its passes."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from torch.optim import Optimizer

from polyclinic.config.schemas import TrainingConfig

WARM = 0.05  # share of the steps in which it rises
POWER = 0.9  # of the polynomial, as in nnU-Net


@dataclass(frozen=True)
class Round:
    """Place of a round among all rounds of a training.

    Attributes:
        number: From 1.
        of: Number of all rounds.
    """

    number: int = 1
    of: int = 1

    def set_rate(
        self,
        optimizer: Optimizer,
        schedule: Literal["constant", "polynomial", "cosine"],
        highest: float,
        step: int,
        steps: int,
    ) -> None:
        """Set the learning rate of one step of this round, as falls over all rounds.

        With t the share of all steps that are done before: (1 - t)^0.9, or (1 + cos(pi t)) / 2.

        Args:
            optimizer: All of its groups get the same rate; with `constant` they stay as they are.
            schedule: Name of the curve.
            highest: Rate of the first step of the first round.
            step: Number of the step in this round, from 1.
            steps: Number of this round's steps; every round counts as having as many.

        Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z, for the polynomial;
        Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983, for the cosine.
        """
        if schedule == "constant":
            return
        done = ((self.number - 1) * steps + step - 1) / (max(self.of, self.number) * steps)
        share = (1 - done) ** POWER if schedule == "polynomial" else cosine(done)
        for group in optimizer.param_groups:
            group["lr"] = highest * share


def set_rate(optimizer: Optimizer, highest: float, step: int, steps: int) -> None:
    """Set the learning rate of a step.

    Args:
        optimizer: All of its groups get the same rate.
        highest: Rate at the end of the rise.
        step: Number of the step, from 1.
        steps: Number of all steps. In the last one the rate is zero: of N passes that shall all
            count, the last is step N of N + 1.

    Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983.
    """
    warm = max(1.0, WARM * steps)
    rate = step / warm if step <= warm else cosine((step - warm) / max(1.0, steps - warm))
    for group in optimizer.param_groups:
        group["lr"] = highest * rate


def scale_rate(training: TrainingConfig, factor: float) -> TrainingConfig:
    """Return the settings with another learning rate, the optimizer's own as well."""
    optimizer = {**training.optimizer}
    if "lr" in optimizer:
        optimizer["lr"] *= factor
    return replace(training, learning_rate=factor * training.learning_rate, optimizer=optimizer)


def cosine(done: float) -> float:
    """Return the share of the highest rate where a share of the training is done."""
    return 0.5 * (1 + math.cos(math.pi * done))
