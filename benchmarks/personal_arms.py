"""Federations in one process, with the same batches for every arm.

A pass is one reading of a hospital's training samples, or `training.steps` steps, with an optimizer
that starts anew, as in a round. Its batches hang on the seed, the hospital and the number of the
pass alone, so every arm that makes as many passes sees the same.

Ditto (Li et al. 2021, https://arxiv.org/abs/2012.04221) and APFL (Deng et al. 2020,
https://arxiv.org/abs/2003.13461) train a second model at every hospital, so they make twice the
passes. FedPer: Arivazhagan et al. 2019, https://arxiv.org/abs/1912.00818. FedProx: Li et al. 2020,
https://arxiv.org/abs/1812.06127. FedBN: Li et al. 2021, https://arxiv.org/abs/2102.07623.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from polyclinic.config.compose import instantiate
from polyclinic.config.schemas import TrainingConfig
from polyclinic.learning.losses import judge
from polyclinic.learning.optimizing.stepping import make_optimizer
from polyclinic.learning.state_dict import StateDict, shared_names

PROXIMAL, DITTO, MIXED = 0.01, 0.1, 0.5  # mu of FedProx, lambda of Ditto, APFL's first alpha
Batch = tuple[Tensor, Tensor]
Models = dict[str, StateDict]  # by hospital


class Site(Protocol):
    """A hospital with what it trains on, validates and tests."""

    size: int  # training cases
    cases: int  # validation cases

    def batches(self, seed: int) -> Iterator[Batch]:
        """Draw one pass."""
        ...

    def score(self, network: nn.Module, split: str) -> float:
        """Score a network on validation or test cases."""
        ...


class Pooled:
    """All hospitals' batches, mixed; as many as they have together."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self._sites = sites
        self.size, self.cases = sum(site.size for site in sites.values()), 0

    def batches(self, seed: int) -> Iterator[Batch]:
        """Draw one pass; every batch mixes the hospitals."""
        drawn = [
            batch
            for name, site in self._sites.items()
            for batch in site.batches(_seed(seed, name, 0))
        ]
        images, labels = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        for chosen in order.split(len(drawn[0][1])):
            yield images[chosen], labels[chosen]

    def score(self, network: nn.Module, split: str) -> float:
        """Not asked for."""
        raise NotImplementedError


