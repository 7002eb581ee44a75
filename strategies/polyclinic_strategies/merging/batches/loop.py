"""Merging whose contributions come as secure sums: a batch of hospitals is one ledger entry.

A hospital says that its contribution is ready, and keeps it. Once enough are ready, they carry out
one secure sum. Its mean goes into the ledger under a name that no hospital can have, and the
journal names its members. A batch weighs as many hospitals as it has.
"""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from flwr.app import ConfigRecord, RecordDict

from polyclinic.config.schemas import SumsConfig
from polyclinic.errors import AnswerRefused, TooFewHospitals
from polyclinic.federation.assignment import Handover
from polyclinic.federation.envelope.content import CONFIG
from polyclinic.federation.events import Note
from polyclinic.federation.grids.reliable_grid import ReliableGrid
from polyclinic.federation.records import order_to_config
from polyclinic.federation.secure_sums.collector import Collector
from polyclinic.federation.secure_sums.errors import SumRefused
from polyclinic.federation.secure_sums.exchange import add_up, concentrated, make_terms
from polyclinic.federation.secure_sums.messages import (
    OFFER,
    PREFIX,
    OfferQuestion,
    read_offer,
    to_config,
)
from polyclinic.federation.secure_sums.noise import epsilon
from polyclinic.federation.secure_sums.quantization import EXTRA, Losses
from polyclinic.federation.secure_sums.terms import FEWEST, Terms
from polyclinic.learning.state_dict import StateDict, unpack
from polyclinic.store.contribution import Contribution, write_contribution
from polyclinic.store.refusals import ContributionRefused
from polyclinic.system import clock
from polyclinic_strategies.merging.event_loop import EventLoop, Question
from polyclinic_strategies.merging.events import Summed
from polyclinic_strategies.merging.messages import Verdict

NAME = "batch:{}"  # no hospital's name has a colon
AGAIN_S = 10.0  # after a sum that failed


