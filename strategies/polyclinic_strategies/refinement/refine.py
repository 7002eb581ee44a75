"""Coefficients of a hospital's refined model, and the model that they give.

    θ_i = θ0 + Σ_j w_ij τ_j,    Σ_j w_ij = 1

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

RULES = ("softmax", "nearest", "clusters", "uniform", "norm_local")
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
        rule: softmax: w_j = exp(-d_j / sharpness) / Σ; nearest: the nearest one alone; clusters:
            the mean of all that are linked to the nearest one, in steps of at most `sharpness`;
            uniform: the mean of all; norm_local: the mean of all, but a contributor's own
            normalization layers, as in FedBN (Li et al. 2021, https://arxiv.org/abs/2102.07623).
        statistic: Name of an installed statistic.
        sharpness: The smaller, the more the nearest hospitals count.
        reach: A hospital that is farther than this from all others gets the uniform mean.
        neighbours: Softmax uses at most this many hospitals' vectors for a model.
        least_sources: No other hospital's vector has a larger share of a model than one in so
            many; where it would, the uniform mean is taken.
    """

    rule: str = "softmax"
    statistic: str = "average_image"
    sharpness: float = 0.2
    reach: float = 3.0
    neighbours: int = 8
    least_sources: int = 1

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ConfigError(f"refinement rule {self.rule}: one of {', '.join(RULES)}.")
        if not (self.sharpness > 0 and self.reach > 0 and self.neighbours >= 1):
            raise ConfigError("refinement: sharpness and reach are above 0, neighbours at least 1.")
        if self.least_sources < 1:
            raise ConfigError(f"strategy.least_sources={self.least_sources}: at least 1.")

    def __str__(self) -> str:
        if self.rule in ("uniform", "norm_local"):
            own = " with the own normalization" if self.rule == "norm_local" else ""
            return f"uniform mean{own}"
        sharp = f", sharpness {self.sharpness:g}" if self.rule in ("softmax", "clusters") else ""
        return f"{self.rule} by {self.statistic.replace('_', ' ')}{sharp}"


@dataclass(frozen=True)
class Refinement:
    """Coefficients of a hospital's refined model, and their reasons.

    Attributes:
        site: Name of the hospital.
        recipe: The recipe that gave the coefficients.
        coefficients: Contributing hospital to w, without zeros. They add up to 1.
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
    if recipe.rule in ("uniform", "norm_local"):
        own = {site: 1.0} if recipe.rule == "norm_local" and site in contributors else {}
        return Refinement(site, recipe, _uniform(contributors), {}, normalization=own)
    if not neighbourhood.knows(site) or not known:
        reason = f"nobody described {site} by {recipe.statistic.replace('_', ' ')}"
        return Refinement(site, recipe, _uniform(contributors), {}, reason)
    unit = neighbourhood.unit(known)
    distances = {each: neighbourhood.distance(site, each) / unit for each in known}
    if min(distances.values()) > recipe.reach:
        nearest = min(distances, key=lambda each: (distances[each], each))
        reason = (
            f"nobody is near: {nearest}, the nearest, is {distances[nearest]:.1f} medians away, "
            f"the limit is {recipe.reach:g}"
        )
        return Refinement(site, recipe, _uniform(contributors), distances, reason)
    found = _weigh(distances, neighbourhood, unit, recipe)
    others = {other: share for other, share in found.items() if other != site}
    most = max(others, key=lambda other: (others[other], other), default="")
    if most and others[most] > 1 / recipe.least_sources + NEGLIGIBLE:
        reason = (
            f"{most} alone would have {others[most]:.0%} of the model, the limit is one in "
            f"{recipe.least_sources}"
        )
        return Refinement(site, recipe, _uniform(contributors), distances, reason)
    return Refinement(site, recipe, found, distances)


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