class Federation:
    """Trains every arm with one network that plays everybody's.

    Args:
        sites: Hospitals that take part.
        network: With the weights that everybody starts from.
        training: Optimizer and loss.
        seed: Of the batches.
    """

    def __init__(
        self, sites: Mapping[str, Site], network: nn.Module, training: TrainingConfig, seed: int
    ) -> None:
        self.sites, self.network, self.training, self.seed = dict(sites), network, training, seed
        self.initial = self._state()
        self._loss = instantiate(training.loss)

    def fit(
        self,
        start: StateDict,
        site: str,
        number: int,
        *,
        near: StateDict | None = None,
        mu: float = 0,
    ) -> StateDict:
        """Make one pass; mu / 2 ||w - near||^2 is added to the loss."""
        self.network.load_state_dict(start)
        self.network.train()
        optimizer = make_optimizer(self.network, self.training)
        for image, label in self._site(site).batches(_seed(self.seed, site, number)):
            optimizer.zero_grad()
            judge(self._loss, self.network(image), label).backward()
            for name, weight in self.network.named_parameters() if near and mu else ():
                if weight.grad is not None:
                    weight.grad += mu * (weight.detach() - near[name])
            optimizer.step()
        return self._state()

    def average(
        self, rounds: int, *, personal: Sequence[str] = (), mu: float = 0, at: int = 0
    ) -> tuple[Models, StateDict]:
        """Average for rounds; return everybody's model, and the mean.

        Args:
            rounds: Number of passes of everybody.
            personal: Names of the tensors that stay at the hospital.
            mu: FedProx's.
            at: After so many rounds, `kept` holds the mean.
        """
        mean, models = self.initial, dict.fromkeys(self.sites, self.initial)
        for number in range(rounds):
            tuned = {
                site: self.fit(models[site], site, number, near=mean, mu=mu) for site in self.sites
            }
            mean = self.mean(tuned)
            models = {
                site: {**mean, **{name: tuned[site][name] for name in personal}} for site in tuned
            }
            if number + 1 == at:
                self.kept = mean
        return models, mean

    def local(self, rounds: int) -> Models:
        """Let everybody train alone."""
        return {site: self.passes(self.initial, site, range(rounds)) for site in self.sites}

    def pooled(self, rounds: int) -> StateDict:
        """Train one model on everybody's samples."""
        self.sites["pooled"] = Pooled(dict(self.sites))
        state = self.passes(self.initial, "pooled", range(rounds))
        del self.sites["pooled"]
        return state

    def passes(self, start: StateDict, site: str, numbers: Sequence[int]) -> StateDict:
        """Make several passes at one hospital."""
        for number in numbers:
            start = self.fit(start, site, number)
        return start

    def ditto(self, rounds: int) -> Models:
        """Train a model beside the averaged one, held near it."""
        mean, own = self.initial, dict.fromkeys(self.sites, self.initial)
        for number in range(rounds):
            own = {
                site: self.fit(own[site], site, number, near=mean, mu=DITTO) for site in self.sites
            }
            mean = self.mean({site: self.fit(mean, site, number) for site in self.sites})
        return own

    def apfl(self, rounds: int) -> Models:
        """Train a model whose mixture with the averaged one is used, and the share of it."""
        mean, own = self.initial, dict.fromkeys(self.sites, self.initial)
        shares = dict.fromkeys(self.sites, MIXED)
        tuned: Models = {}
        for number in range(rounds):
            tuned = {site: self.fit(mean, site, number) for site in self.sites}
            for site in self.sites:
                own[site], shares[site] = self._fit_mixed(
                    own[site], tuned[site], shares[site], site, number
                )
            mean = self.mean(tuned)
        return {site: _mix(own[site], tuned[site], shares[site]) for site in self.sites}

    def head(self) -> list[str]:
        """Return the names of the last layer's tensors, which FedPer keeps at the hospital."""
        layers = [
            (name, layer)
            for name, layer in self.network.named_modules()
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d)
        ]
        name, layer = layers[-1]
        return [f"{name}.{key}" for key in layer.state_dict()]

    def normalization(self) -> list[str]:
        """Return the names of the normalization layers' tensors, which FedBN keeps."""
        shared = set(shared_names(self.network, "norm"))
        return [name for name in shared_names(self.network, "none") if name not in shared]

    def score(self, state: StateDict, site: Site, split: str) -> float:
        """Score a model at a hospital."""
        self.network.load_state_dict(state)
        return site.score(self.network, split)

    def _fit_mixed(
        self, own: StateDict, other: StateDict, share: float, site: str, number: int
    ) -> tuple[StateDict, float]:
        """Make a pass of the hospital's own model through the mixture, and move its share."""
        self.network.load_state_dict(own)
        self.network.train()
        optimizer = make_optimizer(self.network, self.training)
        trained = dict(self.network.named_parameters())
        for image, label in self._site(site).batches(_seed(self.seed, site, number)):
            mixed = {
                name: share * weight + (1 - share) * other[name] for name, weight in trained.items()
            }
            for value in mixed.values():
                value.retain_grad()
            optimizer.zero_grad()
            judge(self._loss, functional_call(self.network, mixed, (image,)), label).backward()
            slope = sum(
                float((value.grad * (trained[name].detach() - other[name])).sum())
                for name, value in mixed.items()
                if value.grad is not None
            )
            optimizer.step()
            share = min(1.0, max(0.0, share - self.training.learning_rate * slope))
        return self._state(), share

    def _site(self, name: str) -> Site:
        return self.sites[name]

    def mean(self, models: Models) -> StateDict:
        """Average models, weighted by training samples."""
        total = sum(self.sites[site].size for site in models)
        return {
            name: sum(
                (self.sites[site].size / total) * state[name].float()
                for site, state in models.items()
            )
            if tensor.is_floating_point()
            else tensor
            for name, tensor in self.initial.items()
        }

    def _state(self) -> StateDict:
        return {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}


def _mix(own: StateDict, other: StateDict, share: float) -> StateDict:
    return {
        name: share * tensor + (1 - share) * other[name] if tensor.is_floating_point() else tensor
        for name, tensor in own.items()
    }


def _seed(seed: int, site: str, number: int) -> int:
    return int.from_bytes(sha256(f"{seed}/{site}/{number}".encode()).digest()[:4], "big")


# arm -> how to train it, and the number of passes that it makes in a round
BASELINES: Mapping[str, tuple[Callable[[Federation, int], Models | StateDict], int]] = {
    "local": (Federation.local, 1),
    "fedprox": (lambda each, rounds: each.average(rounds, mu=PROXIMAL)[1], 1),
    "fedbn": (lambda each, rounds: each.average(rounds, personal=each.normalization())[0], 1),
    "fedper": (lambda each, rounds: each.average(rounds, personal=each.head())[0], 1),
    "ditto": (Federation.ditto, 2),
    "apfl": (Federation.apfl, 2),
    "pooled": (Federation.pooled, 1),
}
