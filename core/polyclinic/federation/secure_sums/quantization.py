"""Real numbers as words modulo 2^32, on a grid that is fixed before anybody trains.

A number x is clipped to [-c, c] and rounded to the nearest multiple of the step s = c / L, where
L = 2^(bits - 1) - 1 is the largest level. Its word is that multiple, modulo 2^32. Words of N
numbers add without loss while N L < 2^31: 24 bits leave room for 256 hospitals.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from polyclinic.federation.secure_sums.errors import NotFinite
from polyclinic.federation.secure_sums.masks import Words

Reals = np.ndarray[Any, Any]
EXTRA = 2  # words in a sum beside the vector's: what was lost
CHUNK = 1 << 18  # numbers that are worked on at once


@dataclass(frozen=True)
class Quantized:
    """A vector on the grid, and what was lost.

    Attributes:
        words: The vector, uint32, (numbers,).
        clipped: Number of numbers beyond the clip.
        error: Euclidean distance to the vector as it was.
    """

    words: Words
    clipped: int
    error: float


@dataclass(frozen=True)
class Losses:
    """What all hospitals of a sum lost on their way to the grid.

    Attributes:
        clipped: Number of numbers beyond the clip.
        distance: Largest Euclidean distance that the mean can have to the one without a grid.
    """

    clipped: int
    distance: float


@dataclass(frozen=True)
class Grid:
    """The grid on which numbers travel.

    Attributes:
        clip: Largest size of a number.
        bits: Number of bits of a number, with its sign.
    """

    clip: float
    bits: int

    @property
    def levels(self) -> int:
        """Largest level."""
        return (1 << self.bits - 1) - 1

    @property
    def step(self) -> float:
        """Distance of two neighbouring levels."""
        return self.clip / self.levels

    @property
    def most(self) -> int:
        """Largest number of vectors whose sum is exact."""
        return (2**31 - 1) // self.levels

    def quantize(self, values: Reals, minus: Reals | None = None, norm: float = 0.0) -> Quantized:
        """Put numbers on the grid.

        Args:
            values: Finite numbers, (numbers,).
            minus: Taken from them first, such as the weights that training started from.
            norm: Euclidean length to which a longer vector is shortened first; 0: none is.

        Raises:
            NotFinite: A number is NaN or infinite.
        """
        words = np.empty(values.shape, dtype=np.uint32)
        clipped, squares = 0, 0.0
        share = min(1.0, norm / _length(values, minus)) if norm > 0 else 1.0
        for start in range(0, values.size, CHUNK):
            part = slice(start, start + CHUNK)
            exact = values[part].astype(np.float64)
            if minus is not None:
                exact -= minus[part]
            levels = exact * (share / self.step)
            np.rint(levels, out=levels)
            largest = max(levels.max(), -levels.min())
            if not np.isfinite(largest):
                raise NotFinite
            if largest > self.levels:
                clipped += int(np.count_nonzero(np.abs(levels) > self.levels))
                np.clip(levels, -self.levels, self.levels, out=levels)
            words[part] = levels.astype(np.int32).view(np.uint32)
            levels *= self.step
            exact -= levels
            squares += float(np.vdot(exact, exact))
        return Quantized(words, clipped, math.sqrt(squares))

    def with_losses(self, found: Quantized) -> Words:
        """Return a vector's words, and two more that say what was lost: these are summed too."""
        error = min(math.ceil(found.error / self.step), self.levels)
        clipped = min(found.clipped, self.levels)
        return np.concatenate([found.words, np.array([clipped, error], dtype=np.uint32)])

    def losses(self, total: Words, count: int) -> Losses:
        """Read the last two words of a sum of so many vectors.

        The mean's distance is at most the mean of the distances.
        """
        return Losses(int(total[-2]), float(total[-1]) * self.step / count)

    def mean(self, total: Words, count: int, plus: Reals | None = None) -> Reals:
        """Return the mean of so many vectors, float32, of the sum of their words.

        Args:
            total: Sum modulo 2^32, (numbers,).
            count: Number of vectors; at most `most`.
            plus: Added to the mean, likewise.
        """
        found = np.empty(total.shape, dtype=np.float32)
        for start in range(0, total.size, CHUNK):
            part = slice(start, start + CHUNK)
            exact = total[part].view(np.int32) * (self.step / count)
            if plus is not None:
                exact += plus[part]
            found[part] = exact
        return found


def _length(values: Reals, minus: Reals | None) -> float:
    """Return the Euclidean length of a difference; tiny where there is none."""
    squares = 0.0
    for start in range(0, values.size, CHUNK):
        part = slice(start, start + CHUNK)
        exact = values[part].astype(np.float64)
        if minus is not None:
            exact -= minus[part]
        squares += float(np.vdot(exact, exact))
    return max(math.sqrt(squares), 1e-300)
