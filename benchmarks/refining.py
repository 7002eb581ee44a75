"""Hospitals, fine-tuning and refinement in one process, for `refinement.py`.

Averaging is simulated (`polyclinic.simulate`). Fine-tuning and the choice of recipes stay here: the
recorded figures rest on passes that are numbered on after the base's rounds, so that every strategy
draws the same batches in a pass, and the ablations score models that no strategy would make.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

import polyclinic
from polyclinic.config.compose import instantiate, load_config
from polyclinic.config.release import Release
from polyclinic.describing.statistics import describe
from polyclinic.imaging.datasets import read_dataset
from polyclinic.learning import training
from polyclinic.learning.loading.samples import training_loader
from polyclinic.learning.optimizing.stepping import Stepper
from polyclinic.learning.prediction import evaluate_natively
from polyclinic.learning.preparation import PreparedSite, prepare
from polyclinic.learning.state_dict import StateDict, load_state, shared_names
from polyclinic_demos.pretraining import pool
from polyclinic_strategies.refinement.choice import Tried, try_recipes
from polyclinic_strategies.refinement.distribution import Neighbourhood
from polyclinic_strategies.refinement.refine import Recipe, Refinement, choose_coefficients, combine
from polyclinic_strategies.refinement.strategy import Refining

BASE_ROUNDS = 3  # as in the demo


@dataclass(frozen=True)
class Vector:
    """A contribution in memory."""

    tensors: Mapping[str, Tensor]

    def task_vector(self, name: str) -> Tensor:
        """Return one parameter's task vector."""
        return self.tensors[name]


class Hospitals:
    """Prepared hospitals and one network that plays everybody's.

    Args:
        folders: Folders of those that take part, then of those that join later.
        taking_part: Number of those that take part.
        overrides: Hydra's settings.
    """

    def __init__(self, folders: Sequence[Path], taking_part: int, overrides: Sequence[str]) -> None:
        self.config, self.overrides = load_config(overrides), tuple(overrides)
        self.folders = {path.name: path for path in folders}
        self.sites: dict[str, PreparedSite] = {
            path.name: prepare(read_dataset(path), self.config.data) for path in folders
        }
        names = [path.name for path in folders]
        self.old, self.new = names[:taking_part], names[taking_part:]
        torch.manual_seed(self.config.seed)
        self.network = instantiate(self.config.model)
        self.initial = self._state()
        norms = set(self.initial) - set(shared_names(self.network, "norm"))
        self.normalization = sorted(norms)
        self.refining: Refining = instantiate(
            load_config(["strategy=refinement", f"strategy.base_rounds={BASE_ROUNDS}"]).strategy,
            _recursive_=False,
        )

    def train(
        self, start: StateDict, site: str, passes: Sequence[int], *, fresh: bool = False
    ) -> StateDict:
        """Make passes over a hospital's cases, each drawn with a number.

        Args:
            start: Weights before.
            site: The hospital.
            passes: Number of each pass.
            fresh: Whether the optimizer starts anew in each, as in rounds.
        """
        rules = self.config.training
        self.network.load_state_dict(start)
        stepper = Stepper(self.network, rules)
        for number in passes:
            stepper = Stepper(self.network, rules) if fresh else stepper
            loader = training_loader(
                self.sites[site], replace(rules, epochs=1), _seed(self.config.seed, site, number)
            )
            training.fit(
                self.network,
                loader,
                replace(rules, epochs=1),
                self.config.data,
                stepper=stepper,
            )
        return self._state()

    def average(self, rounds: int, strategy: str = "averaging/fedavg") -> dict[str, StateDict]:
        """Average those that take part; returns each hospital's state, and the mean as `""`."""
        taking_part = {site: self.folders[site] for site in self.old}
        with polyclinic.simulate(
            taking_part, *self.overrides, strategy=strategy, rounds=rounds, progress=False
        ) as result:
            arm = strategy.rpartition("/")[2]
            states = {site: load_state(result.model_file(arm, site))[0] for site in self.old}
        mean = {name: _mean([state[name] for state in states.values()]) for name in self.initial}
        return {**states, "": mean}

    def pooled(self, rounds: int) -> StateDict:
        """Train one model on everybody's images, with as many passes."""
        self.sites["pooled"] = prepare(
            pool([self.sites[site].dataset for site in self.old], "pooled"), self.config.data
        )
        state = self.train(self.initial, "pooled", range(1, rounds + 1), fresh=True)
        del self.sites["pooled"]
        return state

    def contribute(self, base: StateDict, first: int, last: int) -> dict[str, Vector]:
        """Return each hospital's task vector after the passes first .. last."""
        tuned = {site: self.train(base, site, range(first, last + 1)) for site in self.old}
        return {
            site: Vector({name: state[name] - base[name] for name in base})
            for site, state in tuned.items()
        }

    def describe(self, base: StateDict, statistics: Sequence[str]) -> dict[str, StateDict]:
        """Return each hospital's description, of its training images."""
        self.network.load_state_dict(base)
        return {
            site: describe(
                statistics,
                (sample.image for sample in prepared.training),
                range(len(prepared.training)),
                self.network,
                Release(min_subjects=1),
            )
            for site, prepared in self.sites.items()
        }

    def validate(self, state: StateDict, site: str) -> float:
        """Score on the validation cases."""
        self.network.load_state_dict(state)
        return training.evaluate(self.network, self.sites[site].validation, self.config.data).score

    def test(self, state: StateDict, site: str) -> float:
        """Score on the test cases, on their own grids."""
        self.network.load_state_dict(state)
        return evaluate_natively(self.network, self.sites[site].dataset, self.config.data)[0].score

    def _state(self) -> StateDict:
        return {name: tensor.clone() for name, tensor in self.network.state_dict().items()}


