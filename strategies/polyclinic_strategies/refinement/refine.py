"""Coefficients of a hospital's refined model, and the model that they give.

    θ_i = θ_c + η Σ_j w_ij τ_j,    Σ_j w_ij = 1

θ_c is the centre, the base that all rounds of averaging made; τ_j = θ_j - θ_c is what hospital j
learned from there, η the scale. With η = 0 everybody has the centre.

Kitrungrotsakul et al. leave open how a refined model follows from a distribution; the coefficients
here are our interpretation. Everything is a function of the descriptions and of the contributions
that count, so a hospital that joins, changes or leaves costs the others nothing.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from polyclinic.errors import ConfigError
from polyclinic.learning.state_dict import StateDict
from polyclinic_strategies.merging.streaming.merge import add_to_base
from polyclinic_strategies.refinement.distribution import Neighbourhood

RULES = ("posterior", "softmax", "nearest", "clusters", "uniform", "norm_local")
SHARP = ("posterior", "softmax", "clusters")  # rules with a sharpness
LARGEST_SCALE = 2.0
NEGLIGIBLE = 1e-6  # a share below this, relative to the nearest one's, is left out


@runtime_checkable
class TaskVectors(Protocol):
    """An open contribution."""

    def task_vector(self, name: str) -> Tensor:
        """Return one parameter's task vector, float32."""
        ...


@dataclass(frozen=True)
class Recipe:
    """How coefficients follow from distances.

    Distances are counted in medians of those among the hospitals that contributed.

    Args:
        rule: posterior: w_j is the probability that hospital j is the one most like this one, see
            `_posterior`; softmax: w_j = exp(-d_j / sharpness) / Σ, which does not know how certain
            a distance is; nearest: the nearest one alone; clusters:
            the mean of all that are linked to the nearest one, in steps of at most `sharpness`;
            uniform: the mean of all; norm_local: the mean of all, but a contributor's own
            normalization layers, as in FedBN (Li et al. 2021, https://arxiv.org/abs/2102.07623).
        statistic: Name of an installed statistic.
        sharpness: The smaller, the more the nearest hospitals count.
        reach: A hospital that is farther than this from all others gets the uniform mean.
        neighbours: Softmax uses at most this many hospitals' vectors for a model.
        least_sources: No other hospital's vector has a larger share of a model than one in so
            many; where it would, the uniform mean is taken.
        scale: η; 0 is the centre, whatever the rule.
    """

    rule: str = "softmax"
    statistic: str = "average_image"
    sharpness: float = 0.2
    reach: float = 3.0
    neighbours: int = 8
    least_sources: int = 1
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ConfigError(f"refinement rule {self.rule}: one of {', '.join(RULES)}.")
        if not (self.sharpness > 0 and self.reach > 0 and self.neighbours >= 1):
            raise ConfigError("refinement: sharpness and reach are above 0, neighbours at least 1.")
        if not 0 <= self.scale <= LARGEST_SCALE:
            raise ConfigError(f"refinement: a scale of {self.scale:g}; 0 .. {LARGEST_SCALE:g}.")
        if self.least_sources < 1:
            raise ConfigError(f"strategy.least_sources={self.least_sources}: at least 1.")

    @property
    def is_common(self) -> bool:
        """Whether it makes one model for everybody."""
        return self.rule == "uniform" or self.scale == 0

    def __str__(self) -> str:
        if self.scale == 0:
            return "the averaged model"
        scale = f", times {self.scale:g}" if self.scale != 1 else ""
        if self.rule in ("uniform", "norm_local"):
            own = " with the own normalization" if self.rule == "norm_local" else ""
            return f"uniform mean{own}{scale}"
        sharp = f", sharpness {self.sharpness:g}" if self.rule in SHARP else ""
        return f"{self.rule} by {self.statistic.replace('_', ' ')}{sharp}{scale}"


@dataclass(frozen=True)
class Refinement:
    """Coefficients of a hospital's refined model, and their reasons.

    Attributes:
        site: Name of the hospital.
        recipe: The recipe that gave the coefficients.
        coefficients: Contributing hospital to η w, without zeros. They add up to η.
        distances: Contributing hospital to distance, in medians; empty if the recipe needs none.
        fallback: Why the uniform mean was taken instead; empty if it was not.
        normalization: Other coefficients for normalization layers; empty if they are the same.
    """

    site: str
    recipe: Recipe
    coefficients: Mapping[str, float]
    distances: Mapping[str, float]
    fallback: str = ""
    normalization: Mapping[str, float] = field(default_factory=dict)

    @property
    def sources(self) -> list[str]:
        """Names of the hospitals whose vectors are needed."""
        return sorted({*self.coefficients, *self.normalization})

    @property
    def nearest(self) -> str:
        """Name of the nearest hospital; empty if the recipe needs no distance."""
        return min(self.distances, key=lambda site: (self.distances[site], site), default="")


