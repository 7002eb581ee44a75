"""A hospital: its data, what it keeps, and what it does when it is asked.

What a method does is the method's (`polyclinic.federation.hospital`); here it is only found and
called. Everything stays on this machine but the weights and figures that are returned.
"""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polyclinic.config.compose import instantiate
from polyclinic.config.release import Release
from polyclinic.config.schemas import JobConfig
from polyclinic.errors import (
    ConfigMismatch,
    PolyclinicError,
    WeightsInvalid,
)
from polyclinic.federation.assignment import FAILED, Assignment, Handover, Verdict
from polyclinic.federation.hospital import Trained
from polyclinic.federation.records import Hello, Order
from polyclinic.imaging.datasets import SiteDataset, read_dataset
from polyclinic.learning.metrics import Evaluation, hold_back_figures
from polyclinic.learning.networks.bounded import bounded_network
from polyclinic.learning.preparation import PreparedSite, prepare_image
from polyclinic.learning.site_tasks import site_job
from polyclinic.learning.state_dict import (
    StateDict,
    layout_digest,
    packed_digest,
    save_state,
    shared_names,
    state_digest,
    unpack,
)
from polyclinic.system.faults import shareable
from polyclinic_client.patients.rounds import answer_round, check_run
from polyclinic_client.policy.limits import (
    check_limits,
    fit_cache,
    most_numbers,
    open_disk,
    refuse_network,
)
from polyclinic_client.policy.policy import Policy, read_policy
from polyclinic_client.site.building import built_job
from polyclinic_client.site.compute_slots import compute_slot
from polyclinic_client.site.dispatch import describing_hospital_of, hospital_of
from polyclinic_client.site.guard import Guard
from polyclinic_client.site.modality import name_modality
from polyclinic_client.site.outbox import REFINED, Outbox
from polyclinic_client.site.prepared import PreparedSets
from polyclinic_client.site.release_book import ReleaseBook
from polyclinic_client.site.status import WORKER, StatusFile

CACHE = "cache"  # folder of prepared cases, in the state folder
log = logging.getLogger("polyclinic.site")


