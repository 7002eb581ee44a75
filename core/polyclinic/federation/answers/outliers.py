"""Updates that look like no training on the others' task: told to the coordinator, and not refused.

A hospital with unusual patients may send one, too. So these are words for a person; what bears a
liar without anybody's judgement is a robust rule. Vectors are compared by sketches (count sketch,
Charikar et al. 2002, https://doi.org/10.1007/3-540-45465-9_59): inner products are right up to
about 1 / sqrt(`WIDTH`) of the norms, for any length.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

WIDTH = 1024
PIECE = 1024 * WIDTH  # coordinates that are read at once
AWAY = -0.3  # cosine with the sum of the others' directions, from where on it points away
UNRELATED = 0.1  # the same where the others agree with each other
AGREEING = 0.5  # length of the mean of the others' directions
LONG = 4.0  # in medians of the others' norms
SAME = 1e-9  # relative distance of equal vectors
FEWEST = 3  # others
TINY = 1e-300


@dataclass(frozen=True, eq=False)
class Sketch:
    """What is kept of a vector: its Euclidean norm, and `WIDTH` sums of its coordinates."""

    norm: float
    sums: NDArray[np.float64]


class Outlier(NamedTuple):
    """What is unusual about a vector.

    Attributes:
        kind: One word.
        what: The end of a sentence about it.
    """

    kind: str
    what: str


def sketch_of(
    vector: np.ndarray[Any, Any], base: np.ndarray[Any, Any] | None = None, start: int = 0
) -> Sketch:
    """Sketch a vector, or its difference to another one.

    Args:
        vector: Shape (numbers,).
        base: What is subtracted; None for nothing.
        start: Place of the first coordinate in a longer vector; a multiple of `WIDTH`.
    """
    sums, square = np.zeros(WIDTH), 0.0
    for first in range(0, len(vector), PIECE):
        cut = slice(first, first + PIECE)
        values = vector[cut].astype(np.float64)
        if base is not None:
            values -= base[cut]
        square += float(values @ values)
        rows = -(-len(values) // WIDTH)
        padded = np.zeros(rows * WIDTH)
        padded[: len(values)] = values
        sums += _signs((start + first) // WIDTH, rows) @ padded.reshape(rows, WIDTH)
    return Sketch(float(np.sqrt(square)), sums)


def find_outliers(sketches: Mapping[str, Sketch]) -> dict[str, Outlier]:
    """Find the updates that differ from all others.

    Args:
        sketches: Of each hospital's update.

    Returns:
        What is unusual about it, by site.
    """
    found: dict[str, Outlier] = {}
    if len(sketches) <= FEWEST:
        return found
    sites = list(sketches)
    norms = np.array([sketches[site].norm for site in sites])
    cosines, agreements = _compare(np.array([sketches[site].sums for site in sites]))
    usual = _medians_of_others(norms)
    away, unrelated = cosines < AWAY, (cosines < UNRELATED) & (agreements > AGREEING)
    unusual = (norms == 0) | (norms > LONG * usual) | away | unrelated
    for place in np.flatnonzero(unusual & (usual > 0)):
        if norms[place] == 0:
            outlier = Outlier("empty", "changes nothing")
        elif norms[place] > LONG * usual[place]:
            times = f"{norms[place] / usual[place]:.1f} times"
            outlier = Outlier("long", f"is {times} as long as the others' (median)")
        elif away[place]:
            what = f"points away from the others' (cosine {cosines[place]:.2f})"
            outlier = Outlier("away", what)
        else:
            outlier = Outlier(
                "unrelated",
                f"has nothing in common with the others' (cosine {cosines[place]:.2f}), which "
                f"agree ({agreements[place]:.2f})",
            )
        found[sites[place]] = outlier
    for first, second in _pairs_alike(list(sketches.values())):
        one, other = sites[first], sites[second]
        if other not in found and usual[second] and _equal(sketches, one, other):
            found[other] = _copy_of(one)
            found.setdefault(one, _copy_of(other))
    return found


def _compare(
    sums: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the cosine of each vector with the sum of the others' directions, and its length.

    Args:
        sums: Shape (vectors, `WIDTH`).

    Returns:
        Cosines, and the lengths of the means of the others' directions, shape (vectors,).
    """
    units = sums / (np.sqrt(np.einsum("ij,ij->i", sums, sums)) + TINY)[:, None]
    total, squares = units.sum(0), np.einsum("ij,ij->i", units, units)
    along = units @ total
    lengths = np.sqrt(np.maximum(total @ total - 2 * along + squares, 0))
    return (along - squares) / (lengths + TINY), lengths / (len(sums) - 1)