class BatchLoop(EventLoop):
    """The coordinator's side of merging by secure sums.

    Args:
        sums: How contributions are summed.
        grid: Asks the hospitals of a batch.
        delta: For which epsilon is told.
        more: What `EventLoop` needs.
    """

    def __init__(self, sums: SumsConfig, grid: ReliableGrid, delta: float, *more: Any) -> None:
        super().__init__(*more)
        self.requirements = replace(self.requirements, sites=None, inspect=None)
        self._sums, self._reliable, self._delta = sums, grid, delta
        self._ready: dict[str, str] = {}  # site -> digest
        self._since = self._failed = float("-inf")  # when one was ready first; when a sum failed
        self._members = self._read_members()

    def contributors(self) -> set[str]:
        """Return the hospitals in the batches that the ledger holds."""
        names = {entry.site for entry in self.publisher.received()}
        return {
            site for batch in self.ledger.batches() if batch.name in names for site in batch.members
        }

    def use(self, site: str, question: Question, answer: object) -> None:
        """Note that a contribution is ready; it stays at its hospital."""
        ready = ""
        if isinstance(answer, Handover):
            ready = answer.digest
            answer = Handover(answer.needs_base, "ready for a sum" if ready else answer.doing)
        super().use(site, question, answer)
        if ready in self._members:  # it was summed before a restart
            self.judge(site, Verdict(ready, True))
        elif ready and self._may_contribute(site):
            if not self._ready:
                self._since = clock.monotonic()
            self._ready[site] = ready

    def step(self) -> None:
        """Do what the loop does, and sum what is ready."""
        super().step()
        ready = {site: digest for site, digest in self._ready.items() if site in self.members()}
        if self._is_due(len(ready)):
            self._sum(ready)

    def _is_due(self, ready: int) -> bool:
        left = self._end.contributions - len(self.contributors())
        least = max(self._sums.least_hospitals, FEWEST if self._sums.masked else 1)
        wanted = self._sums.batch or left
        if 0 < left - wanted < least:  # the rest could not be summed
            wanted = left
        moment = clock.monotonic()
        waited_long = moment - self._since > self.mailbox.patience_s
        enough = ready >= least and (ready >= wanted or waited_long)
        return enough and moment - self._failed > AGAIN_S

    def _sum(self, ready: Mapping[str, str]) -> None:
        """Make one batch of hospitals whose contributions are ready."""
        names = sorted(self.base)
        numbers = sum(self.base[name].numel() for name in names) + EXTRA
        terms = make_terms(self._sums)
        collector = Collector(terms, numbers)
        try:
            total, members = add_up(
                self._reliable,
                collector,
                self._reliable.ask(
                    OFFER,
                    {site: self._question(digest, terms) for site, digest in ready.items()},
                    partial(read_offer, numbers=numbers, masked=terms.masked),
                    min(len(ready), max(self._sums.least_hospitals, 1)),
                ),
                order_to_config(self.assignment.order),
            )
        except (TooFewHospitals, SumRefused, AnswerRefused) as error:
            self._failed = clock.monotonic()
            self._ready.clear()  # who still waits says so when it is asked next
            self.on_event(Note(text=f"a secure sum failed, and is tried again: {error}"))
            return
        if terms.sigma > 0:
            self._tell_epsilon(concentrated(terms, len(members), numbers - EXTRA))
        mean = terms.grid.mean(total[:-EXTRA], len(members))
        lost = terms.grid.losses(total, len(members))
        self._keep(
            unpack(torch.from_numpy(mean), self.base, names),
            {site: ready[site] for site in members},
            lost,
        )

    def _tell_epsilon(self, spent: float) -> None:
        """Say what a batch tells about each of its members."""
        found = epsilon(spent, self._delta)
        text = f"differential privacy of each hospital in the batch: epsilon {found:.4g}"
        self.on_event(Note(text=f"{text} (delta {self._delta:g})"))

    def _question(self, digest: str, terms: Terms) -> RecordDict:
        assignment = self.assignment
        asked = OfferQuestion(digest, assignment.base, assignment.task)
        order = order_to_config(assignment.order)
        config = {**order, **to_config(asked), **to_config(terms, PREFIX)}
        return RecordDict({CONFIG: ConfigRecord(config)})

    def _keep(self, mean: StateDict, members: Mapping[str, str], lost: Losses) -> None:
        """Put a batch into the ledger, publish, and tell its members."""
        name = NAME.format(len(self.ledger.batches()) + 1)
        about = Contribution(
            name,
            self.assignment.base,
            self.assignment.task,
            len(members),
            {},
            time.time(),
            version("polyclinic"),
        )
        incoming = self.ledger.folder / "incoming"
        incoming.mkdir(exist_ok=True)
        verdicts = {site: Verdict(digest, True) for site, digest in members.items()}
        with tempfile.TemporaryDirectory(dir=incoming) as folder:
            path = write_contribution(Path(folder), about, mean, {})
            try:
                receipt = self.ledger.receive(path, name, self.requirements, members)
            except ContributionRefused as refusal:
                reason = f"the sum of {', '.join(members)} is refused: {refusal}"
                self.on_event(Note(text=reason))
                verdicts = {
                    site: Verdict(digest, False, reason) for site, digest in members.items()
                }
            else:
                self._members = self._read_members()
                self.on_event(
                    Summed(
                        site=name,
                        members=tuple(members),
                        digest=receipt.digest,
                        distance=lost.distance,
                    )
                )
        for site, verdict in verdicts.items():
            self._ready.pop(site, None)
            self.judge(site, verdict)
        self.on_change("arrival")

    def _read_members(self) -> set[str]:
        """Return the digests of what is in batches."""
        return {digest for batch in self.ledger.batches() for digest in batch.members.values()}

    def _may_contribute(self, site: str) -> bool:
        return not self.strategy.sites or site in self.strategy.sites