def choose_coefficients(
    site: str, neighbourhood: Neighbourhood, contributors: Sequence[str], recipe: Recipe
) -> Refinement:
    """Choose the coefficients of a hospital's refined model.

    Args:
        site: Any hospital; one that contributed is at distance 0 from its own vector.
        neighbourhood: Distances by the recipe's statistic.
        contributors: Hospitals whose vectors may be used. Leave `site` out to see the coefficients
            that it would get without a contribution.
        recipe: How to choose.

    Raises:
        ConfigError: There is no contribution.
    """
    known = [each for each in sorted(contributors) if neighbourhood.knows(each)]
    if not contributors:
        raise ConfigError("Nobody has contributed yet: there is nothing to refine.")
    mean = _scaled(_uniform(contributors), recipe)
    if recipe.is_common or recipe.rule == "norm_local":
        own = {site: 1.0} if recipe.rule == "norm_local" and site in contributors else {}
        return Refinement(site, recipe, mean, {}, normalization=_scaled(own, recipe))
    if not neighbourhood.knows(site) or not known:
        reason = f"nobody described {site} by {recipe.statistic.replace('_', ' ')}"
        return Refinement(site, recipe, mean, {}, reason)
    unit = neighbourhood.unit(known)
    distances = {each: neighbourhood.distance(site, each) / unit for each in known}
    if min(distances.values()) > recipe.reach:
        nearest = min(distances, key=lambda each: (distances[each], each))
        reason = (
            f"nobody is near: {nearest}, the nearest, is {distances[nearest]:.1f} medians away, "
            f"the limit is {recipe.reach:g}"
        )
        return Refinement(site, recipe, mean, distances, reason)
    if recipe.rule == "posterior":
        found = _posterior(distances, neighbourhood.noise(site, known) / unit**2, recipe)
    else:
        found = _weigh(distances, neighbourhood, unit, recipe)
    others = {other: share for other, share in found.items() if other != site}
    most = max(others, key=lambda other: (others[other], other), default="")
    if most and others[most] > 1 / recipe.least_sources + NEGLIGIBLE:
        reason = (
            f"{most} alone would have {others[most]:.0%} of the model, the limit is one in "
            f"{recipe.least_sources}"
        )
        return Refinement(site, recipe, mean, distances, reason)
    return Refinement(site, recipe, _scaled(found, recipe), distances)


def combine(
    base: StateDict,
    files: Mapping[str, TaskVectors],
    refinement: Refinement,
    normalization: Collection[str] = (),
) -> StateDict:
    """Return θ0 + Σ w_j τ_j, one parameter at a time, summed in float64 in the order of the names.

    Running statistics of normalization layers are mixed like everything else: they describe the
    images of the hospitals that count.

    Args:
        base: θ0; tensors that are not floating-point are copied.
        files: Open contributions; those of all `refinement.sources`.
        refinement: The coefficients.
        normalization: Names of the tensors of normalization layers.
    """
    made: StateDict = {}
    for name, tensor in base.items():
        if not tensor.is_floating_point():
            made[name] = tensor.clone()
            continue
        own = refinement.normalization if name in normalization else {}
        coefficients = own or refinement.coefficients
        total = torch.zeros(tensor.shape, dtype=torch.float64)
        for site in sorted(coefficients):
            total.add_(files[site].task_vector(name), alpha=coefficients[site])
        made[name] = add_to_base(name, tensor, total.float())
    return made


def _uniform(contributors: Sequence[str]) -> dict[str, float]:
    return {site: 1.0 / len(contributors) for site in sorted(contributors)}


def _scaled(shares: Mapping[str, float], recipe: Recipe) -> dict[str, float]:
    return {site: recipe.scale * share for site, share in shares.items() if recipe.scale}


def _posterior(distances: Mapping[str, float], noise: float, recipe: Recipe) -> dict[str, float]:
    """Return the probability of each hospital to be the one that is most like this one.

    A hospital that is like this one is about `sharpness` medians away, and the means differ by the
    noise of few subjects besides: its distance is normal with variance sharpness^2 + noise. A
    stranger is one median away, as two hospitals usually are. So

        w_j ~ exp(-d_j^2 / 2s^2) + exp(-1 / 2s^2),    s^2 = sharpness^2 + noise,

    which tends to the uniform mean where the noise is large, and where nobody is nearer than
    strangers are.

    Args:
        distances: Contributing hospital to distance, in medians, corrected for the noise.
        noise: Variance of a difference of two means, in squared medians.
        recipe: Its sharpness, and the largest number of neighbours.
    """
    chosen = nsmallest(recipe.neighbours, distances, key=lambda site: (distances[site], site))
    spread = 2 * (recipe.sharpness**2 + noise)
    least = min(distances[chosen[0]], 1.0)  # so that no exponential is 0 for all
    near = {site: math.exp((least**2 - distances[site] ** 2) / spread) for site in chosen}
    stranger = math.exp((least**2 - 1) / spread)
    return _normalized({site: share + stranger for site, share in near.items()})


def _weigh(
    distances: Mapping[str, float], neighbourhood: Neighbourhood, unit: float, recipe: Recipe
) -> dict[str, float]:
    chosen = nsmallest(recipe.neighbours, distances, key=lambda site: (distances[site], site))
    if recipe.rule == "nearest":
        return {chosen[0]: 1.0}
    if recipe.rule == "clusters":
        step = unit * recipe.sharpness
        return _uniform(_cluster(chosen[0], list(distances), neighbourhood, step))
    shares = {
        site: math.exp((distances[chosen[0]] - distances[site]) / recipe.sharpness)
        for site in chosen
    }
    return _normalized(shares)


def _normalized(shares: Mapping[str, float]) -> dict[str, float]:
    """Leave out what is negligible, and make the others add up to 1."""
    counted = {site: share for site, share in shares.items() if share > NEGLIGIBLE}
    total = math.fsum(counted.values())
    return {site: counted[site] / total for site in sorted(counted)}


def _cluster(
    start: str, sites: Sequence[str], neighbourhood: Neighbourhood, step: float
) -> list[str]:
    """Return all sites that `start` reaches in steps of at most `step` (single linkage)."""
    found, edge = {start}, [start]
    while edge:
        here = edge.pop()
        near = [
            site
            for site in sites
            if site not in found and neighbourhood.distance(here, site) <= step
        ]
        found.update(near)
        edge += near
    return sorted(found)
