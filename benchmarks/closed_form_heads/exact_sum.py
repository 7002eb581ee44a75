"""Sum over hospitals in whole numbers: independent of the order, and reversible without a trace."""

import hashlib
from math import isfinite

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from polyclinic.errors import LedgerDamaged, NothingToWithdraw
from polyclinic_strategies.merging.arithmetic.fixed_point import check_bound

COARSE_BITS = 12  # binary places of the first limb
FINE_BITS = 40  # further binary places of the second limb


class ExactSum:
    """Sum of one float64 vector of each hospital, as two whole numbers for each entry.

    A value x becomes a = round(x 2^12) and b = round((x - a 2^-12) 2^52), both int64, which are
    summed separately: x is kept within 2^-53 (1.1e-16), whatever its size. The sums depend only on
    the set of hospitals. There is room for hospitals whose largest values add up to 2^51 (2.3e15),
    and for 16 million hospitals; more is refused.

    Args:
        size: Number of entries of a vector.
        what: Name of what is summed, for errors.
    """

    def __init__(self, size: int, what: str = "The moments of the head") -> None:
        self.what = what
        self._limbs = torch.zeros(2, size, dtype=torch.int64)
        # site -> digest of its vector, room that it takes
        self._members: dict[str, tuple[str, int]] = {}

    @property
    def sites(self) -> frozenset[str]:
        """Names of the hospitals in the sum."""
        return frozenset(self._members)

    def add(self, site: str, vector: Float64[Tensor, " size"]) -> None:
        """Add a hospital.

        Raises:
            ValueError: It is in the sum already, or its vector has another length, NaN or Inf.
            ConfigError: The sum could become too large to be exact; the sum stays as it was.
        """
        if site in self._members:
            raise ValueError(f"{site} is in the sum already: remove what it gave before")
        room = self._room_for(vector)
        check_bound(
            {**{name: taken for name, (_, taken) in self._members.items()}, site: room},
            0,
            self.what,
            adjustable=False,
        )
        self._limbs += _limbs_of(vector)
        self._members[site] = (_digest(vector), room)

    def remove(self, site: str, vector: Float64[Tensor, " size"]) -> None:
        """Remove a hospital; the bits are the same as if it had never been there.

        Raises:
            NothingToWithdraw: It is not in the sum.
            LedgerDamaged: This is not what was added for it; the sum stays as it was.
        """
        if site not in self._members:
            raise NothingToWithdraw(site, sorted(self._members))
        if _digest(vector) != self._members[site][0]:
            raise LedgerDamaged(site, "what is to be taken out is not what it gave")
        self._limbs -= _limbs_of(vector)
        del self._members[site]

    def total(self) -> Float64[Tensor, " size"]:
        """Return the sum, rounded to float64 at the end.

        Raises:
            ValueError: The sum is empty.
        """
        if not self._members:
            raise ValueError("the sum is empty")
        coarse, fine = self._limbs.double()
        total: Tensor = coarse * 2.0**-COARSE_BITS + fine * 2.0 ** -(COARSE_BITS + FINE_BITS)
        return total

    def _room_for(self, vector: Tensor) -> int:
        """Return a bound on the entries of both limbs."""
        if vector.shape != self._limbs[0].shape or vector.dtype != torch.float64:
            raise ValueError(
                f"{vector.dtype} of shape {tuple(vector.shape)}, expected {self._limbs.shape[1]} "
                "float64 numbers"
            )
        largest = float(vector.abs().max()) if len(vector) else 0.0
        if not isfinite(largest):
            raise ValueError(f"{self.what}: NaN or Inf inside")
        return max((int(largest) + 1) << COARSE_BITS, 1 << (FINE_BITS - 1))


def _limbs_of(vector: Float64[Tensor, " size"]) -> Int64[Tensor, "2 size"]:
    """Split values into their coarse and fine limbs.

    Both steps are exact but for the two roundings: the scales are powers of two, and the remainder
    has no more digits than x.
    """
    coarse = (vector * 2.0**COARSE_BITS).round_()
    fine = ((vector - coarse * 2.0**-COARSE_BITS) * 2.0 ** (COARSE_BITS + FINE_BITS)).round_()
    return torch.stack([coarse.long(), fine.long()])


def _digest(vector: Tensor) -> str:
    return hashlib.sha256(vector.contiguous().view(torch.uint8).numpy().data).hexdigest()
