"""A method's part at a hospital, and the plain one: all hospitals have one task in common.

`Site` is what a method may use of a hospital. `Hospital` is what a method brings; it keeps nothing
in itself between two messages, but in the site's `kept` and `state`. A method that differs from the
plain one in one step inherits `CommonTask` and overrides that step:

    class Smoothed(CommonTask):
        def make_ready(self, site, order, network):
            smooth(network)
            return {}

    HOSPITAL = Smoothed()
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from polyclinic.config.release import Release
from polyclinic.config.schemas import TrainingConfig
from polyclinic.describing.statistics import statistic_names
from polyclinic.errors import UnknownName
from polyclinic.federation.assignment import Assignment
from polyclinic.federation.records import Order
from polyclinic.federation.site import (
    Site,
    check_labels,
    check_layer_release,
    check_private,
    describe_training_images,
    fit_contribution,
    keep_personal,
    load_weights,
    private_plan,
    save_site_model,
    tell_training,
)
from polyclinic.learning import training
from polyclinic.learning.cases.drawn import draw_places
from polyclinic.learning.gallery import draw_first
from polyclinic.learning.loading.samples import training_loader
from polyclinic.learning.metrics import Evaluation
from polyclinic.learning.optimizing.moments import Moments
from polyclinic.learning.optimizing.schedules import Round
from polyclinic.learning.optimizing.stepping import Stepper
from polyclinic.learning.prediction import evaluate_natively
from polyclinic.learning.preparation import PreparedSite
from polyclinic.learning.private.fitting import fit_privately
from polyclinic.learning.state_dict import StateDict, pack, shared_names, subtract

# of network, cases, training and seed: a mean over all training subjects, each of equal weight
LayerStatistic = Callable[[nn.Module, PreparedSite, TrainingConfig, int], StateDict]


@dataclass(frozen=True)
class Trained:
    """Answer to a round of training.

    Attributes:
        weights: The shared weights, packed.
        result: What training did.
        epsilon: What training for the run has told about one patient so far, if it may be told.
    """

    weights: Tensor
    result: training.FitResult
    epsilon: float | None = None


@dataclass(frozen=True, eq=False)
class Learned:
    """Content of a contribution: figures, the task vector, and statistics by name."""

    metrics: Mapping[str, float]
    task_vector: StateDict
    statistics: StateDict


class Hospital(Protocol):
    """A method's part at a hospital."""

    def prepare(self, site: Site, order: Order) -> str:
        """Make ready for the work; return the declaration of the hospital's own task, if any.

        Raises:
            PolyclinicError: The hospital cannot take part; a shareable text reaches the
                coordinator.
        """
        ...

    def train(self, site: Site, order: Order, weights: Tensor) -> Trained:
        """Train for a round, from the weights that arrived and what is kept here."""
        ...

    def evaluate(self, site: Site, order: Order, weights: Tensor) -> Evaluation:
        """Score the weights that arrived on the validation cases."""
        ...

    def test(self, site: Site, order: Order, weights: Tensor) -> Evaluation:
        """Score the final weights on the test cases' own grids, and keep the model here."""
        ...

    def contribute(
        self,
        site: Site,
        assignment: Assignment,
        network: nn.Module,
        base: StateDict,
        checkpoint: Path,
    ) -> Learned:
        """Fine-tune the base.

        Args:
            site: The hospital.
            assignment: What is asked for.
            network: With the base's weights.
            base: The same weights by name.
            checkpoint: File from which an interrupted training goes on.
        """
        ...


@runtime_checkable
class DescribingHospital(Protocol):
    """A method's part where hospitals describe themselves, and get models for that."""

    def describe(
        self,
        site: Site,
        order: Order,
        names: Sequence[str],
        release: Release,
        weights: Tensor | None,
    ) -> tuple[StateDict, int]:
        """Compute means over all subjects; return them and the number of subjects.

        Args:
            site: The hospital.
            order: What network and data are.
            names: Names of the statistics that are asked for.
            release: What may leave, as far as the coordinator asks.
            weights: The base; None if no statistic is made of its features.
        """
        ...

    def receive(self, site: Site, order: Order, weights: Tensor, number: int) -> Path:
        """Keep a model that the coordinator made for this hospital; return its file."""
        ...


