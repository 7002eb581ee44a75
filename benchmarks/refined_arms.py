"""Refinement's arms of `real_hospitals.py`: models around a trained centre, and controls."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from personal_arms import Federation
from real_sites import FeatureSite, ImageSite
from torch import Tensor

from polyclinic.config.release import Release
from polyclinic.describing.statistics import (
    release_rows,
    with_variances,
)
from polyclinic.describing.uncertainty import error_name
from polyclinic.errors import TooFewSubjects
from polyclinic.learning.state_dict import StateDict
from polyclinic_strategies.refinement.choice import (
    Decision,
    best_statistic,
    decide,
    decide_for_each,
    try_recipes,
)
from polyclinic_strategies.refinement.distribution import Neighbourhood
from polyclinic_strategies.refinement.refine import Recipe, Refinement, choose_coefficients, combine
from polyclinic_strategies.refinement.strategy import Refining

RELEASES = {
    "refined": Release(min_subjects=1),
    "refined, min_subjects 5": Release(min_subjects=5),
    "refined, noise 1": Release(min_subjects=1, noise_multiplier=1.0),
}
SHUFFLED = "refined, shuffled"
Rows = Mapping[str, Mapping[str, Sequence[Tensor]]]  # hospital -> statistic -> a row a subject


@dataclass(frozen=True)
class Vector:
    """A contribution in memory."""

    tensors: StateDict

    def task_vector(self, name: str) -> Tensor:
        """Return one parameter's task vector."""
        return self.tensors[name]


class Refined:
    """Refined models of one federation.

    Args:
        federation: Hospitals that take part.
        centre: What all rounds of averaging made.
        passes: Numbers of the passes that each hospital makes from there.
        refining: Recipes to try.
        rows: Of those that take part, and of the newcomer.
    """

    def __init__(
        self,
        federation: Federation,
        centre: StateDict,
        passes: Sequence[int],
        refining: Refining,
        rows: Rows,
    ) -> None:
        self._federation, self.centre, self._refining, self._rows = (
            federation,
            centre,
            refining,
            rows,
        )
        tuned = {site: federation.passes(centre, site, passes) for site in federation.sites}
        self.vectors = {
            site: Vector({name: state[name] - centre[name] for name in centre})
            for site, state in tuned.items()
        }
        self._normalization = federation.normalization()
        self._scores: dict[Any, float] = {}
        self._choices: dict[Any, tuple[Mapping[str, Neighbourhood], Decision, float]] = {}

    def test(
        self, site: str, where: ImageSite | FeatureSite
    ) -> tuple[dict[str, float], dict[str, Any]]:
        """Return the test scores of every arm at one hospital, and how its model was chosen."""
        inside = site in self.vectors
        scores, told = {}, {}
        for arm in (*RELEASES, SHUFFLED):
            near, decision, validated = self._choice(arm, inside=inside)
            recipe = decision.exceptions.get(site, decision.recipe)
            chosen = choose_coefficients(site, near[recipe.statistic], sorted(self.vectors), recipe)
            scores[arm] = self._score(chosen, where)
            told[arm] = {**_tell(decision, chosen), "validated": validated}
        common = Recipe("uniform")
        plain = self._neighbourhoods(RELEASES["refined"], {}, corrected=False)
        sites = sorted(self.vectors)
        mean = choose_coefficients(site, plain[common.statistic], sites, common)
        scores["mean of vectors"] = self._score(mean, where)
        scores["nearest profile"] = self._score(self._nearest(plain, site), where)
        return scores, told

    def _choice(
        self, arm: str, *, inside: bool
    ) -> tuple[Mapping[str, Neighbourhood], Decision, float]:
        """Return the distances, what is chosen by them, and its mean validation score; once."""
        if (arm, inside) not in self._choices:
            swapped = self._shuffle() if arm == SHUFFLED else {}
            near = self._neighbourhoods(RELEASES.get(arm, RELEASES["refined"]), swapped)
            self._choices[arm, inside] = (near, *self._decide(near, inside=inside))
        return self._choices[arm, inside]

    def _decide(self, near: Mapping[str, Neighbourhood], *, inside: bool) -> tuple[Decision, float]:
        """Choose by hospitals that take part, each left out in turn."""
        sites = sorted(self.vectors)

        def left_out(one: str, recipe: Recipe) -> Refinement:
            others = [each for each in sites if each != one]
            return choose_coefficients(one, near[recipe.statistic], others, recipe)

        def own(one: str, recipe: Recipe) -> Refinement:
            return choose_coefficients(one, near[recipe.statistic], sites, recipe)

        tried = try_recipes(self._refining.recipes(), sites, left_out, self._validate)
        if inside:
            recipes = self._refining.own_recipes(best_statistic(tried))
            tried = try_recipes(recipes, sites, own, self._validate)
        cases = {name: where.cases for name, where in self._federation.sites.items()}
        decision = decide_for_each(tried, cases) if inside else decide(tried)
        return decision, next(each.mean for each in tried if each.recipe == decision.recipe)

    def _nearest(self, near: Mapping[str, Neighbourhood], site: str) -> Refinement:
        """As FEROMA (https://arxiv.org/abs/2602.07671), in our reading: models mixed by profiles.

        The profile is that of the features; distances are as they are, nothing is chosen.
        """
        recipe = Recipe("softmax", "channel_gaussians", 0.2, reach=1e9)
        return choose_coefficients(site, near["channel_gaussians"], sorted(self.vectors), recipe)

    def _neighbourhoods(
        self, release: Release, swapped: Mapping[str, str], *, corrected: bool = True
    ) -> dict[str, Neighbourhood]:
        described: dict[str, StateDict] = {}
        for site in self._rows:
            described[site] = {}
            for name, rows in self._rows[swapped.get(site, site)].items():
                variance = corrected and error_name(name) in with_variances([name])
                try:
                    described[site] |= release_rows(name, rows, release, variance)
                except TooFewSubjects:
                    continue
        found = {name: Neighbourhood(name) for name in self._refining.statistics}
        for each in found.values():
            each.update(described)
        return found

    def _shuffle(self) -> dict[str, str]:
        """Give every hospital another one's description."""
        sites = sorted(self._rows)
        generator = random.Random(self._federation.seed)
        while True:
            others = generator.sample(sites, len(sites))
            if all(one != other for one, other in zip(sites, others, strict=True)):
                return dict(zip(sites, others, strict=True))

    def _validate(self, wanted: Mapping[str, Refinement]) -> dict[str, float]:
        found = {}
        for site, refinement in wanted.items():
            key = (site, *((name, round(c, 3)) for name, c in refinement.coefficients.items()))
            key += tuple(refinement.normalization.items())
            if key not in self._scores:
                state = self._model(refinement)
                where = self._federation.sites[site]
                self._scores[key] = self._federation.score(state, where, "validation")
            found[site] = self._scores[key]
        return found

    def _model(self, refinement: Refinement) -> StateDict:
        return combine(self.centre, self.vectors, refinement, self._normalization)

    def _score(self, refinement: Refinement, where: ImageSite | FeatureSite) -> float:
        return self._federation.score(self._model(refinement), where, "test")


def _tell(decision: Decision, chosen: Refinement) -> dict[str, Any]:
    return {
        "recipe": str(decision.recipe),
        "gain": decision.gain,
        "error": decision.error,
        "loses": list(decision.loses),
        "coefficients": dict(chosen.coefficients),
        "nearest": chosen.nearest,
        "fallback": chosen.fallback,
    }