def _medians_of_others(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return, for each value, the median of all others."""
    order = np.argsort(values, kind="stable")
    ordered, left = values[order], len(values) - 1
    low, high = (left - 1) // 2, left // 2
    rank = np.arange(len(values))
    found = np.empty_like(values)
    found[order] = (ordered[low + (low >= rank)] + ordered[high + (high >= rank)]) / 2
    return found


def _pairs_alike(sketches: Sequence[Sketch]) -> Iterator[tuple[int, int]]:
    """Yield pairs of places that may hold equal vectors, each with the earlier place first.

    Sums of equal sketches are equal. So nearly all others need no comparison, also where all norms
    are the same, as they are after clipping.
    """
    sums = np.array([sketch.sums.sum() for sketch in sketches])
    order = np.argsort(sums, kind="stable")
    distance = SAME * np.sqrt(WIDTH) * max(sketch.norm for sketch in sketches)
    ends = np.searchsorted(sums[order], sums[order] + distance, side="right")
    places = [int(place) for place in order]
    pairs = (
        sorted((places[one], places[other]))
        for one, end in enumerate(ends)
        for other in range(one + 1, end)
    )
    yield from sorted((first, second) for first, second in pairs)


class Teller:
    """Sentences about vectors that are unlike all others: each kind once for each hospital.

    Args:
        vector: What is compared, in words, such as "update".
    """

    def __init__(self, vector: str) -> None:
        self._vector = vector
        self._told: set[tuple[str, str]] = set()

    def tell(
        self, found: Mapping[str, Outlier], names: Mapping[str, str] | None = None
    ) -> list[str]:
        """Return a sentence for each outlier that was not told yet.

        Args:
            found: By site.
            names: What a site's vector is told under, where each of them is told by itself, such as
                a digest; None: under the site.
        """
        sentences = []
        for site, outlier in found.items():
            key = (names[site] if names else site, outlier.kind)
            if key not in self._told:
                self._told.add(key)
                sentences.append(
                    f"{site}'s {self._vector} {outlier.what}; it counts all the same "
                    "(docs/explanation/security.md)"
                )
        return sentences


def find_repeated(before: Mapping[str, Sketch], now: Mapping[str, Sketch]) -> dict[str, Outlier]:
    """Find the hospitals that send again, number for number, what they sent before."""
    return {
        site: Outlier("repeated", "is, number for number, what it sent in an earlier round")
        for site, sketch in now.items()
        if site in before and is_repeated(before[site], sketch)
    }


def is_repeated(before: Sketch, now: Sketch) -> bool:
    """Tell whether two vectors are equal, and not merely both 0 or without a number."""
    distance = float(np.linalg.norm(before.sums - now.sums))
    return now.norm > 0 and distance <= SAME * max(before.norm, now.norm)


def _copy_of(site: str) -> Outlier:
    return Outlier("copy", f"is the same as {site}'s: one of the two is a copy")


def _equal(sketches: Mapping[str, Sketch], one: str, other: str) -> bool:
    return is_repeated(sketches[one], sketches[other])


def _signs(first: int, count: int) -> NDArray[np.float64]:
    """Return the sign of each row of `WIDTH` coordinates: random, and always the same."""
    rows = np.arange(first, first + count, dtype=np.uint64)
    mixed = (rows + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return np.where(mixed >> np.uint64(63), 1.0, -1.0)
