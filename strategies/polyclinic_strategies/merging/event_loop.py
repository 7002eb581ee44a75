"""The coordinator's side of asynchronous merging: an event loop on push and pull, no rounds.

Whoever is online is asked, whoever hands in is merged at once, the new model is published and offered for scoring, and nobody waits for
anybody. What must last lies in the ledger and in the hospitals' outboxes, so coordinator, SuperLink and hospitals may each die at any
moment: the loop starts again from the ledger.
"""

import hashlib
import math
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

from flwr.app import Message
from flwr.serverapp import Grid
from pydantic import ValidationError
from torch import Tensor

from polyclinic.errors import ConfigError
from polyclinic.federation.events import Answered, Event, Failed, Note, Progress, answer_of
from polyclinic.federation.records import metrics_from_reply
from polyclinic.learning.state_dict import StateDict, pack
from polyclinic.store.ledger import Ledger, Publication
from polyclinic.store.refusals import ContributionRefused
from polyclinic.system import clock
from polyclinic.system.processes import pause_s
from polyclinic_strategies.merging.arithmetic.layer import Rule
from polyclinic_strategies.merging.correspondence import Correspondence, Roster
from polyclinic_strategies.merging.events import (
    Contributed,
    ContributionRejected,
    Duplicate,
    Published,
)
from polyclinic_strategies.merging.messages import (
    Assignment,
    Handover,
    Verdict,
    ask_for_contribution,
    ask_for_score,
    read_handover,
    send_base,
)
from polyclinic_strategies.merging.publisher import Publisher, describe_rule, make_rules
from polyclinic_strategies.merging.strategy import Merging

Tell = Callable[[Event], None]
CALL_S = 0.3  # for each hospital: a question costs 60 ms of a SuperLink (docs/scale.md), so a hundred are asked every 30 s at most


@dataclass(eq=False)
class Trial:
    """A model that the hospitals score."""

    rule: Rule
    weights: Tensor
    state: StateDict
    number: int = 0  # of its publication; 0 while it is a mere candidate
    figures: dict[str, Answered] = field(default_factory=dict)

    def score(self, site: str) -> float:
        """A hospital's score; NaN where it could not be had."""
        score = self.figures[site].score
        return math.nan if score is None else score


@dataclass(frozen=True)
class Question:
    """Why a hospital was asked."""

    kind: str  # collect, base, score
    trial: Trial | None = None


