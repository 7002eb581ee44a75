"""A hospital as a method sees it, and what methods do with it alike."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from polyclinic.config.release import Release
from polyclinic.config.schemas import JobConfig
from polyclinic.config.tasks import KINDS
from polyclinic.describing.statistics import (
    DESCRIPTION,
    describe,
    statistic_names,
    with_variances,
)
from polyclinic.errors import ConfigError
from polyclinic.federation.assignment import Assignment
from polyclinic.federation.records import Order
from polyclinic.imaging.datasets import SiteDataset
from polyclinic.imaging.subjects import count_subjects, number_subjects
from polyclinic.learning.fine_tuning import Course, fit_passes
from polyclinic.learning.low_rank import faster, learning_factors
from polyclinic.learning.preparation import PreparedSite
from polyclinic.learning.private.plan import (
    PrivatePlan,
    Wanted,
    check_network,
    check_splits,
    plan_round,
)
from polyclinic.learning.state_dict import (
    StateDict,
    load_state,
    save_state,
    shared_names,
    unpack,
)

PERSONAL = "personal-"


class Site(Protocol):
    """A hospital, as far as a method may use it.

    Attributes:
        name: Name of the hospital, as the coordinator knows it.
        mode: train; or describe, for a hospital that only says what its images are like.
        state: Folder of the hospital's own models and pictures.
        dataset: The hospital's cases.
        device: Where networks compute.
        kept: What a method keeps in memory between two messages, by keys of its own.
        received_model: File of the model that the coordinator made for this hospital.
    """

    name: str
    mode: str
    state: Path
    dataset: SiteDataset
    device: torch.device
    kept: dict[str, Any]
    received_model: Path

    @property
    def release_policy(self) -> Release:
        """What the hospital demands before a mean over its subjects leaves."""
        ...

    def job(self, order: Order) -> JobConfig:
        """Build the job from this machine's conf/, with the hospital's own task where it has one.

        Raises:
            ConfigError: The two sides would build different things.
        """
        ...

    def build_network(self, order: Order) -> nn.Module:
        """Build the network with the initial weights that the coordinator has too."""
        ...

    def prepared(self, order: Order) -> PreparedSite:
        """Bring the cases onto the network's grid, once for one way of preparing them."""
        ...

    def folder(self, order: Order) -> Path:
        """Return the folder of what the hospital keeps of a run's strategy."""
        ...

    def seed(self, order: Order) -> int:
        """Return a seed: another one for every hospital and round, the same for every strategy."""
        ...

    def say(self, order: Order, doing: str, *, force: bool = False, **details: Any) -> None:
        """Tell what is being done, a few times a second at most unless forced."""
        ...

    def compute_slot(self) -> AbstractContextManager[None]:
        """Wait for a turn to compute, where several hospitals share a machine."""
        ...


def load_weights(site: Site, order: Order, network: nn.Module, weights: Tensor, upto: int) -> None:
    """Load shared weights as they arrived, and the rest as it was kept after round `upto`.

    Raises:
        ModelInvalid: The weights are of another network, or not finite.
    """
    state, names = network.state_dict(), shared_names(network, order.personal)
    kept = [number for number in _kept_rounds(site, order) if number <= upto]
    personal = load_state(_kept_file(site, order, max(kept)))[0] if kept else {}
    network.load_state_dict({**state, **personal, **unpack(weights, state, names)})


def keep_personal(
    site: Site, order: Order, state: Mapping[str, Tensor], names: Sequence[str]
) -> None:
    """Keep what is not shared, for two rounds: a round that is asked for again starts the same."""
    personal = {name: tensor for name, tensor in state.items() if name not in set(names)}
    if order.personal == "none" or not personal:
        return
    save_state(personal, _kept_file(site, order, order.round), {})
    for number in _kept_rounds(site, order):
        if number < order.round - 1:
            _kept_file(site, order, number).unlink()


def fit_contribution(
    site: Site,
    assignment: Assignment,
    network: nn.Module,
    checkpoint: Path,
    *,
    falling: bool = False,
) -> float:
    """Train in place for all passes of an assignment, from the last one that was kept.

    Args:
        site: The hospital.
        assignment: What is asked for.
        network: Trained in place; by factors of low rank, if the assignment has a rank.
        checkpoint: Written after every pass.
        falling: Whether the learning rate falls from pass to pass.

    Returns:
        The loss of the last pass.
    """
    order, job = assignment.order, site.job(assignment.order)
    course = Course(
        order.rounds * (1 if job.training.steps else job.training.epochs),
        lambda number: site.seed(replace(order, round=number)),
        falling,
    )
    rank = assignment.rank
    with learning_factors(network, rank) if rank else nullcontext():
        return fit_passes(
            network,
            site.prepared(order),
            faster(job.training) if rank else job.training,
            course,
            checkpoint=checkpoint,
            on_step=tell_training(site, order),
            turn=site.compute_slot,
        )


