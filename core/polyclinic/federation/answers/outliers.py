"""Updates that look like no training on the others' task: told to the coordinator, and not refused.

A hospital with unusual patients may send one, too. So these are words for a person; what bears a
liar without anybody's judgement is a robust rule. Vectors are compared by sketches (count sketch,
Charikar et al. 2002, https://doi.org/10.1007/3-540-45465-9_59): inner products are right up to
about 1 / sqrt(`WIDTH`) of the norms, for any length.
"""

from collections.abc import Mapping
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
ALIKE = 1e-6  # relative difference of norms, beyond which vectors are not compared
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
    moving = norms > 0
    units = np.array([sketches[site].sums for site in sites])
    units[moving] /= np.linalg.norm(units[moving], axis=1, keepdims=True) + TINY
    total = units.sum(0)
    for place, site in enumerate(sites):
        others = total - units[place]
        usual = float(np.median(np.delete(norms, place)))
        if not usual:
            continue
        length = float(np.linalg.norm(others))
        agreement = length / (len(sites) - 1)
        cosine = float(units[place] @ others) / (length + TINY)
        if not moving[place]:
            found[site] = Outlier("empty", "changes nothing")
        elif norms[place] > LONG * usual:
            times = f"{norms[place] / usual:.1f} times"
            found[site] = Outlier("long", f"is {times} as long as the others' (median)")
        elif cosine < AWAY:
            what = f"points away from the others' (cosine {cosine:.2f})"
            found[site] = Outlier("away", what)
        elif cosine < UNRELATED and agreement > AGREEING:
            found[site] = Outlier(
                "unrelated",
                f"has nothing in common with the others' (cosine {cosine:.2f}), which agree "
                f"({agreement:.2f})",
            )
        else:
            alike = np.flatnonzero(np.isclose(norms[:place], norms[place], rtol=ALIKE))
            twins = (sites[each] for each in alike)
            twin = next((each for each in twins if _equal(sketches, each, site)), None)
            if twin is not None:
                found[site] = _copy_of(twin)
                found.setdefault(twin, _copy_of(site))
    return found


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
