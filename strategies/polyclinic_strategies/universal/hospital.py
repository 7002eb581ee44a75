"""The universal model's part at a hospital: the encoder travels, the head of its task stays.

STATE/universal/head-LEDGER.safetensors   the head after a run's last stage, for the next one
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polyclinic.config.schemas import DataConfig
from polyclinic.errors import ConfigError, ModelInvalid
from polyclinic.federation.assignment import Assignment
from polyclinic.federation.hospital import CommonTask, Learned
from polyclinic.federation.records import Order
from polyclinic.federation.site import Site, fit_contribution, tell_training
from polyclinic.imaging.datasets import SiteDataset
from polyclinic.imaging.subjects import number_subjects
from polyclinic.learning import training
from polyclinic.learning.crops import as_batch
from polyclinic.learning.metrics import Evaluation
from polyclinic.learning.preparation import PreparedSite, prepare_image
from polyclinic.learning.site_tasks import declare_task
from polyclinic.learning.state_dict import StateDict, load_state, save_state
from polyclinic.system.text import parse_json
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
from polyclinic_strategies.universal.settings import check_parts, universal_settings
from polyclinic_strategies.universal.teaching.teachers import feature_statistics


def head_path(state: Path, ledger: str) -> Path:
    """Return where the head of a ledger's encoders is kept, in a state folder."""
    return state / "universal" / f"head-{ledger[:16]}.safetensors"


class UniversalHospital(CommonTask):
    """Hospital with a task of its own, which shares an encoder."""

    def prepare(self, site: Site, order: Order) -> str:
        """Prepare the cases; return the declaration of the hospital's task.

        Raises:
            ConfigError: Model and training are not made for hospitals with tasks of their own.
        """
        job = site.job(order)
        check_parts(job.model, job.training)
        site.build_network(order)
        site.prepared(order)
        return str(declare_task(site.dataset))

    def make_ready(self, site: Site, order: Order, network: nn.Module) -> dict[str, Any]:
        """Fit a head to the encoder; return what a file must say to build it again."""
        seed = site.seed(replace(order, round=0))
        return fit_head(_universal(network), site.prepared(order), seed)

    def release_figures(self, evaluation: Evaluation) -> Evaluation:
        """Drop the names of classes, which are the hospital's own."""
        return drop_class_names(evaluation)

    def contribute(
        self,
        site: Site,
        assignment: Assignment,
        network: nn.Module,
        base: StateDict,
        checkpoint: Path,
    ) -> Learned:
        """Learn for one stage: encoder and own head on own labels, or the encoder on images alone.

        Raises:
            TooFewSubjects: The hospital, or the coordinator, demands more images for statistics.
            ConfigError: Noise on statistics is demanded, which these have not.
        """
        stage = _Stage(site, assignment, _universal(network), base, checkpoint)
        return stage.imagine() if stage.settings.learn == "mim" else stage.learn_task()


def fit_head(network: UniversalNetwork, prepared: PreparedSite, seed: int) -> dict[str, Any]:
    """Give an encoder a linear head that is fitted to a hospital's cases.

    Args:
        network: Gets the head, in place of one that it may have.
        prepared: The hospital's cases.
        seed: Seed of the head's first weights.

    Returns:
        What a file must say to build the head again.
    """
    _attach(network, prepared.dataset, seed)
    probe(network, prepared)
    return _describe_head(network, prepared.dataset)


def drop_class_names(evaluation: Evaluation) -> Evaluation:
    """Return figures without those of single classes, whose names are the hospital's own."""
    return replace(evaluation, scores={}, measures={}, comparisons={})


