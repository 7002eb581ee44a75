"""What private training tells about one patient: epsilon, and the noise for a wanted one.

Renyi differential privacy of the Poisson-sampled Gaussian mechanism (Mironov, Talwar and Zhang
2019, https://arxiv.org/abs/1908.10530), by `dp-accounting`. It adds up over rounds and runs.
Accounting by privacy loss distributions would find a smaller epsilon, by about a tenth, but takes
seconds for each sum. Two neighbours are a hospital with and without one patient; the number of
patients counts as public.
"""

import math
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from polyclinic.config.schemas import STRICT

# of Renyi divergence; fractional ones do not converge for large shares, and help only beyond
# epsilon 20
ORDERS = (*range(2, 65), 80, 96, 128, 192, 256, 512)
LEAST_NOISE, MOST_NOISE = 0.05, 1e6
MOST_STEPS = 10**9
TOLERANCE = 1e-6  # of the noise that is found


@dataclass(frozen=True, config=STRICT)
class Spending:
    """Steps of private training that are alike.

    Attributes:
        share: Chance of each patient to be drawn in a step.
        noise: Standard deviation of the noise on the sum of gradients, in lengths of the longest.
        steps: Number of steps.
    """

    share: Annotated[float, Field(gt=0, le=1)]
    noise: Annotated[float, Field(gt=0, le=MOST_NOISE, allow_inf_nan=False)]
    steps: Annotated[int, Field(ge=1, le=MOST_STEPS)]


def epsilon(spent: Iterable[Spending], delta: float) -> float:
    """Compute what steps together tell about one patient: they are (epsilon, delta)-private.

    Args:
        spent: Over the same patients; the next may hang on what the last ones gave.
        delta: Well below one in the number of patients.
    """
    counts: Counter[tuple[float, float]] = Counter()
    for each in spent:
        counts[each.share, each.noise] += each.steps
    return _epsilon(tuple(sorted((*key, steps) for key, steps in counts.items())), delta)


@lru_cache(maxsize=256)
def _epsilon(counts: tuple[tuple[float, float, int], ...], delta: float) -> float:
    if not counts:
        return 0.0
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent  # a second
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(ORDERS)
    for share, noise, steps in counts:
        accountant.compose(PoissonSampledDpEvent(share, GaussianDpEvent(noise)), steps)
    return float(accountant.get_epsilon(delta))


@lru_cache(maxsize=64)
def find_noise(wanted: float, delta: float, share: float, steps: int) -> float:
    """Find the least noise with which so many steps stay within an epsilon.

    Args:
        wanted: The epsilon.
        delta: For which it counts.
        share: Chance of each patient to be drawn in a step.
        steps: Number of all steps.

    Returns:
        A noise multiplier; a millionth larger than needed at most. Infinite if none is enough.
    """

    def tells(noise: float) -> float:
        return epsilon([Spending(share, noise, steps)], delta)

    low, high = LEAST_NOISE, 1.0
    while tells(high) > wanted:
        low, high = high, 2 * high
        if high > MOST_NOISE:
            return math.inf
    if tells(low) <= wanted:
        return low
    while high - low > TOLERANCE * high:
        middle = (low + high) / 2
        low, high = (middle, high) if tells(middle) > wanted else (low, middle)
    return high
