"""What one hospital can do to an average: the length of its update and its weight are bounded."""

import math
from collections.abc import Mapping
from statistics import median

from polyclinic.learning.state_dict import longest_update

FEWEST_NORMS = 3  # the median of fewer norms says nothing


def find_too_long(
    updates: Mapping[str, float], asked_norm: float, numbers: int, ratio: float
) -> dict[str, str]:
    """Find the updates that no training makes.

    Args:
        updates: Euclidean norm of each hospital's update.
        asked_norm: Norm of the weights that all of them started from.
        numbers: Count of these weights.
        ratio: Largest norm in medians of the others' norms; 0 for no limit of this kind.

    Returns:
        Why it is refused, by site.
    """
    longest = longest_update(asked_norm, numbers)
    found = {}
    for site, norm in updates.items():
        others = [other for name, other in updates.items() if name != site]
        usual = median(others) if len(others) >= FEWEST_NORMS else 0.0
        if norm > longest:
            found[site] = f"its update's norm is {norm:.4g}, the limit is {longest:.4g}"
        elif ratio > 0 and usual > 0 and norm > ratio * usual:
            found[site] = (
                f"its update's norm is {norm:.4g}, more than {ratio:g} times the other hospitals' "
                f"median of {usual:.4g}"
            )
    return found


def weigh(examples: Mapping[str, int], ratio: float) -> dict[str, int]:
    """Return each hospital's weight in an average: its number of examples, within a limit.

    Args:
        examples: Number of examples by site, at least 1.
        ratio: Largest weight in medians of the others' numbers; 0 for no limit.
    """
    weights = dict(examples)
    for site, count in examples.items():
        others = [other for name, other in examples.items() if name != site]
        if ratio > 0 and others:
            weights[site] = max(1, min(count, math.floor(ratio * median(others))))
    return weights
