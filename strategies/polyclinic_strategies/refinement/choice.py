"""Choice of statistic, rule and sharpness: the best for hospitals that are left out in turn.

A hospital that takes part plays the newcomer. Its own vector is left out, each recipe makes a
refined model for it, and it scores that on its validation cases. Hospitals that really are new
have no influence, as nobody could ask them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from polyclinic_strategies.refinement.refine import Recipe, Refinement

Key = tuple[tuple[tuple[str, float], ...], ...]
Score = Callable[[Mapping[str, Refinement]], Mapping[str, float]]  # by site: coefficients to score
DIGITS = 3  # coefficients that agree to this many decimals count as the same model


@dataclass(frozen=True)
class Tried:
    """Scores of one recipe, by hospital."""

    recipe: Recipe
    scores: Mapping[str, float]

    @property
    def mean(self) -> float:
        """Mean over the hospitals that scored; NaN if none did."""
        return fmean(self.scores.values()) if self.scores else math.nan


def try_recipes(
    recipes: Sequence[Recipe],
    sites: Sequence[str],
    refine: Callable[[str, Recipe], Refinement],
    score: Score,
) -> list[Tried]:
    """Score every recipe, and return the best first.

    Recipes that give a hospital the same coefficients are scored there once.

    Args:
        recipes: Recipes to try.
        sites: Names of the hospitals that take part.
        refine: Returns a hospital's coefficients by a recipe, with its own vector left out or not.
        score: Scores models at their hospitals; a hospital that does not answer is left out.
    """
    known: dict[tuple[str, Key], float] = {}
    keys = []
    for recipe in recipes:
        refinements = {site: refine(site, recipe) for site in sites}
        wanted = {
            site: (_rounded(each.coefficients), _rounded(each.normalization))
            for site, each in refinements.items()
        }
        missing = {
            site: refinements[site] for site, key in wanted.items() if (site, key) not in known
        }
        if missing:
            known |= {(site, wanted[site]): value for site, value in score(missing).items()}
        keys.append(wanted)
    scores = [
        {
            site: known[site, key]
            for site, key in wanted.items()
            if not math.isnan(known.get((site, key), math.nan))
        }
        for wanted in keys
    ]
    tried = [Tried(recipe, each) for recipe, each in zip(recipes, scores, strict=True)]
    everywhere = set.intersection(*(set(each.scores) for each in tried)) if tried else set()
    fair = [
        Tried(each.recipe, {site: each.scores[site] for site in sorted(everywhere)})
        for each in tried
    ]
    return sorted(fair, key=lambda each: -each.mean)


def _rounded(coefficients: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple(
        (site, round(coefficients[site], DIGITS))
        for site in sorted(coefficients)
        if round(coefficients[site], DIGITS) > 0
    )
