"""Release of statistics: nothing over too few subjects, and noise where it is configured.

Part of the configuration, so torch is imported only where something is released.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from polyclinic.errors import TooFewSubjects

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

MinSubjects = Annotated[int, Field(ge=1, le=1_000_000)]
NoiseMultiplier = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Release:
    """Conditions under which a mean over subjects may leave.

    Args:
        min_subjects: Least number of subjects of a mean.
        noise_multiplier: Standard deviation of the Gaussian noise on the *sum* over subjects, each
            clipped to length 1; 0 adds none.
        delta: Value for which `epsilon` is computed; well below one in the number of subjects.
    """

    min_subjects: MinSubjects = 3
    noise_multiplier: NoiseMultiplier = 0.0
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5

    def mean(self, rows: Sequence[Float[Tensor, " numbers"]]) -> Float[Tensor, " numbers"]:
        """Compute the mean of the subjects' vectors.

        A vector longer than 1 is shortened to 1, so that one subject moves the sum by at most 1,
        and the mean by at most 2 / subjects if replaced by another. The noise comes from the
        operating system's randomness, never from the federation's seed.

        Not protected: noise in floating point is not quite a Gaussian, and the lowest bits of a sum
        can tell which values were possible (Mironov 2012, https://doi.org/10.1145/2382196.2382264).
        What is released is rounded to float32, which drops the bits that such attacks read in
        float64; that is an obstacle, not a proof. Nor is the time protected that this takes.

        Args:
            rows: One vector for each subject.

        Returns:
            float32.

        Raises:
            TooFewSubjects: Fewer than `min_subjects`.
        """
        import torch

        self.check_subjects(len(rows))
        stacked = torch.stack(list(rows)).double()
        lengths = torch.linalg.vector_norm(stacked, dim=1, keepdim=True)
        total = (stacked / lengths.clamp_min(1.0)).sum(0)
        if self.noise_multiplier > 0:
            total += self.noise_multiplier * gaussian(total.numel()).to(total.device)
        mean: Tensor = total / len(rows)
        return mean.float()

    def check_subjects(self, subjects: int) -> None:
        """Refuse a mean over too few subjects.

        Raises:
            TooFewSubjects: Fewer than `min_subjects`.
        """
        if subjects < self.min_subjects:
            raise TooFewSubjects(subjects, self.min_subjects)

    def epsilon(self, releases: int) -> float:
        """Compute how much all that left tells about one subject; infinite without noise.

        The releases are (epsilon, `delta`)-differentially private.

        Neighbours are two hospitals of which one lacks a single subject of the other, adding zero
        for it; the number of subjects counts as public. Against *replacing* a subject by another,
        the guarantee is that of half the noise multiplier. It holds for each subject, whatever is
        known about the others, but not for a person who is two subjects.

        Args:
            releases: Means over the same subjects that left: each statistic counts, and each time
                again. k of them with noise s are together one with noise s / sqrt(k), exactly, also
                if what is asked next hangs on what was answered.

        Raises:
            ValueError: `releases` is not positive.

        The analytic Gaussian mechanism, Balle and Wang 2018, https://arxiv.org/abs/1805.06530; its
        composition, Dong et al. 2019, https://arxiv.org/abs/1905.02383.
        """
        if releases < 1:
            raise ValueError(f"{releases} releases: at least one is needed")
        if self.noise_multiplier == 0:
            return math.inf
        from dp_accounting import get_epsilon_gaussian  # a second

        return float(get_epsilon_gaussian(self.noise_multiplier / math.sqrt(releases), self.delta))

    def strictest(self, other: Release) -> Release:
        """Return what is as careful as both, the coordinator's demands and the hospital's."""
        return Release(
            max(self.min_subjects, other.min_subjects),
            max(self.noise_multiplier, other.noise_multiplier),
            min(self.delta, other.delta),
        )


def gaussian(count: int) -> Float[Tensor, " count"]:
    """Draw standard normal numbers from the operating system's randomness, float64.

    Not from a generator of torch: however long its seed, on a processor it keeps 32 bits of it, few
    enough to try them all on a number whose noise is known (an average image is exactly 0 in the
    air). 52 bits of randomness each: none is beyond 8.21, where a true Gaussian has 2e-16 of its
    mass.
    """
    import torch

    bits = torch.frombuffer(bytearray(secrets.token_bytes(8 * count)), dtype=torch.int64) & (
        2**52 - 1
    )
    drawn: Tensor = torch.special.ndtri((bits.double() + 0.5) / 2**52)
    return drawn
