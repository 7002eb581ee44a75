"""Training on a hospital's labels, pass by pass.

After every pass what is needed to go on may be kept, so that a crash costs one pass, and the result
is the same, bit for bit, as without.
"""

import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from polyclinic.config.schemas import TrainingConfig
from polyclinic.learning import training as loops
from polyclinic.learning.loading.samples import training_loader
from polyclinic.learning.optimizing.checkpoint import Checkpoint
from polyclinic.learning.optimizing.schedules import Round, set_rate
from polyclinic.learning.optimizing.stepping import Stepper
from polyclinic.learning.preparation import PreparedSite

log = logging.getLogger("polyclinic.learning.fine_tuning")


@dataclass(frozen=True)
class Course:
    """Length of a training, and its randomness.

    Attributes:
        passes: Number of passes over the training cases, or of rounds of `training.steps` steps.
        seed_of: Seed of each pass, from 1.
        falling: Whether the learning rate falls from pass to pass, along a cosine, where
            `training.schedule` says nothing.
    """

    passes: int
    seed_of: Callable[[int], int]
    falling: bool = False


def fit_passes(
    network: nn.Module,
    prepared: PreparedSite,
    training: TrainingConfig,
    course: Course,
    *,
    checkpoint: Path | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
    turn: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> float:
    """Train in place, from the last pass that was kept.

    Args:
        network: All of it that asks for gradients is trained.
        prepared: The hospital's cases.
        training: Optimizer, batch size, loss; the passes are the course's.
        course: Number of passes and their seeds.
        checkpoint: What is kept after every pass; None keeps nothing.
        on_step: Told after every step: which, of how many in all passes, and its loss.
        turn: Held during a pass.

    Returns:
        The loss of the last pass.

    Raises:
        ConfigError: The loss is no longer finite.
    """
    once = replace(training, epochs=1)
    stepper = Stepper(network, once)
    optimizer = stepper.optimizer
    keeper = Checkpoint(checkpoint, network, optimizer, every=1, scaler=stepper.scaler)
    losses = keeper.resume()
    for number in range(len(losses) + 1, course.passes + 1):

        def tell(step: int, steps: int, value: float, number: int = number) -> None:
            if on_step is not None:
                on_step((number - 1) * steps + step, course.passes * steps, value)

        if course.falling and training.schedule == "constant":
            set_rate(optimizer, training.learning_rate, number, course.passes + 1)
        with turn():
            loader = training_loader(prepared, once, course.seed_of(number))
            losses.append(
                loops.fit(
                    network,
                    loader,
                    once,
                    prepared.data,
                    stepper=stepper,
                    place=Round(number, course.passes),
                    on_step=tell,
                ).loss
            )
        keeper.keep(losses, course.passes)
        log.info("pass %d of %d: loss %.4f", number, course.passes, losses[-1])
    return losses[-1] if losses else math.nan
