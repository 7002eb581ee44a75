"""Choice of a recipe by hospitals that are left out in turn, which does no harm.

A hospital that takes part plays the newcomer. Its own vector is left out, each recipe makes a
refined model for it, and it scores that on its validation cases. Hospitals that really are new
have no influence, as nobody could ask them.

A model for everybody is kept unless models of one's own are better by more than the error of that
difference: the one-standard-error rule (Breiman et al. 1984, Classification and Regression Trees).
`decide` chooses for newcomers, of whom nobody can know more than what holds on the average. The
best of many recipes looks better than it is, so the gain is that of the choice itself: for each
hospital, of the recipe that the *others* would have chosen. `decide_for_each` chooses for
contributors, each of which has validation cases of its own.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev, variance

from polyclinic_strategies.refinement.refine import Recipe, Refinement

Key = tuple[tuple[tuple[str, float], ...], ...]
Score = Callable[[Mapping[str, Refinement]], Mapping[str, float]]  # by site: coefficients to score
LEAST_VARIANCE = 0.01  # of a case's score: nobody is certain, not even of a perfect one
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


@dataclass(frozen=True)
class Decision:
    """The recipe that was chosen, and why.

    Attributes:
        recipe: What was chosen.
        common: The best recipe that makes one model for everybody.
        gain: Mean over hospitals of what a model of one's own gains over that; NaN if nobody knows.
        error: Standard error of the gain; infinite with fewer than two hospitals.
        loses: Hospitals for which it is not better by more than the error: they keep the model for
            everybody.
    """

    recipe: Recipe
    common: Recipe
    gain: float
    error: float
    loses: tuple[str, ...] = ()

    @property
    def is_personal(self) -> bool:
        """Whether hospitals get models of their own."""
        return self.recipe != self.common

    @property
    def exceptions(self) -> dict[str, Recipe]:
        """Hospitals with another recipe than the one that was chosen."""
        return dict.fromkeys(self.loses, self.common)

    def tell(self) -> str:
        """Say what was chosen and why, in one sentence."""
        if math.isnan(self.gain):
            return f"{self.recipe}: nobody could score a model of one's own"
        error = f" +- {self.error:.3f}" if math.isfinite(self.error) else ""
        words = f"models of one's own gain {self.gain:+.3f}{error}"
        if not self.is_personal:
            return f"{self.recipe} for everybody: {words}, not more than the error"
        kept = f"; not at {', '.join(self.loses)}: {self.common}" if self.loses else ""
        return f"{self.recipe}: {words}{kept}"


def decide(tried: Sequence[Tried]) -> Decision:
    """Choose a recipe by the one-standard-error rule.

    Args:
        tried: All with scores of the same hospitals; at least one makes a model for everybody.
    """
    common, own = _sides(tried)
    sites = sorted(common.scores)
    if not own or not sites:
        return Decision(common.recipe, common.recipe, math.nan, math.inf)
    gains = [_best(own, without=site).scores[site] - common.scores[site] for site in sites]
    gain = fmean(gains)
    error = stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.inf
    best = _best(own)
    if gain <= error or best.mean <= common.mean:
        return Decision(common.recipe, common.recipe, gain, error)
    return Decision(best.recipe, common.recipe, gain, error)


def decide_for_each(tried: Sequence[Tried], cases: Mapping[str, int]) -> Decision:
    """Choose for every hospital that contributed by the same rule, on its own validation cases.

    The difference d_h between its own model and that for everybody has the variance
    v_h = s (1 - s) / n_h at most, for scores 0 .. 1 with the mean s over n_h cases, if the scores
    of the two models correlate by a half. Cases that are right or wrong come near that bound; Dice
    of a case varies much less. Hospitals differ besides, with the mean m and the variance t of
    their true differences, so all v_h are made smaller until their mean is not above the variance
    of the d_h. The estimate is shrunk towards the mean (James and Stein 1961):

        m + b_h (d_h - m),    b_h = t / (t + v_h),    variance b_h v_h + (1 - b_h)^2 var(m)

    A hospital gets a model of its own where this is above its standard error.

    Args:
        tried: All with scores of the same hospitals; at least one makes a model for everybody.
        cases: Number of validation cases of each hospital; one that is missing has one.
    """
    common, own = _sides(tried)
    sites = sorted(common.scores)
    if not own or not sites:
        return Decision(common.recipe, common.recipe, math.nan, math.inf)
    best = _best(own)
    gains = {site: best.scores[site] - common.scores[site] for site in sites}
    observed = variance(gains.values()) if len(sites) > 1 else math.inf
    noise = _variances(common, best, cases, observed)
    mean = fmean(gains.values())
    spread = max(0.0, observed - fmean(noise.values())) if len(sites) > 1 else 0.0
    of_mean = (spread + fmean(noise.values())) / len(sites)
    taken = []
    for site in sites:
        share = spread / (spread + noise[site])
        found = mean + share * (gains[site] - mean)
        error = math.sqrt(share * noise[site] + (1 - share) ** 2 * of_mean)
        taken += [site] if found > error else []
    if not taken:
        return Decision(common.recipe, common.recipe, mean, math.sqrt(of_mean))
    loses = tuple(site for site in sites if site not in taken)
    return Decision(best.recipe, common.recipe, mean, math.sqrt(of_mean), loses)


def _sides(tried: Sequence[Tried]) -> tuple[Tried, list[Tried]]:
    """Return the best recipe that makes one model for everybody, and all others."""
    shared = [each for each in tried if each.recipe.is_common]
    common = max(shared, key=lambda each: (each.mean, -each.recipe.scale))
    return common, [each for each in tried if not each.recipe.is_common]


def _variances(
    common: Tried, best: Tried, cases: Mapping[str, int], observed: float
) -> dict[str, float]:
    """Return v_h of `decide_for_each`, by site.

    Args:
        common: The model for everybody.
        best: Models of one's own.
        cases: Number of validation cases.
        observed: Variance of the differences of the two, over hospitals.
    """
    least = {site: LEAST_VARIANCE / max(1, cases.get(site, 1)) for site in common.scores}
    bounds = {}
    for site, floor in least.items():
        score = min(1.0, max(0.0, (best.scores[site] + common.scores[site]) / 2))
        bounds[site] = max(score * (1 - score) / max(1, cases.get(site, 1)), floor)
    too_much = max(1.0, fmean(bounds.values()) / max(observed, 1e-12))
    return {site: max(bound / too_much, least[site]) for site, bound in bounds.items()}


def best_statistic(tried: Sequence[Tried]) -> str:
    """Return the statistic of the best recipe that makes models of one's own."""
    own = [each for each in tried if not each.recipe.is_common]
    return _best(own or tried).recipe.statistic


def _best(tried: Sequence[Tried], *, without: str = "") -> Tried:
    """Return the best by the mean over hospitals; without one if there are others."""

    def mean(each: Tried) -> float:
        others = [score for site, score in each.scores.items() if site != without]
        return fmean(others or each.scores.values())

    return max(tried, key=mean)


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