class Coordinator:
    """Refines contributions by descriptions, and chooses how.

    Args:
        hospitals: Who scores.
        base: What everybody started from.
        vectors: What they contributed.
        descriptions: Of all, newcomers too.
    """

    def __init__(
        self,
        hospitals: Hospitals,
        base: StateDict,
        vectors: Mapping[str, Vector],
        descriptions: Mapping[str, StateDict],
    ) -> None:
        self.hospitals, self.base, self.vectors = hospitals, base, vectors
        self.neighbourhoods: dict[str, Neighbourhood] = {}
        for statistic in next(iter(descriptions.values())):
            self.neighbourhoods[statistic] = Neighbourhood(statistic)
            self.neighbourhoods[statistic].update(descriptions)

    def refine(self, site: str, recipe: Recipe, *, leave_out: bool = False) -> Refinement:
        """Choose whose vectors make a hospital's model, and with which coefficients."""
        among = [each for each in self.vectors if not (leave_out and each == site)]
        return choose_coefficients(site, self.neighbourhoods[recipe.statistic], among, recipe)

    def model(self, refinement: Refinement) -> StateDict:
        """Make the model of these coefficients."""
        return combine(self.base, self.vectors, refinement, self.hospitals.normalization)

    def mix(self, coefficients: Mapping[str, float]) -> StateDict:
        """Make the model of plain numbers."""
        return self.model(Refinement("", Recipe(), coefficients, {}))

    def choose(self, recipes: Sequence[Recipe], *, leave_out: bool) -> Tried:
        """Choose the recipe that serves best those that take part, left out in turn or not.

        The test images and the newcomers play no part.
        """

        def score(wanted: Mapping[str, Refinement]) -> dict[str, float]:
            return {
                site: self.hospitals.validate(self.model(each), site)
                for site, each in wanted.items()
            }

        def refine(site: str, recipe: Recipe) -> Refinement:
            return self.refine(site, recipe, leave_out=leave_out)

        return try_recipes(recipes, list(self.vectors), refine, score)[0]


def shuffled(sites: Sequence[str], seed: int) -> dict[str, str]:
    """Give every hospital the description of another."""
    generator = random.Random(seed)
    while True:
        others = list(sites)
        generator.shuffle(others)
        if all(one != other for one, other in zip(sites, others, strict=True)):
            return dict(zip(sites, others, strict=True))


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    """Average tensors; what all have in common stays as it is, bit for bit."""
    if all(torch.equal(tensors[0], tensor) for tensor in tensors):
        return tensors[0]
    return torch.stack([tensor.float() for tensor in tensors]).mean(0)


def _seed(seed: int, site: str, number: int) -> int:
    return int.from_bytes(sha256(f"{seed}/{site}/{number}".encode()).digest()[:4], "big")
