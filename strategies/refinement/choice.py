"""Which statistic, rule and sharpness: whatever serves best those hospitals that are left out in turn.

A hospital that takes part plays the newcomer: its own vector is left out, a refined model is made for it by each recipe, and it scores that
on its validation cases. Hospitals that really are new have no say, as nobody could ask them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from strategies.refinement.refine import Recipe, Refinement

Coefficients = tuple[tuple[str, float], ...]
Score = Callable[[Mapping[str, Mapping[str, float]]], Mapping[str, float]]  # site -> coefficients; returns site -> score
DIGITS = 3  # coefficients that agree so far are the same model to a score


@dataclass(frozen=True)
class Tried:
    """One recipe's scores by hospital."""

    recipe: Recipe
    scores: Mapping[str, float]

    @property
    def mean(self) -> float:
        """Over the hospitals that scored; NaN if none did."""
        return fmean(self.scores.values()) if self.scores else math.nan


def try_recipes(recipes: Sequence[Recipe], sites: Sequence[str], refine: Callable[[str, Recipe], Refinement], score: Score) -> list[Tried]:
    """Every recipe's scores, the best first; recipes that come to the same coefficients for a hospital are scored there once.

    Args:
        recipes: What is tried.
        sites: The hospitals that take part.
        refine: A hospital's coefficients by a recipe, its own vector left out or not.
        score: Scores models at their hospitals; a hospital that does not answer is left out.
    """
    known: dict[tuple[str, Coefficients], float] = {}
    tried = []
    for recipe in recipes:
        wanted = {site: _rounded(refine(site, recipe).coefficients) for site in sites}
        missing = {site: dict(key) for site, key in wanted.items() if (site, key) not in known}
        if missing:
            known |= {(site, wanted[site]): value for site, value in score(missing).items()}
        scores = {site: known[site, key] for site, key in wanted.items() if not math.isnan(known.get((site, key), math.nan))}
        tried.append(Tried(recipe, scores))
    everywhere = set.intersection(*(set(each.scores) for each in tried)) if tried else set()
    fair = [Tried(each.recipe, {site: each.scores[site] for site in sorted(everywhere)}) for each in tried]
    return sorted(fair, key=lambda each: -each.mean)


def _rounded(coefficients: Mapping[str, float]) -> Coefficients:
    """Sorted and rounded, adding up to 1 again."""
    rounded = {site: round(value, DIGITS) for site, value in coefficients.items() if round(value, DIGITS) > 0}
    total = math.fsum(rounded.values())
    return tuple((site, rounded[site] / total) for site in sorted(rounded))