class _Stage:
    """One stage at one hospital; the arguments are those of `UniversalHospital.contribute`."""

    def __init__(
        self,
        site: Site,
        assignment: Assignment,
        network: UniversalNetwork,
        base: StateDict,
        checkpoint: Path,
    ) -> None:
        self.site, self.assignment, self.network = site, assignment, network
        self.base, self.checkpoint = base, checkpoint
        self._head = head_path(site.state, assignment.ledger)
        self.job = site.job(assignment.order)
        self.settings = universal_settings(self.job.training)

    def learn_task(self) -> Learned:
        """Train encoder and head on the hospital's labels; keep the head for the next stage."""
        site, network = self.site, self.network
        self._take_head()
        prepare_tuning(network, self.settings.rank)
        loss = fit_contribution(site, self.assignment, network, self.checkpoint, falling=True)
        prepared = site.prepared(self.assignment.order)
        score = training.evaluate(network, prepared.validation, self.job.data).score
        described = json.dumps(self._describe_kept_head())
        save_state(_site_part(network), self._head, {"polyclinic": described})
        images = (sample.image for sample in prepared.training)
        return self._hand_in({"loss": loss, "score": score}, images)

    def imagine(self) -> Learned:
        """Train the encoder by masked image modelling on the training images; read no label."""
        prepare_tuning(self.network, self.settings.rank)
        order, each = self.assignment.order, self.job.training
        images = torch.cat([as_batch(image, self.job.data, SLICES) for image in self._images()])
        steps_of_pass = math.ceil(len(images) / each.batch_size)
        wanted = Pretraining(
            order.rounds * each.epochs * steps_of_pass,
            each.batch_size,
            each.learning_rate,
            self.settings.mask_ratio,
            self.settings.mask_size,
        )
        seed, tell = self.site.seed(order), tell_training(self.site, order)
        with self.site.compute_slot():
            losses = pretrain(
                self.network, images, wanted, seed, checkpoint=self.checkpoint, on_step=tell
            )
        last = losses[-steps_of_pass:]
        return self._hand_in({"loss": sum(last) / len(last)}, self._images())

    def _hand_in(self, metrics: Mapping[str, float], images: Iterator[Tensor]) -> Learned:
        """Return what leaves: figures, the declaration, the encoder's part, and statistics."""
        told = {**metrics, **declare_in_numbers(declare_task(self.site.dataset))}
        known = {name: float(value) for name, value in told.items() if math.isfinite(value)}
        statistics = self._describe(images) if EMBEDDING in self.assignment.statistics else {}
        vector = task_vector(self.network, self.base, self.settings.rank)
        return Learned(known, vector, statistics)

    def _describe(self, images: Iterator[Tensor]) -> StateDict:
        """Describe the training images by the tuned encoder, as far as both sides let it leave."""
        release = self.assignment.release.strictest(self.site.release_policy)
        if release.noise_multiplier > 0:
            raise ConfigError(
                "Noise on statistics is demanded, and the universal model's have none: merge the "
                "encoders, which needs none."
            )
        subjects = number_subjects(self.site.dataset.training)
        return feature_statistics(self.network, images, subjects, self.job.data, release)

    def _images(self) -> Iterator[Tensor]:
        """Yield the training images in the encoder's channels."""
        return _training_images(self.site.dataset, self.job.data, self.network)

    def _take_head(self) -> None:
        """Attach the head of the last stage of the same federation, or a new one without it."""
        site, network = self.site, self.network
        _attach(network, site.dataset, site.seed(replace(self.assignment.order, round=0)))
        try:
            kept, metadata = load_state(self._head)
            described = parse_json(metadata["polyclinic"])
        except (ModelInvalid, KeyError, ValueError):
            return
        fresh = _site_part(network)
        fits = {name: tensor.shape for name, tensor in kept.items()} == {
            name: tensor.shape for name, tensor in fresh.items()
        }
        if fits and described == self._describe_kept_head():
            network.load_state_dict({**network.state_dict(), **kept})

    def _describe_kept_head(self) -> dict[str, Any]:
        """Say what a kept head is for: it goes with the encoders of one ledger alone."""
        order = self.assignment.order
        return {
            **_describe_head(self.network, self.site.dataset),
            "model": order.names["model"],
            "layout": order.digests.get("layout", ""),
            "ledger": self.assignment.ledger,
        }


def _universal(network: nn.Module) -> UniversalNetwork:
    """Refuse another network than the universal model's."""
    if not isinstance(network, UniversalNetwork):
        raise ConfigError("The universal model's networks are model=universal and universal_vit.")
    return network


def _training_images(
    dataset: SiteDataset, data: DataConfig, network: UniversalNetwork
) -> Iterator[Tensor]:
    """Yield the training images in the encoder's channels; where these are others, their mean."""
    wanted = network.encoder.in_channels
    for case in dataset.training:
        image = prepare_image(case.image, data)[0]
        grey = image if len(image) in (1, wanted) else image.mean(0, keepdim=True)
        yield grey.expand(wanted, *image.shape[1:])


def _attach(network: UniversalNetwork, dataset: SiteDataset, seed: int) -> None:
    torch.manual_seed(seed)
    network.attach_head(declare_task(dataset))


def _site_part(network: UniversalNetwork) -> StateDict:
    """Return what never leaves."""
    return {
        name: tensor
        for name, tensor in network.state_dict().items()
        if not name.startswith(ENCODER)
    }


def _describe_head(network: UniversalNetwork, dataset: SiteDataset) -> dict[str, Any]:
    assert network.task is not None
    return {"task": asdict(network.task), "labels": list(dataset.labels)}


HOSPITAL = UniversalHospital()
