"""What a hospital does when it is asked: everything here stays on its machine but the weights and figures it returns."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polyclinic.config.compose import digest, instantiate, job_digests, load_job
from polyclinic.config.schemas import JobConfig, ShiftsConfig
from polyclinic.errors import (
    ConfigError,
    ConfigMismatch,
    DatasetInvalid,
    ModelInvalid,
    PolyclinicError,
)
from polyclinic.federation.records import Hello, Order
from polyclinic.imaging.datasets import SiteDataset, evaluation_cases, read_dataset
from polyclinic.learning import training
from polyclinic.learning.gallery import draw_first
from polyclinic.learning.metrics import Evaluation
from polyclinic.learning.preparation import PreparedSite, prepare, prepare_image, training_loader
from polyclinic.learning.site_tasks import declare_task, site_job
from polyclinic.learning.state_dict import (
    StateDict,
    layout_digest,
    load_state,
    pack,
    save_state,
    shared_names,
    state_digest,
    unpack,
)
from polyclinic_client.site.outbox import Outbox
from polyclinic_strategies.merging.messages import Assignment, Handover, Verdict
from polyclinic_strategies.merging.restore import fine_tune, recalibrate
from polyclinic_strategies.proxy import hospital as proxy_work
from polyclinic_strategies.proxy.cases import CanonicalCase
from polyclinic_strategies.proxy.parts import write_parts
from polyclinic_strategies.proxy.system import ProxySystem
from polyclinic_strategies.universal import hospital as universal_work
from polyclinic_strategies.universal.networks.network import UniversalNetwork

STATUS_EVERY_S = 0.25


@dataclass(frozen=True)
class Trained:
    """What a round of training returns."""

    weights: Tensor
    result: training.FitResult


class Site:
    """One hospital's data, and what it keeps between two messages.

    Args:
        name: As the coordinator knows it.
        data: The folder with dataset.json.
        state: Where the hospital keeps its own models and pictures.
        status: File in `state` that says what is being done.
        mode: train; or describe, for a hospital that only says what its images are like and needs no labels.
    """

    def __init__(
        self, name: str, data: Path, state: Path, status: str = "status.json", mode: str = "train"
    ) -> None:
        self.name = name
        self.mode = mode
        self._status = state / status
        self.dataset: SiteDataset = read_dataset(data, labelled=mode == "train")
        self.state = state
        self.outbox = Outbox(state, data)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._status_time = 0.0
        self._jobs: dict[str, JobConfig] = {}
        self._prepared: tuple[str, PreparedSite] | None = None
        self._canonical: list[CanonicalCase] | None = None

    def greet(self, order: Order) -> Hello:
        """Who this is, and why it cannot take part if it cannot."""
        refusal, task = "", ""
        try:
            job = self.job(order)
            if self.mode == "describe":
                prepare_image(self.dataset.cases[0].image, job.data)
            elif job.data.task != self.dataset.task or job.data.labels != self.dataset.labels:
                refusal = (
                    f"The federation does {job.data.task} with the labels {', '.join(job.data.labels)}; this hospital's dataset.json "
                    f"is for {self.dataset.task} with {', '.join(self.dataset.labels)}. Name and number the labels alike on both sides."
                )
            else:
                network = self.build_network(order, job)
                if isinstance(network, ProxySystem):
                    self._visits(network, order, job)
                else:
                    self.prepared(order, job)
                    task = (
                        str(declare_task(self.dataset))
                        if isinstance(network, UniversalNetwork)
                        else ""
                    )
        except PolyclinicError as error:
            refusal = (
                str(error)
                if error.shareable
                else f"{type(error).__name__} (the hospital's log has the details)"
            )
        counts = {
            "training": len(self.dataset.training),
            "validation": len(self.dataset.validation),
            "test": len(self.dataset.test),
        }
        self.say(order, "refused" if refusal else "waiting", force=bool(refusal), reason=refusal)
        modality = self.dataset.modality[0] if self.dataset.modality else ""
        return Hello(self.name, version("polyclinic"), counts, modality, refusal, self.mode, task)

    def train(self, order: Order, weights: Tensor) -> Trained:
        """One round on this hospital's training cases, from the federation's weights and what is kept here."""
        job = self.job(order)
        network = self.build_network(order, job)
        names = shared_names(network, order.personal)
        self._load(network, names, order, weights, order.round - 1)

        def tell(step: int, steps: int, loss: float) -> None:
            self.say(order, "training", step=step, steps=steps, loss=loss)

        if isinstance(network, ProxySystem):
            result = proxy_work.fit(
                network, self._visits(network, order, job), job, self.seed(order), tell
            )
        else:
            loader = training_loader(self.prepared(order, job), job.training, self.seed(order))
            result = training.fit(
                network, loader, job.training, job.data, proximal_mu=order.proximal_mu, on_step=tell
            )
        state = network.state_dict()
        self._keep(state, names, order)
        self.say(order, "waiting", loss=result.loss, force=True)
        return Trained(pack(state, names), result)

    def validate(self, order: Order, weights: Tensor) -> Evaluation:
        """Score the federation's weights, with what is kept here, on the validation cases."""
        job = self.job(order)
        network = self.build_network(order, job)
        self._load(network, shared_names(network, order.personal), order, weights, order.round)
        self.say(order, "validating", force=True)
        if isinstance(network, ProxySystem):
            evaluation = proxy_work.score(
                network, evaluation_cases(self.dataset, "validation"), job
            )
        else:
            self._make_ready(network, order, job)
            evaluation = training.evaluate(
                network, self.prepared(order, job).validation, job.data, job.training
            )
        self.say(order, "waiting", score=evaluation.score, force=True)
        return universal_work.conceal(network, evaluation)

    def test(self, order: Order, weights: Tensor) -> Evaluation:
        """Final figures on the test cases' own grids; keeps the model, and pictures of the first case, at this hospital."""
        job = self.job(order)
        network = self.build_network(order, job)
        self._load(network, shared_names(network, order.personal), order, weights, order.rounds)
        self.say(order, "testing", force=True)
        folder = self._folder(order)
        if isinstance(network, ProxySystem):
            write_parts(network, job.data.labels, order.settings, folder)
            evaluation = proxy_work.score(network, evaluation_cases(self.dataset), job)
        else:
            own = self._make_ready(network, order, job)
            save_model(
                network.state_dict(), folder / "model.safetensors", order, order.rounds, **own
            )
            drawing = draw_first(folder / "pictures", job.data, order.arm)
            evaluation, _ = training.test(network, self.dataset, job.data, on_case=drawing)
        self.say(order, "waiting", score=evaluation.score, force=True)
        return universal_work.conceal(network, evaluation)

    def hand_over(self, assignment: Assignment, verdicts: Sequence[Verdict]) -> Handover:
        """Take in what became of earlier contributions and what is wanted now; hand over what is ready."""
        self.outbox.assign(assignment.to_json())
        for verdict in verdicts:
            self.outbox.settle(verdict.digest, verdict.accepted, verdict.reason)
        needs_base = not self.outbox.base_path(assignment.base).exists()
        ready = self.outbox.ready()
        failure = self.outbox.failure()
        if failure and failure["key"] == self.outbox.key(assignment.to_json()):
            return Handover(needs_base, f"failed: {failure['reason']}")
        if ready is None:
            return Handover(needs_base, "" if needs_base else self.outbox.progress())
        return Handover(needs_base, "handing over", ready.digest, ready.path.read_bytes())

    def keep_base(self, order: Order, digest: str, weights: Tensor) -> None:
        """Keep the model that contributions start from.

        Raises:
            ModelInvalid: It is not what its digest says.
        """
        network = self.build_network(order, self.job(order))
        state = unpack(weights, network.state_dict(), shared_names(network, "none"))
        if state_digest(state) != digest:
            raise ModelInvalid(
                f"The base {digest[:12]} arrived with other weights: the coordinator sends it again when it is asked to."
            )
        save_state(state, self.outbox.base_path(digest), {})

    def say(self, order: Order, doing: str, force: bool = False, **details: Any) -> None:
        """Write what is being done to status.json, a few times a second at most."""
        moment = time.time()
        if not force and moment - self._status_time < STATUS_EVERY_S:
            return
        self._status_time = moment
        status = {
            "time": moment,
            "site": self.name,
            "doing": doing,
            "run": order.run,
            "arm": order.arm,
            "round": order.round,
            **details,
        }
        self.state.mkdir(parents=True, exist_ok=True)
        partial = self._status.with_suffix(".partial")
        partial.write_text(json.dumps({**status, "rounds": order.rounds}))
        partial.replace(self._status)

    def job(self, order: Order) -> JobConfig:
        """What is asked, built from this machine's conf/ (once, composing takes long) and compared with the coordinator's."""
        key = digest([dict(order.names), dict(order.settings)])
        if key not in self._jobs:
            self._jobs[key] = load_job(order.names, order.settings)
        job = self._jobs[key]
        for group, ours in job_digests(job).items():
            if order.digests.get(group) != ours:
                raise ConfigMismatch(
                    group, order.names[group], version("polyclinic"), order.version
                )
        return site_job(job, self.dataset)

    def build_network(self, order: Order, job: JobConfig) -> nn.Module:
        """The network with the initial weights that the coordinator has too."""
        torch.manual_seed(order.seed)
        network: nn.Module = instantiate(job.model)
        if layout_digest(network.state_dict(), shared_names(network, "none")) != order.digests.get(
            "layout"
        ):
            raise ConfigMismatch(
                "model",
                order.names["model"],
                f"{version('polyclinic')}, monai {version('monai')}",
                order.version,
            )
        return network.to(self.device)

    def prepared(self, order: Order, job: JobConfig) -> PreparedSite:
        """The cases on the network's grid: once in this process for one way of preparing them."""
        key = digest([order.names["data"], dict(order.settings)])
        if self._prepared is None or self._prepared[0] != key:

            def tell(done: int, total: int) -> None:
                self.say(order, "preparing", step=done, steps=total)

            self._prepared = (key, prepare(self.dataset, job.data, tell))
        return self._prepared[1]

    def _visits(self, network: ProxySystem, order: Order, job: JobConfig) -> list[CanonicalCase]:
        """The same for the deformation proxy."""
        if self._canonical is None:
            self._canonical = proxy_work.prepare_visits(
                network,
                self.dataset,
                job,
                self.state,
                lambda done, total: self.say(order, "preparing", step=done, steps=total),
            )
        return self._canonical

    def _load(
        self, network: nn.Module, names: list[str], order: Order, weights: Tensor, upto: int
    ) -> None:
        """Shared weights as they arrived; the rest as this hospital kept it after round `upto`, if it did."""
        state = network.state_dict()
        kept = [number for number in self._kept_rounds(order) if number <= upto]
        personal = load_state(self._kept_file(order, max(kept)))[0] if kept else {}
        network.load_state_dict({**state, **personal, **unpack(weights, state, names)})

    def _make_ready(self, network: nn.Module, order: Order, job: JobConfig) -> dict[str, Any]:
        """What comes before figures: a head of its own, or restoration; returns what the model's file says besides."""
        if isinstance(network, UniversalNetwork):
            return universal_work.fit_head(
                network, self.prepared(order, job), self.seed(replace(order, round=0))
            )
        self._restore(network, order, job)
        return {}

    def _restore(self, network: nn.Module, order: Order, job: JobConfig) -> None:
        """The restoration step after a merge, with this hospital's training images; the same images for every model."""
        if order.restoration == "none":
            return
        plain = replace(job.training, shifts=ShiftsConfig())  # the images as they are
        loader = training_loader(
            self.prepared(order, job), plain, self.seed(replace(order, round=0))
        )
        if order.restoration == "statistics":
            recalibrate(network, (batch["image"] for batch in loader))
        elif order.restoration == "steps":
            fine_tune(network, loader, plain, job.data, order.restoration_steps)
        else:
            raise ConfigError(
                f"strategy.restoration={order.restoration}: one of none, statistics, steps."
            )

    def _keep(self, state: dict[str, Tensor], names: list[str], order: Order) -> None:
        """Keep what is not shared, for two rounds: a round that is asked for again starts from the same state."""
        personal = {name: tensor for name, tensor in state.items() if name not in set(names)}
        if order.personal == "none" or not personal:
            return
        save_state(personal, self._kept_file(order, order.round), {})
        for number in self._kept_rounds(order):
            if number < order.round - 1:
                self._kept_file(order, number).unlink()

    def _folder(self, order: Order) -> Path:
        return self.state / "runs" / order.run / order.arm

    def _kept_file(self, order: Order, number: int) -> Path:
        return self._folder(order) / f"personal-{number}.safetensors"

    def _kept_rounds(self, order: Order) -> list[int]:
        return [
            int(path.stem.removeprefix("personal-"))
            for path in self._folder(order).glob("personal-*.safetensors")
        ]

    def seed(self, order: Order) -> int:
        """Another seed for every hospital and round, the same for every strategy."""
        return int.from_bytes(
            hashlib.sha256(f"{order.seed}/{self.name}/{order.round}".encode()).digest()[:4], "big"
        )


def save_model(state: StateDict, path: Path, order: Order, number: int, **own: Any) -> None:
    """Keep weights with what is needed to build their network again, for `polyclinic-client predict`; `own` is a hospital's own part."""
    described = {
        "names": dict(order.names),
        "settings": dict(order.settings),
        "run": order.run,
        "arm": order.arm,
        "round": number,
    }
    save_state(state, path, {"polyclinic": json.dumps({**described, **own})})


def open_site(node_config: dict[str, Any]) -> Site:
    """The hospital that this SuperNode serves, opened once in a process.

    Raises:
        DatasetInvalid: The node was started without `polyclinic-client join`.
    """
    try:
        key = (
            str(node_config["site"]),
            str(node_config["data"]),
            str(node_config["state"]),
            str(node_config.get("mode", "train")),
        )
    except KeyError as error:
        raise DatasetInvalid(
            Path("SuperNode"),
            f"{error} is not configured",
            "Start it with `polyclinic-client join`.",
        ) from error
    if key not in _SITES:
        _SITES[key] = Site(key[0], Path(key[1]), Path(key[2]), mode=key[3])
    return _SITES[key]


_SITES: dict[tuple[str, str, str, str], Site] = {}
