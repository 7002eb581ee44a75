"""Merging's arms of `real_merging.py`: rules with their candidates, controls, restoration.

Every hospital fine-tunes from one base and hands in its task vector. A merged model is restored at
each hospital: statistics of batch normalization are estimated again from its training images, then
come the extra passes, which its own model gets, too.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import product
from statistics import fmean
from typing import Any

import torch
from personal_arms import Federation, Models
from real_sites import ImageSite
from torch import Tensor

from polyclinic.config.compose import instantiate, load_config
from polyclinic.learning.low_rank import expand, factorize, faster, is_thin, learning_factors
from polyclinic.learning.state_dict import StateDict
from polyclinic_strategies.merging.arithmetic.layer import is_normalization_statistic
from polyclinic_strategies.merging.in_memory import MemoryVectors
from polyclinic_strategies.merging.layer_statistics import LAYER_STATISTICS
from polyclinic_strategies.merging.restore import recalibrate, several_together
from polyclinic_strategies.merging.streaming.merge import merge

# rule -> parameter -> values that hospitals score; what the rule's own file has, and more
GRIDS: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "mean": {"scale": (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)},
    "weighted_mean": {},
    "ties": {"keep": (0.2, 0.5), "scale": (1.0, 1.5, 2.0, 3.0)},
    "dare": {"scale": (0.3, 0.6, 1.0)},
    "dare_ties": {"scale": (1.0, 2.0, 3.0)},
    "trimmed_mean": {},
    "iso_c": {"unfold": (True, False), "scale": (0.3, 0.6, 1.0, 1.5, 2.0)},
    "tsv_m": {"scale": (0.3, 0.6, 1.0, 1.5, 2.0)},
    "wudi": {},
    "fisher": {},
    "regmean": {"off_diagonal": (0.5, 0.95), "scale": (1.0, 2.0)},
}
BEST = ("ties", "iso_c", "mean")  # among which hospitals choose, as in strategy=merging/best
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of a hospital's own model in a mixture
Scores = dict[str, dict[str, float]]  # arm -> hospital -> score


@dataclass
class Merging:
    """Task vectors of one federation, and everything that is made of them.

    Args:
        federation: Hospitals that take part; its initial weights are the base.
        tuned: Every hospital's fine-tuned model.
        extra: Numbers of the passes of restoration.
        passes: Number of passes that made them.
    """

    federation: Federation
    tuned: Models
    extra: Sequence[int]
    passes: int
    told: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.base = self.federation.initial
        self.sites = sorted(self.tuned)
        self._measured: dict[tuple[str, str], StateDict] = {}
        self.vectors = {
            site: {
                name: state[name] - tensor
                for name, tensor in self.base.items()
                if tensor.is_floating_point()
            }
            for site, state in self.tuned.items()
        }

    def rule(self, name: str) -> StateDict:
        """Return a rule's model, with the candidate that scores best on validation cases."""
        grid = GRIDS[name]
        tried = []
        for values in product(*grid.values()):
            parameters = dict(zip(grid, values, strict=True))
            state = self._merge(name, parameters)
            tried.append((self.validate(dict.fromkeys(self.sites, state)), parameters, state))
        best = max(tried, key=lambda each: each[0])
        self.told[name] = {
            "chosen": best[1],
            "validation": best[0],
            "tried": [[parameters, score] for score, parameters, _ in tried],
        }
        return best[2]

    def thin(self, rank: int) -> "Merging":
        """Return the same, but what hospitals hand in are matrices of low rank."""
        thin = Merging(self.federation, self.tuned, self.extra, self.passes)
        for site, vector in self.vectors.items():
            for name, tensor in vector.items():
                factors = factorize(tensor, rank)
                if factors is not None:
                    thin.vectors[site][name] = expand(*factors)
        thin.told["share"] = self._share(rank)
        return thin

    def thin_rule(self, name: str, rank: int, arm: str) -> StateDict:
        """Return a rule's model of what is handed in thin; what was chosen is told of the arm."""
        thin = self.thin(rank)
        state = thin.rule(name)
        self.told[arm] = thin.told
        return state

    def best(self) -> str:
        """Return the rule that hospitals choose among those of strategy=merging/best."""
        return max(BEST, key=lambda name: self._told_of(name)["validation"])

    def lora(self, rank: int) -> "Merging":
        """Return the same, but hospitals train factors of low rank instead of whole layers."""
        made = Merging(self.federation, self._train_factors(rank), self.extra, self.passes)
        made.told["share"] = self._share(rank)
        return made

    def _share(self, rank: int) -> float:
        """Return the share of a vector's numbers that travel where layers travel as factors."""
        vector = next(iter(self.vectors.values()))
        sizes = {name: tensor.numel() for name, tensor in vector.items()}
        thin = {
            name: rank * (len(tensor) + tensor[0].numel())
            for name, tensor in vector.items()
            if is_thin(tuple(tensor.shape), rank)
        }
        return sum((sizes | thin).values()) / sum(sizes.values())

    def _told_of(self, name: str) -> dict[str, Any]:
        if name not in self.told:
            self.rule(name)
        found: dict[str, Any] = self.told[name]
        return found

    def _train_factors(self, rank: int) -> Models:
        """Fine-tune as hospitals do with `strategy.rank`; return whole models."""
        return {site: self._fit_factors(self.base, site, rank) for site in self.sites}

    def _fit_factors(self, start: StateDict, site: str, rank: int) -> StateDict:
        network = deepcopy(self.federation.network)
        network.load_state_dict(start)
        training = faster(self.federation.training)
        with learning_factors(network, rank):
            made = Federation(self.federation.sites, network, training, self.federation.seed)
            network.load_state_dict(made.passes(made.initial, site, range(self.passes)))
        return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    def random(self, seed: int) -> StateDict:
        """Return the base plus a random vector, in every tensor as long as the mean's."""
        merged = self._merge("mean", {})
        generator = torch.Generator().manual_seed(seed)
        made = {}
        for name, tensor in self.base.items():
            vector = merged[name] - tensor
            if not tensor.is_floating_point() or is_normalization_statistic(name):
                made[name] = merged[name]
                continue
            noise = torch.randn(vector.shape, generator=generator)
            made[name] = tensor + noise * (vector.norm() / noise.norm().clamp_min(1e-12))
        return made

    def in_turn(self, sites: Iterable[str], rank: int = 0) -> StateDict:
        """Let every hospital start from the mean of those before it, and join that mean."""
        mean = self.base
        for count, site in enumerate(sites, 1):
            tuned = (
                self._fit_factors(mean, site, rank)
                if rank
                else self.federation.passes(mean, site, range(self.passes))
            )
            mean = mix(mean, tuned, 1 / count)
        return mean

    def mixtures(self, merged: StateDict) -> Models:
        """Mix every hospital's own model with the merged one, by its own validation cases."""
        found, shares = {}, {}
        for site in self.sites:
            tried = {}
            for share in SHARES:
                state = mix(merged, self.tuned[site], share)
                tried[share] = self._score(self._ready(state, site), site, "validation")
            shares[site] = max(SHARES, key=lambda share: (tried[share], -abs(share - 0.5)))
            found[site] = mix(merged, self.tuned[site], shares[site])
        self.told["mixture"] = {"shares": shares}
        return found

    def validate(self, models: Models) -> float:
        """Score models at their hospitals, with statistics of their own; mean over hospitals."""
        return fmean(
            self._score(self._ready(models[site], site), site, "validation") for site in self.sites
        )

    def test(self, arm: str, models: Models, *, extra: bool = True) -> Scores:
        """Test models as they are ready at each hospital, and after the extra passes there."""
        ready = {site: self._ready(models[site], site) for site in self.sites}
        if not extra:
            return {arm: {site: self._score(ready[site], site, "test") for site in self.sites}}
        restored = {
            site: self.federation.passes(state, site, self.extra) for site, state in ready.items()
        }
        return {
            name: {site: self._score(states[site], site, "test") for site in self.sites}
            for name, states in ((arm, ready), (f"{arm}, restored", restored))
        }

    def everywhere(self, state: StateDict) -> Models:
        """Give one model to everybody."""
        return dict.fromkeys(self.sites, state)

    def _merge(self, name: str, parameters: Mapping[str, Any]) -> StateDict:
        weights = {site: self.federation.sites[site].size for site in self.sites}
        rule = instantiate({**_rule(name), **parameters})
        files = {
            site: Measured(vector, self._statistics(site, rule.needs))
            for site, vector in self.vectors.items()
        }
        base = {name: self.base[name] for name in next(iter(self.vectors.values()))}
        return {**self.base, **merge(base, files, weights, rule)}

    def _statistics(self, site: str, kinds: Iterable[str]) -> StateDict:
        """Measure what a rule needs of a hospital's own model, on its training images."""
        found: StateDict = {}
        for kind in kinds:
            if (site, kind) not in self._measured:
                network, place = self.federation.network, self.federation.sites[site]
                assert isinstance(place, ImageSite), "features have no layers to measure"
                network.load_state_dict(self.tuned[site])
                measure = LAYER_STATISTICS[kind]
                self._measured[site, kind] = measure(
                    network, place.prepared, self.federation.training, 0
                )
            found |= self._measured[site, kind]
        return found

    def _ready(self, state: StateDict, site: str) -> StateDict:
        """Estimate the statistics of batch normalization from the site's training images."""
        network = self.federation.network
        network.load_state_dict(state)
        recalibrate(network, self._images(site))
        return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    def _images(self, site: str) -> Iterator[Tensor]:
        # as for passes, so that every model sees the same images
        return several_together(image for image, _ in self.federation.sites[site].batches(0))

    def _score(self, state: StateDict, site: str, split: str) -> float:
        return self.federation.score(state, self.federation.sites[site], split)


def mix(one: StateDict, other: StateDict, share: float) -> StateDict:
    """Return (1 - share) times one model plus share times another."""
    return {
        name: torch.lerp(tensor, other[name], share) if tensor.is_floating_point() else tensor
        for name, tensor in one.items()
    }


class Measured(MemoryVectors):
    """A task vector in memory, with statistics."""

    def __init__(self, tensors: StateDict, statistics: StateDict) -> None:
        super().__init__(tensors)
        self.statistics = list(statistics)
        self._statistics = statistics

    def statistic(self, name: str) -> Tensor:
        """Return one of `statistics`."""
        return self._statistics[name]


def _rule(name: str) -> dict[str, Any]:
    """Return the node of a rule's file."""
    found: dict[str, Any] = dict(load_config([f"strategy=merging/{name}"]).strategy["rule"])
    return found
