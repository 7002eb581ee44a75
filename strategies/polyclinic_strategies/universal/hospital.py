"""A hospital's part in the universal model: the encoder travels, the head of its own task stays."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from polyclinic.config.release import Release
from polyclinic.config.schemas import DataConfig
from polyclinic.errors import ConfigError, ModelInvalid
from polyclinic.imaging.datasets import SiteDataset
from polyclinic.learning import training
from polyclinic.learning.metrics import Evaluation
from polyclinic.learning.preparation import PreparedSite, as_batch, prepare_image
from polyclinic.learning.site_tasks import declare_task
from polyclinic.learning.state_dict import StateDict, load_state, save_state
from polyclinic_client.site.compute_slots import compute_slot
from polyclinic_client.site.release_policy import own_release
from polyclinic_strategies.merging.messages import Assignment
from polyclinic_strategies.universal.exchange import (
    EMBEDDING,
    declare_in_numbers,
    prepare_tuning,
    task_vector,
)
from polyclinic_strategies.universal.images.unlabelled import SLICES
from polyclinic_strategies.universal.networks.network import ENCODER, UniversalNetwork
from polyclinic_strategies.universal.networks.probing import probe
from polyclinic_strategies.universal.pretraining import Pretraining, pretrain
from polyclinic_strategies.universal.settings import universal_settings
from polyclinic_strategies.universal.teaching.teachers import feature_statistics

if TYPE_CHECKING:
    from polyclinic_client.site.site import Site

HEAD = Path("universal") / "head.safetensors"  # in the state folder: the head after the last stage


@dataclass(frozen=True, eq=False)
class Learned:
    """What fine-tuning comes to, ready to be handed over."""

    metrics: Mapping[str, float]
    task_vector: StateDict
    statistics: StateDict


def learn(
    site: "Site",
    network: UniversalNetwork,
    assignment: Assignment,
    base: StateDict,
    checkpoint: Path,
    fit: Callable[[], float],
) -> Learned:
    """One stage: encoder and own head on own labels, or the encoder alone on images.

    Args:
        site: The hospital.
        network: With the stage's encoder and without a head.
        assignment: What is asked for.
        base: The stage's encoder.
        checkpoint: What a crash leaves to go on from.
        fit: Trains on the labels, and returns the loss.

    Raises:
        TooFewSubjects: The hospital demands more images, or the coordinator does, before it says anything of them.
        ConfigError: The hospital demands noise on statistics, which these have not.
    """
    job = site.job(assignment.order)
    settings = universal_settings(job.training)
    if settings.learn == "mim":
        prepare_tuning(network, settings.rank)
        metrics = {"loss": _imagine(site, network, assignment, checkpoint)}
        images: Iterator[Tensor] = _images(site.dataset, job.data, network)
    else:
        _take_head(site, network, assignment)
        prepare_tuning(network, settings.rank)
        prepared = site.prepared(assignment.order, job)
        loss = fit()
        metrics = {
            "loss": loss,
            "score": training.evaluate(network, prepared.validation, job.data).score,
        }
        _keep_head(site, network, assignment)
        images = (sample.image for sample in prepared.training)
    metrics |= declare_in_numbers(declare_task(site.dataset))
    known = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
    statistics = (
        _describe(site, network, assignment, images) if EMBEDDING in assignment.statistics else {}
    )
    return Learned(known, task_vector(network, base, settings.rank), statistics)


def fit_head(network: UniversalNetwork, prepared: PreparedSite, seed: int) -> dict[str, Any]:
    """Give an encoder a linear head that is fitted to the hospital's cases; returns what a file must say to build it again."""
    _attach(network, prepared.dataset, seed)
    probe(network, prepared)
    return _describe_head(network, prepared.dataset)


def conceal(network: nn.Module, evaluation: Evaluation) -> Evaluation:
    """Figures without the names of classes, where those are the hospital's own."""
    return replace(evaluation, scores={}) if isinstance(network, UniversalNetwork) else evaluation


