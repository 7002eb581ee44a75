"""How far a mean over a hospital's subjects may be from that of its population.

A mean m over n subjects with covariance C has E||m - mu||^2 = tr C / n, so the squared distance
between two means is too large by tr C_i / n_i + tr C_j / n_j. One number for each mean takes that
away again: the unbiased estimator behind the energy distance (Szekely and Rizzo 2013,
https://doi.org/10.1016/j.jspi.2013.03.018) and the maximum mean discrepancy (Gretton et al. 2012,
https://jmlr.org/papers/v13/gretton12a.html), for a linear kernel.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from polyclinic.config.release import Release

VARIANCE = ".variance"  # after a statistic's name: the squared standard error of its mean
LARGEST = 1.0  # a mean is at most 1 long: beyond that it says nothing


def error_name(statistic: str) -> str:
    """Return the name under which the variance of a statistic's mean travels."""
    return f"{statistic}{VARIANCE}"


def variance_of_mean(
    rows: Sequence[Float[Tensor, " numbers"]], mean: Float[Tensor, " numbers"], release: Release
) -> Float[Tensor, " 1"]:
    """Estimate E||mean - mu||^2: tr C / n, plus the noise that the release added to the mean.

    It is made of what is released alone: the mean, and the mean square length of the subjects'
    vectors, under the same minimum and with noise of its own. So it tells no more about a subject
    than one more statistic does, and counts as one in `Release.epsilon`.

    Args:
        rows: One vector for each subject; what is longer than 1 is shortened, as for the mean.
        mean: What `release.mean(rows)` returned.
        release: What may leave the hospital.

    Returns:
        One number, 0 .. 1, float32; 1 for a single subject, whose variance nobody knows.

    Raises:
        TooFewSubjects: Fewer than the release asks for.
    """
    count = len(rows)
    lengths = [torch.linalg.vector_norm(row, dtype=torch.float64).clamp(max=1.0) for row in rows]
    square = float(release.mean([(length**2).reshape(1) for length in lengths]))
    if count < 2:
        return torch.full((1,), LARGEST)
    noise = mean.numel() * (release.noise_multiplier / count) ** 2
    among = square - float(mean.double() @ mean.double()) + noise
    return torch.tensor([min(LARGEST, max(0.0, among) / (count - 1) + noise)])
