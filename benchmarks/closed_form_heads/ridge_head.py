"""Ridge regression heads in closed form, from sums over hospitals.

With frozen features, the ridge regression of the pooled data follows from sums, whatever the
partition: AFL, He et al. 2024, https://arxiv.org/abs/2405.16240, and Fed3R, Fani et al. 2024,
https://arxiv.org/abs/2406.01116. A hospital that joins, updates or withdraws is an addition and a
subtraction.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

from polyclinic.errors import ConfigError
from polyclinic_strategies.merging.arithmetic.layer import require

from .exact_sum import ExactSum
from .moments import HeadMoments, unpack_moments

Head = tuple[Float64[Tensor, "classes features"], Float64[Tensor, " classes"]]  # weight and bias


class AdditiveMoments:
    """Moments of all hospitals together, as an `ExactSum`.

    Args:
        features: Number of features that enter the head.
        classes: Number of classes.
    """

    def __init__(self, features: int, classes: int) -> None:
        self.features, self.classes = features, classes
        self._sum = ExactSum((features + 1) * (features + 2) // 2 + (features + 1) * classes)

    @property
    def sites(self) -> frozenset[str]:
        """Names of the hospitals in the sum."""
        return self._sum.sites

    def add(self, site: str, moments: HeadMoments) -> None:
        """Add a hospital; raises as `ExactSum.add`."""
        self._sum.add(site, self._pack(moments))

    def remove(self, site: str, moments: HeadMoments) -> None:
        """Remove a hospital, bit for bit as if it had never been there; raises as
        `ExactSum.remove`.
        """
        self._sum.remove(site, self._pack(moments))

    def total(self) -> HeadMoments:
        """Return the sum, rounded to float64 at the end.

        Raises:
            ValueError: The sum is empty.
        """
        return unpack_moments(self._sum.total(), self.features, self.classes)

    def _pack(self, moments: HeadMoments) -> Tensor:
        expected = (self.features + 1, self.classes)
        require(
            moments.cross.shape == expected,
            f"moments of shape {tuple(moments.cross.shape)}, expected {expected}.",
        )
        return moments.pack()


def ridge_head(
    gram: Float64[Tensor, "inputs inputs"],
    cross: Float64[Tensor, "inputs classes"],
    ridge: float,
    *,
    balanced: bool = False,
) -> Head:
    """Return the head that regresses one-hot classes on features: W = (G + ridge I)^-1 B.

    Its outputs are about 0 to 1. They are not logits; only their order counts. A class without an
    example has output 0.

    Args:
        gram: Sum of hospitals' G. Its last input is the constant 1, which is regularized as the
            others are.
        cross: Sum of their B.
        ridge: At least 0.
        balanced: Give every class the same weight: each mean m_c counts n / C times instead of n_c
            times. This equals dividing each example's weight by its class's count where classes
            have the same scatter (weighting in general would need a G of each class).

    Returns:
        Weight (classes, features) and bias (classes,).

    Raises:
        ConfigError: G + ridge I is not positive definite.
        ValueError: The shapes do not fit each other, `ridge` is negative, or there is no example.

    AFL, He et al. 2024, https://arxiv.org/abs/2405.16240; Fed3R, Fani et al. 2024,
    https://arxiv.org/abs/2406.01116.
    """
    require(ridge >= 0, f"ridge={ridge}: at least 0.")
    counts = HeadMoments(gram, cross).counts
    told = counts > 0
    require(bool(told.any()), "the moments hold no example.")
    if balanced:
        equal = counts.sum() / told.sum() * told
        means = cross / counts.clamp_min(1.0)
        gram, cross = gram + (means * (equal - counts)) @ means.T, means * equal
    solved = _solve(gram, cross, ridge, "ridge")
    return solved[:-1].T.contiguous(), solved[-1].clone()


def uncentred(head: Head, mean: Float64[Tensor, " features"]) -> Head:
    """Adapt a head made from `HeadMoments.centred` to one hospital: W x + b - W mean.

    Args:
        head: Weight and bias.
        mean: Mean features of that hospital. No labels are needed for it, so a hospital without any
            can use the head.
    """
    weight, bias = head
    return weight, bias - weight @ mean


def _solve(matrix: Tensor, right: Tensor, ridge: float, setting: str) -> Tensor:
    """Return (matrix + ridge I)^-1 right, by Cholesky factorization."""
    shifted = matrix + ridge * torch.eye(len(matrix), dtype=matrix.dtype)
    factor, failed = torch.linalg.cholesky_ex(shifted)
    if int(failed):
        raise ConfigError(
            f"{setting}={ridge:g}: too small, fewer examples than features leave the head "
            "undetermined. Set a larger one."
        )
    return torch.cholesky_solve(right, factor)
