"""Training on a hospital's labels pass by pass: in a stage of a federation, and with an encoder that is taken home.

After every pass what is needed to go on may be kept, so that a crash costs one pass, and the result is the same, bit for bit, as without.
"""

import logging
import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from polyclinic import training as loops
from polyclinic.preparation import PreparedSite, training_loader
from polyclinic.rates import set_rate
from polyclinic.schemas import TrainingConfig

log = logging.getLogger("polyclinic.adapting")


@dataclass(frozen=True)
class Course:
    """How long, and with which randomness.

    Attributes:
        passes: Over the training cases.
        seed_of: The seed of each pass, from 1.
        falling: Whether the learning rate falls from pass to pass, along a cosine.
    """

    passes: int
    seed_of: Callable[[int], int]
    falling: bool = False


def fit_passes(
    network: nn.Module, prepared: PreparedSite, training: TrainingConfig, course: Course, *, checkpoint: Path | None = None,
    on_step: Callable[[int, int, float], None] | None = None, turn: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> float:  # fmt: skip
    """Train in place, from the last pass that was kept.

    Args:
        network: All of it that asks for gradients is trained.
        prepared: The hospital's cases.
        training: Optimizer, batch size, loss; the passes are the course's.
        course: How long.
        checkpoint: What is kept after every pass; None keeps nothing.
        on_step: Told after every step: which, of how many in all passes, and its loss.
        turn: Held during a pass.

    Returns:
        The loss of the last pass.

    Raises:
        ConfigError: The loss is no longer finite.
    """
    once = replace(training, epochs=1)
    optimizer = loops.make_optimizer(network, once)
    done, loss = _resume(checkpoint, network, optimizer)
    for number in range(done + 1, course.passes + 1):

        def tell(step: int, steps: int, value: float, number: int = number) -> None:
            if on_step is not None:
                on_step((number - 1) * steps + step, course.passes * steps, value)

        if course.falling:
            set_rate(optimizer, training.learning_rate, number, course.passes + 1)
        with turn():
            loader = training_loader(prepared, once, course.seed_of(number))
            loss = loops.fit(network, loader, once, prepared.data, optimizer=optimizer, on_step=tell).loss
        _keep(checkpoint, network, optimizer, number, loss)
        log.info("pass %d of %d: loss %.4f", number, course.passes, loss)
    return loss


def _keep(path: Path | None, network: nn.Module, optimizer: torch.optim.Optimizer, done: int, loss: float) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    torch.save({"network": network.state_dict(), "optimizer": optimizer.state_dict(), "done": done, "loss": loss}, partial)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def _resume(path: Path | None, network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """How many passes are done already; without a file none."""
    if path is None or not path.exists():
        return 0, math.nan
    kept = torch.load(path, weights_only=True)
    network.load_state_dict(kept["network"])
    optimizer.load_state_dict(kept["optimizer"])
    log.info("going on after pass %d", kept["done"])
    return int(kept["done"]), float(kept["loss"])
