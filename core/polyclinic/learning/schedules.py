"""The learning rate over a training: up in a straight line, then down along a cosine."""

import math

from torch.optim import Optimizer

WARM = 0.05  # share of the steps in which it rises


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
    rate = (
        step / warm
        if step <= warm
        else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1.0, steps - warm)))
    )
    for group in optimizer.param_groups:
        group["lr"] = highest * rate