def _describe(
    site: "Site", network: UniversalNetwork, assignment: Assignment, images: Iterator[Tensor]
) -> StateDict:
    """What the training images are to the tuned encoder, as far as coordinator and hospital let it leave."""
    release = Release(assignment.min_subjects, assignment.noise_multiplier).strictest(
        own_release(site.state)
    )
    if release.noise_multiplier > 0:
        raise ConfigError(
            "Noise on statistics is demanded, and the universal model's have none: merge the encoders, which needs none."
        )
    return feature_statistics(
        network, images, site.job(assignment.order).data, release.min_subjects
    )


def _imagine(
    site: "Site", network: UniversalNetwork, assignment: Assignment, checkpoint: Path
) -> float:
    """Masked image modelling on the training images; reads no label. The mean loss of the last pass."""
    order, job = assignment.order, site.job(assignment.order)
    settings, each = universal_settings(job.training), job.training
    images = torch.cat(
        [as_batch(image, job.data, SLICES) for image in _images(site.dataset, job.data, network)]
    )
    steps_of_pass = math.ceil(len(images) / each.batch_size)
    wanted = Pretraining(
        order.rounds * each.epochs * steps_of_pass,
        each.batch_size,
        each.learning_rate,
        settings.mask_ratio,
        settings.mask_size,
    )

    def tell(step: int, steps: int, loss: float) -> None:
        site.say(order, "training", step=step, steps=steps, loss=loss)

    with compute_slot():
        losses = pretrain(
            network, images, wanted, site.seed(order), checkpoint=checkpoint, on_step=tell
        )
    last = losses[-steps_of_pass:]
    return sum(last) / len(last)


def _images(dataset: SiteDataset, data: DataConfig, network: UniversalNetwork) -> Iterator[Tensor]:
    """The training images in the encoder's channels; where these are others, of their mean."""
    wanted = network.encoder.in_channels
    for case in dataset.training:
        image = prepare_image(case.image, data)[0]
        grey = image if len(image) in (1, wanted) else image.mean(0, keepdim=True)
        yield grey.expand(wanted, *image.shape[1:])


def _attach(network: UniversalNetwork, dataset: SiteDataset, seed: int) -> None:
    torch.manual_seed(seed)
    network.attach_head(declare_task(dataset))


def _take_head(site: "Site", network: UniversalNetwork, assignment: Assignment) -> None:
    """The head as it was after the last stage of the same federation; a new one if there is none for this task."""
    _attach(network, site.dataset, site.seed(replace(assignment.order, round=0)))
    try:
        kept, metadata = load_state(site.state / HEAD)
        described = json.loads(metadata["polyclinic"])
    except (ModelInvalid, KeyError, json.JSONDecodeError):
        return
    fresh = _own_part(network)
    fits = {name: tensor.shape for name, tensor in kept.items()} == {
        name: tensor.shape for name, tensor in fresh.items()
    }
    if fits and described == _describe_kept(site, network, assignment):
        network.load_state_dict({**network.state_dict(), **kept})


def _keep_head(site: "Site", network: UniversalNetwork, assignment: Assignment) -> None:
    save_state(
        _own_part(network),
        site.state / HEAD,
        {"polyclinic": json.dumps(_describe_kept(site, network, assignment))},
    )


def _own_part(network: UniversalNetwork) -> StateDict:
    """What never leaves."""
    return {
        name: tensor
        for name, tensor in network.state_dict().items()
        if not name.startswith(ENCODER)
    }


def _describe_kept(
    site: "Site", network: UniversalNetwork, assignment: Assignment
) -> dict[str, Any]:
    """What a kept head is for: it goes with the ledger's encoders alone."""
    names = {
        "model": assignment.order.names["model"],
        "layout": assignment.order.digests.get("layout", ""),
    }
    return {**_describe_head(network, site.dataset), **names, "ledger": assignment.ledger}


def _describe_head(network: UniversalNetwork, dataset: SiteDataset) -> dict[str, Any]:
    assert network.task is not None
    return {"task": asdict(network.task), "labels": list(dataset.labels)}