class CommonTask:
    """A hospital's part where all hospitals have the same task.

    Example:
        ```python
        # a method that differs in one step
        class Smoothed(CommonTask):
            def make_ready(self, site, order, network):
                smooth(network)
                return {}
        ```

    Args:
        layer_statistics: What a contribution may hold of the tuned network's layers: name to a
            function of network, cases, training and seed.
    """

    def __init__(
        self, layer_statistics: Mapping[str, LayerStatistic] = MappingProxyType({})
    ) -> None:
        self._layer_statistics = layer_statistics

    def prepare(self, site: Site, order: Order) -> str:
        """Prepare the cases; refuse other classes than the federation's."""
        check_labels(site.job(order), site.dataset)
        check_private(site, order, site.build_network(order))
        site.prepared(order)
        return ""

    def train(self, site: Site, order: Order, weights: Tensor) -> Trained:
        """Train for a round; keep what is personal for the next one."""
        network = site.build_network(order)
        load_weights(site, order, network, weights, order.round - 1)
        result = self.fit(site, order, network)
        state, names = network.state_dict(), shared_names(network, order.personal)
        keep_personal(site, order, state, names)
        shown = {} if math.isnan(result.loss) else {"loss": result.loss}
        site.say(order, "waiting", force=True, **shown)
        return Trained(pack(state, names), result)

    def evaluate(self, site: Site, order: Order, weights: Tensor) -> Evaluation:
        """Score the weights on the validation cases."""
        network = site.build_network(order)
        load_weights(site, order, network, weights, order.round)
        site.say(order, "validating", force=True)
        evaluation = self.score(site, order, network)
        site.say(order, "waiting", score=evaluation.score, force=True)
        return self.release_figures(evaluation)

    def test(self, site: Site, order: Order, weights: Tensor) -> Evaluation:
        """Score the final weights on the test cases."""
        network = site.build_network(order)
        load_weights(site, order, network, weights, order.rounds)
        site.say(order, "testing", force=True)
        evaluation = self.score_finally(site, order, network)
        site.say(order, "waiting", score=evaluation.score, force=True)
        return self.release_figures(evaluation)

    def contribute(
        self,
        site: Site,
        assignment: Assignment,
        network: nn.Module,
        base: StateDict,
        checkpoint: Path,
    ) -> Learned:
        """Fine-tune on the labels; describe images by the base's features, as everybody does."""
        order, job = assignment.order, site.job(assignment.order)
        layers = self._find_layer_statistics(assignment.statistics)
        if layers:
            check_layer_release(site, assignment)
        prepared = site.prepared(order)
        found = describe_training_images(site, assignment, network)
        loss = fit_contribution(site, assignment, network, checkpoint)
        score = training.evaluate(network, prepared.validation, job.data, job.training).score
        tuned = {name: network.state_dict()[name].detach().cpu() for name in base}
        for measure in layers:
            found |= measure(network, prepared, job.training, site.seed(order))
        return Learned({"loss": loss, "score": score}, subtract(tuned, base), found)

    def fit(self, site: Site, order: Order, network: nn.Module) -> training.FitResult:
        """Train the network in place for one round."""
        job, prepared, seed = site.job(order), site.prepared(order), site.seed(order)
        stepper = Stepper(network, job.training, proximal_mu=order.proximal_mu)
        moments = Moments(site.folder(order), order.round) if job.training.momentum_kept else None
        if moments is not None:
            moments.take_up(stepper)
        tell, place = tell_training(site, order), Round(max(1, order.round), order.rounds)
        how: dict[str, Any] = {"stepper": stepper, "place": place, "on_step": tell}
        plan = private_plan(site, order)
        if plan is None:
            loader = training_loader(prepared, job.training, seed)
            result = training.fit(network, loader, job.training, job.data, **how)
        else:
            result = fit_privately(network, prepared, job.training, plan, seed, **how)
        if moments is not None:
            moments.keep(stepper)
        return result

    def score(self, site: Site, order: Order, network: nn.Module) -> Evaluation:
        """Score the network on the validation cases, or those of them that a round scores."""
        job = site.job(order)
        self.make_ready(site, order, network)
        cases = site.prepared(order).validation
        chosen = draw_places(len(cases), job.training.validation_cases, order.seed)
        drawn = (cases[place] for place in chosen)
        return training.evaluate(network, drawn, job.data, job.training)

    def score_finally(self, site: Site, order: Order, network: nn.Module) -> Evaluation:
        """Score the network on the test cases; keep it, and pictures of the first case."""
        job, folder = site.job(order), site.folder(order)
        described = self.make_ready(site, order, network)
        path = folder / "model.safetensors"
        save_site_model(network.state_dict(), path, order, order.rounds, **described)
        drawing = draw_first(folder / "pictures", job.data, order.arm)
        evaluation, _ = evaluate_natively(network, site.dataset, job.data, on_case=drawing)
        return evaluation

    def make_ready(
        self,
        site: Site,  # noqa: ARG002
        order: Order,  # noqa: ARG002
        network: nn.Module,  # noqa: ARG002
    ) -> dict[str, Any]:
        """Do what comes before scoring; return what the model's file says besides."""
        return {}

    def release_figures(self, evaluation: Evaluation) -> Evaluation:
        """Return what of the figures may leave the hospital."""
        return evaluation

    def _find_layer_statistics(self, names: Sequence[str]) -> list[LayerStatistic]:
        """Find what is neither a statistic of images nor unknown."""
        wanted = [name for name in names if name not in statistic_names()]
        for name in wanted:
            if name not in self._layer_statistics:
                known = [*statistic_names(), *self._layer_statistics]
                raise UnknownName("statistic", name[:80], known)
        return [found for name, found in self._layer_statistics.items() if name in wanted]


HOSPITAL = CommonTask()
