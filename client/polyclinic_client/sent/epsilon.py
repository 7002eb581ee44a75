"""What an answer tells about one patient at most, where it is differentially private.

Two mechanisms have an epsilon: noise on statistics, and training with differential privacy. For the
second, the run says what it spends in all (`Asked.epsilon`).
"""

import math
from functools import cache
from pathlib import Path

from polyclinic.config.release import Release
from polyclinic_client.policy.asked import Asked
from polyclinic_client.policy.policy import read_policy


def epsilon_of(kind: str, asked: Asked, state: Path) -> float | None:
    """Return the epsilon of an answer; None where it is not differentially private.

    Args:
        kind: See `polyclinic_client.sent.kinds`.
        asked: The question.
        state: The hospital's state folder: its policy may demand more noise.

    Raises:
        PolicyDamaged: The policy cannot be read.
    """
    if kind in ("update", "masked update", "contribution") and asked.epsilon is not None:
        return asked.epsilon
    if kind != "statistics" or not asked.statistics:
        return None
    release = read_policy(state).release
    noise = max(release.noise_multiplier, asked.noise_multiplier)
    return _epsilon(noise, release.delta, len(asked.statistics))


@cache
def _epsilon(noise: float, delta: float, releases: int) -> float | None:
    found = Release(1, noise, delta).epsilon(releases)
    return found if math.isfinite(found) else None