class Site:
    """One hospital's data, and what it keeps between two messages.

    Args:
        name: As the coordinator knows it.
        data: Folder with dataset.json.
        state: Folder of the hospital's own models and pictures.
        status: File in `state` that says what is being done.
        mode: train; or describe, for a hospital that only says what its images are like and needs
            no labels.
    """

    def __init__(
        self, name: str, data: Path, state: Path, status: str = WORKER, mode: str = "train"
    ) -> None:
        self.name = name
        self.mode = mode
        self.dataset: SiteDataset = read_dataset(data, labelled=mode == "train")
        self.state = state
        self.outbox = Outbox(state, data)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.kept: dict[str, Any] = {}
        self.received_model = state / REFINED
        self._status = StatusFile(state / status)
        self._prepared = PreparedSets(self.dataset)
        self._guard = Guard(state, self.build_network)

    def greet(self, order: Order) -> Hello:
        """Say who this is, and why it cannot take part if it cannot."""
        refusal, task, said = "", "", ""
        try:
            job = self.job(order)
            if self.mode == "describe":
                prepare_image(self.dataset.cases[0].image, job.data)
            else:
                task = hospital_of(order).prepare(self, order)
                check_run(self, order)
        except PolyclinicError as error:
            details = "" if error.shareable else " (the hospital's log has the details)"
            refusal, said = shareable(error) + details, str(error)
            log.error("cannot take part: %s", error, exc_info=error.__cause__)
        counts = {
            "training": len(self.dataset.training),
            "validation": len(self.dataset.validation),
            "test": len(self.dataset.test),
        }
        self.say(order, "refused" if refusal else "waiting", force=bool(refusal), reason=said)
        modality = name_modality(self.dataset.modality)
        return Hello(self.name, version("polyclinic"), counts, modality, refusal, self.mode, task)

    def train(self, order: Order, weights: Tensor) -> Trained:
        """Train for a round, from the federation's weights and what is kept here.

        Raises:
            NotAllowed: The weights are made to hold images; or it would tell too much.
        """
        self._guard.check_packed(order, weights)
        return answer_round(self, order, weights, hospital_of(order))

    def validate(self, order: Order, weights: Tensor) -> Evaluation:
        """Score the federation's weights, with what is kept here, on the validation cases."""
        return hospital_of(order).evaluate(self, order, weights)

    def test(self, order: Order, weights: Tensor) -> Evaluation:
        """Score the final weights on the test cases; hold back figures of too few subjects."""
        found = hospital_of(order).test(self, order, weights)
        return hold_back_figures(found, self.release_policy.min_subjects)

    def describe(
        self, order: Order, names: Sequence[str], release: Release, weights: Tensor | None
    ) -> tuple[StateDict, int]:
        """Return means over all subjects, and the number of subjects.

        Raises:
            LimitExceeded: Too many other questions were answered before.
        """
        hospital = describing_hospital_of(order)
        if weights is not None:
            self._guard.check_packed(order, weights)
        asked = [sorted(names), asdict(release.strictest(self.release_policy))]
        network = [dict(order.names), dict(order.settings), order.method, order.seed]
        came = "" if weights is None else packed_digest(weights)
        return self.release_book.answer(
            [*asked, *network, came, self.outbox.listed().hex()],
            lambda: hospital.describe(self, order, names, release, weights),
        )

    def receive(self, order: Order, weights: Tensor, number: int) -> Path:
        """Keep a model that the coordinator made for this hospital."""
        return describing_hospital_of(order).receive(self, order, weights, number)

    def hand_over(self, assignment: Assignment, verdicts: Sequence[Verdict]) -> Handover:
        """Note what is wanted and what became of earlier work; hand over what is ready."""
        wanted = self.outbox.assign(assignment.to_json())
        for verdict in verdicts:
            self.outbox.settle(verdict.digest, verdict.accepted, verdict.reason, wanted)
        needs_base = not self.outbox.base_path(assignment.base).exists()
        ready = self.outbox.ready(wanted)
        if failure := self.outbox.failure(self.outbox.key(wanted.values)):
            return Handover(needs_base, f"{FAILED}{failure.reason}")
        if ready is None:
            return Handover(needs_base, "" if needs_base else self.outbox.progress(wanted))
        content = ready.content(summed=assignment.summed)
        return Handover(needs_base, "handing over", ready.digest, content)

    def keep_base(self, order: Order, base: str, weights: Tensor) -> None:
        """Keep the model that contributions start from.

        Args:
            order: Says how the network is built.
            base: Digest of the model.
            weights: The model, packed.

        Raises:
            WeightsInvalid: It is not what its digest says.
            NotAllowed: It is made to hold images.
        """
        network = self.build_network(order)
        state = unpack(weights, network.state_dict(), shared_names(network, "none"))
        if state_digest(state) != base:
            raise WeightsInvalid(
                f"The base {base[:12]} arrived with other weights: the coordinator sends it again "
                "when it is asked to."
            )
        self._guard.check(state)
        save_state(state, self.outbox.base_path(base), {})

    def say(self, order: Order, doing: str, *, force: bool = False, **details: Any) -> None:
        """Write what is being done into the status file."""
        about = {
            "site": self.name,
            "run": order.run,
            "arm": order.arm,
            "round": order.round,
            "rounds": order.rounds,
        }
        self._status.write(doing, {**about, **details}, force=force)

    @property
    def release_policy(self) -> Release:
        """What the hospital demands before a mean over its subjects leaves.

        Raises:
            PolicyDamaged: The policy cannot be read.
        """
        return self.policy.release

    @property
    def release_book(self) -> ReleaseBook:
        """What the hospital has told about its images."""
        return ReleaseBook(self.state, self.policy.releases)

    @property
    def policy(self) -> Policy:
        """What the hospital lets a coordinator ask for.

        Raises:
            PolicyDamaged: The policy cannot be read.
        """
        return read_policy(self.state)

    def job(self, order: Order) -> JobConfig:
        """Build the job from this machine's conf/, once, and compare it with the coordinator's.

        Raises:
            MethodMissing, PluginMismatch: Something that it needs is not installed here.
            LimitExceeded: It is more than this hospital allows.
            ConfigMismatch: The two sides would build different things.
        """
        job, digests = built_job(order)
        check_limits(self.policy, order, job, len(self.dataset.training))
        for group, ours in digests.items():
            if order.digests.get(group) != ours:
                raise ConfigMismatch(
                    group, order.names[group], version("polyclinic"), order.version
                )
        return site_job(job, self.dataset)

    def build_network(self, order: Order) -> nn.Module:
        """Build the network with the initial weights that the coordinator has too.

        Raises:
            ConfigMismatch: Its tensors have other names or shapes than there.
            LimitExceeded: It is larger than this hospital allows.
        """
        job = self.job(order)
        torch.manual_seed(order.seed)
        with bounded_network(most_numbers(self.policy), refuse_network):
            network: nn.Module = instantiate(job.model)
        layout = layout_digest(network.state_dict(), shared_names(network, "none"))
        if layout != order.digests.get("layout"):
            ours = f"{version('polyclinic')}, monai {version('monai')}"
            raise ConfigMismatch("model", order.names["model"], ours, order.version)
        return network.to(self.device)

    def prepared(self, order: Order) -> PreparedSite:
        """Bring the cases onto the network's grid: once in this process for one way of doing it."""

        def tell(done: int, total: int) -> None:
            self.say(order, "preparing", step=done, steps=total)

        data = fit_cache(self.policy, self.job(order).data)
        return self._prepared.of(data, tell, lambda: open_disk(self.policy, self.state / CACHE))

    @property
    def cached_bytes(self) -> int:
        """Memory that prepared cases take."""
        return self._prepared.bytes

    def drop_cache(self) -> None:
        """Give that memory back; the cases are prepared again when they are needed."""
        self._prepared.drop()

    def folder(self, order: Order) -> Path:
        """Return the folder of what the hospital keeps of a run's strategy."""
        return self.state / "runs" / order.run / order.arm

    def seed(self, order: Order) -> int:
        """Return a seed: another one for every hospital and round, the same for every strategy."""
        drawn = sha256(f"{order.seed}/{self.name}/{order.round}".encode()).digest()
        return int.from_bytes(drawn[:4], "big")

    def compute_slot(self) -> AbstractContextManager[None]:
        """Wait for a turn to compute, where several hospitals share a machine."""
        return compute_slot()