class EventLoop:
    """The coordinator's side, until the run is over.

    Args:
        strategy: How to merge.
        grid: Flower's grid.
        roster: Who takes part.
        ledger: What is known for good; its current base is where everybody starts.
        assignment: What every hospital is asked for.
        names: The base's tensors in the network's order, as weights travel.
        expected: Contributions after which the run is over, if the strategy names no other end; 0: never.
        tell: Told what happens.
    """

    def __init__(
        self, strategy: Merging, grid: Grid, roster: Roster, ledger: Ledger, assignment: Assignment, names: Sequence[str], expected: int,
        tell: Tell,
    ) -> None:  # fmt: skip
        self.strategy = strategy
        self.ledger = ledger
        self.assignment = assignment
        self.names = list(names)
        self.publisher = Publisher(
            ledger, strategy.max_staleness, strategy.staleness_discount, ledger.folder / "sums"
        )
        self.talk: Correspondence[Question] = Correspondence(grid, roster)
        self.tell = tell
        self._rules = make_rules(strategy.rule, strategy.candidates)
        self._chosen = self._last_choice()
        self.base = ledger.load_model(assignment.base)
        self.requirements = strategy.requirements(self.publisher, self.base, assignment.task)
        self._end = strategy.make_end(expected)
        self._verdicts: dict[str, list[Verdict]] = {}
        self._due: dict[str, float] = {}  # when a site is asked for a contribution next
        self._news: dict[str, float] = {}  # when a site last had news
        self._doing: dict[str, str] = {}  # what a site last said that it does
        self._needs_base: set[str] = set()
        self.trials: list[Trial] = []
        self._published: Publication | None = None
        self.merged: set[str] = set()  # contributions of the newest model
        self._head = 0  # last line of the journal that was looked at
        self._began = self.last_moved = self._checked = clock.monotonic()

    def run(self) -> Publication | None:
        """Ask, merge and publish until the run is over; returns what was published last, None if nobody contributed."""
        self.on_change("arrival")
        while True:
            self.step()
            if self.is_over() and self.is_scored():
                return self._published
            clock.sleep(pause_s(clock.monotonic() - self.last_moved, 0.05, 0.5))

    def step(self) -> None:
        """Look who is here, take in what came, ask who is idle."""
        self.talk.look()
        for site, question, reply in self.talk.hear():
            self.last_moved = clock.monotonic()
            self.take(site, question, reply)
        self._notice_changes()
        self._choose()
        for site in self.talk.idle():
            self.ask(site)

    def is_over(self) -> bool:
        """Whether the configured end has come."""
        contributed = {entry.site for entry in self.publisher.entries()}
        if self._end.sites and contributed >= set(self._end.sites):
            return not self.owes_verdict()
        if self._end.contributions and len(contributed) >= self._end.contributions:
            return not self.owes_verdict()
        return 0 < self._end.seconds <= clock.monotonic() - self._began

    def _last_choice(self) -> Rule:
        """The candidate that was published last, if it still is one."""
        published = self.ledger.publications()
        recipe = published[-1].recipe if published else {}
        same = [
            rule
            for rule in self._rules
            if all(recipe.get(key) == value for key, value in describe_rule(rule).items())
        ]
        return same[0] if same else self._rules[0]

    def owes_verdict(self) -> bool:
        """Whether a hospital that is online still waits for the word on its contribution."""
        return any(self._verdicts.get(site) for site in self.members())

    def is_scored(self) -> bool:
        """Whether every hospital that is online has scored every candidate."""
        return all(site in trial.figures for trial in self.trials for site in self.members())

    def members(self) -> Collection[str]:
        """Who is online and contributes."""
        return self.talk.online

    def ask(self, site: str) -> None:
        """The next question to an idle hospital, if there is one."""
        if site in self._needs_base:
            weights = pack(self.base, self.names)
            self.talk.ask(
                site, lambda node: send_base(self.assignment, weights, node), Question("base")
            )
        elif self._verdicts.get(site) or clock.monotonic() >= self._due.get(site, 0.0):
            verdicts = list(self._verdicts.get(site, ()))
            self.talk.ask(
                site,
                lambda node: ask_for_contribution(self.assignment, verdicts, node),
                Question("collect"),
            )
        elif trial := next((trial for trial in self.trials if site not in trial.figures), None):
            order = replace(
                self.assignment.order,
                round=0,
                restoration=self.strategy.restoration,
                restoration_steps=self.strategy.restoration_steps,
            )
            self.talk.ask(
                site,
                lambda node: ask_for_score(order, trial.weights, node),
                Question("score", trial),
            )

    def take(self, site: str, question: Question, reply: Message) -> None:
        """What a hospital answered."""
        if reply.has_error():
            self._due[site] = clock.monotonic() + self.strategy.poll_s
            self.tell(
                Failed(phase=question.kind, round=0, site=site, reason=str(reply.error.reason))
            )
            if question.trial is not None:
                question.trial.figures[site] = Answered(phase="evaluate", site=site)
        elif question.kind == "base":
            self._needs_base.discard(site)
            self._due[site] = 0.0
        elif question.trial is not None:
            self._take_score(site, question.trial, reply)
        else:
            self._verdicts.pop(site, None)
            self._take_handover(site, read_handover(reply))

    def _take_handover(self, site: str, handover: Handover) -> None:
        moment = clock.monotonic()
        if handover.needs_base:
            self._needs_base.add(site)
        if handover.digest:
            self._verdicts[site] = [self.receive(site, handover)] if _is_whole(handover) else []
            self._news[site] = moment
        elif handover.doing and handover.doing != self._doing.get(site):
            self._doing[site] = handover.doing
            self.tell(Progress(site=site, text=handover.doing))
        longest = max(self.strategy.poll_s, CALL_S * len(self.members()))
        self._due[site] = moment + pause_s(
            moment - self._news.setdefault(site, moment), max(0.5, longest / 10), longest
        )

    def receive(self, site: str, handover: Handover) -> Verdict:
        """Put a contribution into the ledger; what is accepted is merged and published at once."""
        incoming = self.ledger.folder / "incoming"
        incoming.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=incoming, suffix=".safetensors") as file:
            file.write(handover.content)
            file.flush()
            try:
                self.check_contribution(Path(file.name), site)
                receipt = self.ledger.receive(Path(file.name), site, self.requirements)
            except ContributionRefused as refusal:
                self.tell(
                    ContributionRejected(
                        site=site,
                        digest=handover.digest,
                        error=type(refusal).__name__,
                        reason=str(refusal),
                    )
                )
                return Verdict(handover.digest, False, str(refusal))
        if receipt.new:
            entry = next(entry for entry in self.ledger.entries() if entry.digest == receipt.digest)
            self.tell(
                Contributed(
                    site=site,
                    digest=receipt.digest,
                    num_examples=entry.num_examples,
                    staleness=entry.staleness,
                    norm=entry.norm,
                    number=entry.sequence,
                )
            )
        else:
            self.tell(Duplicate(site=site, digest=receipt.digest))
        if receipt.active:
            self.on_change("arrival")
        return Verdict(handover.digest, True)

    def check_contribution(self, path: Path, site: str) -> None:
        """What a contribution must be besides what the ledger requires; raises `ContributionRefused`."""

    def _notice_changes(self) -> None:
        """Somebody may withdraw a hospital from the ledger while the loop runs, or hand in by another way."""
        moment = clock.monotonic()
        if moment - self._checked < self.strategy.poll_s:
            return
        self._checked = moment
        head = self.ledger.history(limit=1)[-1].sequence
        if head != self._head:
            self._head = head
            if self.merged != {entry.digest for entry in self.publisher.entries()}:
                self.on_change("withdrawal")

    def on_change(self, why: str) -> None:
        """Publish the model of what the ledger holds now, and let the hospitals score it and its rivals."""
        self.trials = []
        self.merged = {entry.digest for entry in self.publisher.entries()}
        if not self.merged:
            return
        try:
            for rule in [self._chosen, *(rule for rule in self._rules if rule != self._chosen)]:
                state = self.publisher.merge(rule)
                self.trials.append(Trial(rule, pack(state, self.names), state))
        except ConfigError as error:  # Krum, say, needs more hospitals than have contributed yet
            self.tell(Note(text=f"nothing is published yet: {error}"))
            return
        published = self.trials[0]
        self._announce(self.publisher.publish(published.rule, published.state), published, why)

    def _announce(self, publication: Publication, trial: Trial, why: str) -> None:
        trial.number = publication.number
        if self._published is not None and publication.number == self._published.number:
            return
        self._published = publication
        self.tell(
            Published(
                number=publication.number,
                digest=publication.digest,
                sites=tuple(entry.site for entry in self.publisher.entries()),
                why=why,
                rule=str(publication.recipe.get("rule", "")),
                parameters=publication.recipe.get("parameters", {}),
            )
        )

    def _take_score(self, site: str, trial: Trial, reply: Message) -> None:
        """Take a hospital's score of a model; a published model's goes into the run's figures."""
        try:
            trial.figures[site] = answer_of(metrics_from_reply(reply), "evaluate", 0, site)
        except ValidationError:
            self.tell(Failed(phase="score", site=site, reason="its figures are not numbers"))
            trial.figures[site] = Answered(phase="evaluate", site=site)
        if trial.number:
            self._tell_figures(trial, site)

    def _tell_figures(self, trial: Trial, site: str) -> None:
        self.tell(trial.figures[site].model_copy(update={"round": trial.number}))

    def _choose(self) -> None:
        """Once every hospital that is here has scored every candidate, publish the best if it is another."""
        if len(self.trials) < 2 or not self.members() or not self.is_scored():
            return
        scored = [
            {site for site in trial.figures if not math.isnan(trial.score(site))}
            for trial in self.trials
        ]
        present = set.intersection(*scored)
        if not present:
            return
        best = max(self.trials, key=lambda trial: fmean(trial.score(site) for site in present))
        if best.rule == self._chosen:
            return
        self._chosen = best.rule
        self._announce(self.publisher.publish(best.rule, best.state), best, "parameters")
        for site in sorted(present):
            self._tell_figures(best, site)


def _is_whole(handover: Handover) -> bool:
    """Whether the contribution arrived as it was sent; if not, the next question brings it again."""
    return hashlib.sha256(handover.content).hexdigest() == handover.digest
