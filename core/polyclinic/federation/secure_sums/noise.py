"""Distributed discrete Gaussian noise: the sum of a secure sum has it, and nobody saw less.

Kairouz, Liu and Steinke 2021, "The Distributed Discrete Gaussian Mechanism for Federated Learning
with Secure Aggregation", https://arxiv.org/abs/2102.06387. Each hospital shortens its vector to the
length c, rounds it to the grid of step g, and adds discrete Gaussian noise of deviation s to each
number before it is masked. A sum of n such vectors is e^2 / 2 concentrated differentially private
(theorem 5 there), with

    e = min(sqrt(D^2 / (n s^2) + t d / 2), D / (sqrt(n) s) + t sqrt(d))
    t = 10 * sum over k = 1 ... n - 1 of exp(-2 pi^2 (s / g)^2 k / (k + 1))

where d is the count of numbers, and D = c + g sqrt(d) / 2 the longest vector after rounding to the
nearest. The vectors are not rotated first: words of 32 bits have room without it, and the guarantee
does not need it. Two neighbours are a sum with and without one hospital.
"""

import math
import os
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from polyclinic.federation.secure_sums.masks import Words
from polyclinic.federation.secure_sums.quantization import Grid

AT_ONCE = 1 << 18  # numbers that are drawn at once
Integers = np.ndarray[Any, np.dtype[np.int64]]


class Uniform:
    """Uniform numbers of 53 bits from a keystream whose key the operating system drew."""

    def __init__(self) -> None:
        self._stream = Cipher(ChaCha20(os.urandom(32), bytes(16)), mode=None).encryptor()

    def draw(self, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Draw numbers of (0, 1)."""
        bits = np.frombuffer(self._stream.update(bytes(8 * count)), dtype="<u8") >> np.uint64(11)
        drawn: np.ndarray[Any, np.dtype[np.float64]] = (bits.astype(np.float64) + 0.5) * 2.0**-53
        return drawn


def discrete_gaussian(count: int, deviation: float, uniform: Uniform | None = None) -> Integers:
    """Draw integers x with probability proportional to exp(-x^2 / (2 deviation^2)).

    By rejection from a discrete Laplace distribution (Canonne, Kamath and Steinke 2020,
    https://arxiv.org/abs/2004.00010, algorithm 3), many at once. Uniform numbers have 53 bits, so a
    probability is off by about 1e-16 of its size; the values are integers, so no lower bits tell
    what was added to what.

    Args:
        count: Count of integers.
        deviation: Positive.
        uniform: Source of randomness; None for the operating system's.
    """
    source = uniform or Uniform()
    scale = math.floor(deviation) + 1
    found = np.empty(count, dtype=np.int64)
    have = 0
    while have < count:
        wanted = min(AT_ONCE, int((count - have) * 1.6) + 16)
        size = np.floor(-scale * np.log(source.draw(wanted)))  # geometric
        negative = source.draw(wanted) < 0.5
        excess = size - deviation**2 / scale
        accepted = source.draw(wanted) < np.exp(-(excess**2) / (2 * deviation**2))
        accepted &= ~(negative & (size == 0))  # zero has one sign
        kept = np.where(negative, -size, size)[accepted].astype(np.int64)[: count - have]
        found[have : have + kept.size] = kept
        have += kept.size
    return found


def add_noise(words: Words, deviation: float) -> None:
    """Add discrete Gaussian noise to words in place, modulo 2^32.

    Args:
        words: A vector on the grid.
        deviation: In steps of the grid.
    """
    uniform = Uniform()
    for start in range(0, words.size, AT_ONCE):
        part = words[start : start + AT_ONCE]
        drawn = discrete_gaussian(part.size, deviation, uniform)
        part += (drawn & 0xFFFFFFFF).astype(np.uint32)


def rho(grid: Grid, norm: float, sigma: float, hospitals: int, numbers: int) -> float:
    """Return the concentrated differential privacy of one sum, e^2 / 2 of the module's docstring.

    Args:
        grid: On which the numbers travel.
        norm: Length c to which vectors are shortened.
        sigma: Deviation s of each hospital's noise.
        hospitals: Number n of vectors in the sum.
        numbers: Count d of numbers of a vector.
    """
    longest = norm + grid.step * math.sqrt(numbers) / 2
    alike = 2 * math.pi**2 * (sigma / grid.step) ** 2
    gap = 10 * sum(math.exp(-alike * k / (k + 1)) for k in range(1, hospitals))
    gaussian = longest / (math.sqrt(hospitals) * sigma)
    found = min(math.sqrt(gaussian**2 + gap * numbers / 2), gaussian + gap * math.sqrt(numbers))
    return found**2 / 2


def epsilon(total_rho: float, delta: float) -> float:
    """Return epsilon of everything whose concentrated privacy adds up to this.

    Raises:
        ValueError: Nothing was released.
    """
    if total_rho <= 0:
        raise ValueError("nothing was released")
    from dp_accounting import ZCDpEvent  # a second
    from dp_accounting.rdp import RdpAccountant

    return float(RdpAccountant().compose(ZCDpEvent(total_rho)).get_epsilon(delta))