def describe_training_images(site: Site, assignment: Assignment, network: nn.Module) -> StateDict:
    """Describe the training images by the statistics that an assignment asks for.

    Raises:
        TooFewSubjects: The coordinator, or the hospital, demands more subjects.
    """
    names = [name for name in assignment.statistics if name in statistic_names()]
    if not names:
        return {}
    images: Iterator[Tensor] = (sample.image for sample in site.prepared(assignment.order).training)
    release = assignment.release.strictest(site.release_policy)
    subjects = number_subjects(site.dataset.training)
    names = with_variances(names) if assignment.variances else names
    found = describe(names, images, subjects, network, release)
    return {f"{DESCRIPTION}{name}": mean for name, mean in found.items()}


def check_layer_release(site: Site, assignment: Assignment) -> None:
    """Refuse statistics of layers that either side does not let leave.

    Raises:
        TooFewSubjects: The coordinator, or the hospital, demands more subjects.
        ConfigError: Noise is demanded, which these statistics have not.
    """
    release = assignment.release.strictest(site.release_policy)
    if release.noise_multiplier > 0:
        raise ConfigError(
            "Noise on statistics is demanded, and those of layers have none: choose a rule that "
            "needs no statistics of layers."
        )
    release.check_subjects(count_subjects(site.dataset.training))


def private_plan(site: Site, order: Order) -> PrivatePlan | None:
    """Return how a hospital trains so that each patient is protected; None where none is.

    Raises:
        ConfigError: No noise is enough.
    """
    terms = order.patients
    if terms is None:
        return None
    delta = min(terms.delta, site.release_policy.delta)
    wanted = Wanted(terms.epsilon, delta, terms.clipping_norm, order.rounds)
    return plan_round(site.dataset, site.job(order).training, wanted)


def check_private(site: Site, order: Order, network: nn.Module) -> None:
    """Refuse what does not go with private training, if an order asks for it.

    Raises:
        ConfigError: What it is.
    """
    if private_plan(site, order) is not None:
        check_network(network, site.job(order).training, shared_names(network, order.personal))
        check_splits(site.dataset)


def tell_training(site: Site, order: Order) -> Callable[[int, int, float], None]:
    """Return what tells of each training step: number, loss, seconds a step, and seconds left."""
    first: tuple[int, float] | None = None

    def tell(step: int, steps: int, loss: float) -> None:
        nonlocal first
        if first is None:
            first = step, time.monotonic()
        made = step - first[0]  # without the first one, which waits for the data
        pace: dict[str, Any] = {}
        if made:
            step_s = (time.monotonic() - first[1]) / made
            pace = {"step_s": round(step_s, 4), "left_s": round(step_s * (steps - step), 1)}
        if math.isfinite(loss):
            pace["loss"] = loss
        site.say(order, "training", step=step, steps=steps, **pace)

    return tell


def save_site_model(
    state: StateDict, path: Path, order: Order, number: int, **described: Any
) -> None:
    """Keep weights at a hospital, with what is needed to build their network again.

    Args:
        state: The weights.
        path: A safetensors file, as `polyclinic-client predict` reads it.
        order: Says how the network is built.
        number: Number of the round.
        described: What a file says besides, such as the hospital's own task.
    """
    told = {
        "names": dict(order.names),
        "settings": dict(order.settings),
        "run": order.run,
        "arm": order.arm,
        "round": number,
    }
    save_state(state, path, {"polyclinic": json.dumps({**told, **described})})


def _kept_file(site: Site, order: Order, number: int) -> Path:
    return site.folder(order) / f"{PERSONAL}{number}.safetensors"


def _kept_rounds(site: Site, order: Order) -> list[int]:
    return [
        int(path.stem.removeprefix(PERSONAL))
        for path in site.folder(order).glob(f"{PERSONAL}*.safetensors")
    ]


def check_labels(job: JobConfig, dataset: SiteDataset) -> None:
    """Refuse a hospital whose task or classes are not the federation's.

    Raises:
        ConfigError: They differ; the text names both.
    """
    data = job.data
    if (data.task, data.labels) != (dataset.task, dataset.labels):
        raise ConfigError(
            f"The federation does {data.kind.title} with the labels {', '.join(data.labels)}; "
            f"this hospital's dataset.json is for {KINDS[dataset.task].title} with "
            f"{', '.join(dataset.labels)}. Name and number the labels alike on both sides."
        )
