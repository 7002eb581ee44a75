"""The coordinator's event loop of asynchronous merging: hospitals contribute without rounds.

Every hospital that is online is asked for its contribution. Each contribution is merged at once,
and the new model is published and sent to the hospitals for scoring; no hospital waits for another.
All lasting state is in the ledger and in the hospitals' outboxes, so coordinator, SuperLink and
hospitals may each die at any moment: the loop starts again from the ledger.
"""

import hashlib
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flwr.app import Message
from flwr.serverapp import Grid
from pydantic import ValidationError

from polyclinic.errors import ConfigError
from polyclinic.federation.attendance import Listener
from polyclinic.federation.events import Answered, Failed, Note, Progress, answer_of
from polyclinic.federation.records import metrics_from_reply
from polyclinic.learning.state_dict import pack
from polyclinic.store.ledger import Ledger, Publication
from polyclinic.store.refusals import ContributionRefused
from polyclinic.system import clock
from polyclinic.system.processes import pause_s
from polyclinic_strategies.merging.arithmetic.layer import Rule
from polyclinic_strategies.merging.events import (
    Contributed,
    ContributionRejected,
    Duplicate,
    Published,
    Reused,
)
from polyclinic_strategies.merging.mailbox import Mailbox, Members
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
from polyclinic_strategies.merging.trials import Trial, best_of, judges_of

# Seconds between two questions for a contribution, over all hospitals that are online. A question
# costs our own fleet 10 ms of a core (so idle hospitals together 5 % of it, however many they are),
# and Flower's SuperLink 60 ms (docs/explanation/scale.md).
CALL_S, SLOW_CALL_S = 0.2, 0.3


@dataclass(frozen=True)
class Question:
    """The purpose of a question to a hospital.

    Attributes:
        kind: collect (a contribution), base (send the base) or score (a model); subclasses of the
            loop add kinds of their own.
        trial: Model to score.
    """

    kind: str
    trial: Trial | None = None


class EventLoop:
    """The coordinator's side of merging, until the run is over.

    Subclasses change what happens by the public methods, such as `ask`, `take`, `receive`,
    `check_contribution` and `on_change`.

    Args:
        strategy: How to merge.
        grid: Flower's grid.
        members: Hospitals that take part.
        ledger: Ledger of contributions; all hospitals start from its current base.
        assignment: What every hospital is asked to contribute.
        names: Names of the base's tensors in the network's order, in which weights travel.
        expected: Number of contributions that end the run, if the strategy names no other end;
            0: the run does not end by their number.
        on_event: Called with every event.
    """

    def __init__(
        self,
        strategy: Merging,
        grid: Grid,
        members: Members,
        ledger: Ledger,
        assignment: Assignment,
        names: Sequence[str],
        expected: int,
        on_event: Listener,
    ) -> None:
        self.strategy = strategy
        self.ledger = ledger
        self.assignment = assignment
        self.names = list(names)
        self.publisher = Publisher(
            ledger,
            strategy.max_staleness,
            strategy.staleness_discount,
            ledger.folder / "sums",
            assignment.statistics,
        )
        self.mailbox: Mailbox[Question] = Mailbox(grid, members)
        self.on_event = on_event
        self._rules = make_rules(strategy.rule, strategy.candidates)
        self._chosen = self._last_choice()
        self.base = ledger.load_model(assignment.base)
        self.requirements = strategy.requirements(
            self.publisher, self.base, assignment.task, assignment.statistics
        )
        self._end = strategy.make_end(expected)
        self._verdicts: dict[str, list[Verdict]] = {}
        # monotonic times in seconds: next question for a contribution, last contribution
        self._due: dict[str, float] = {}
        self._contributed: dict[str, float] = {}
        self._doing: dict[str, str] = {}  # a site's last words about its work
        self._needs_base: set[str] = set()
        self.trials: list[Trial] = []
        self._published: Publication | None = None
        self.merged: set[str] = set()  # digests of the contributions in the newest model
        self._head = 0  # number of the journal's last line that was seen
        self._began = self.last_moved = self._checked = clock.monotonic()

    def run(self) -> Publication | None:
        """Ask, merge and publish until the run is over.

        Returns:
            The last publication; None if nobody contributed.
        """
        if present := self.publisher.entries():
            self.on_event(Reused(sites=tuple(entry.site for entry in present)))
        self.on_change("arrival")
        while True:
            self.step()
            if self.is_over() and self.is_scored():
                return self._published
            self.mailbox.wait(pause_s(clock.monotonic() - self.last_moved, 0.05, 0.5))

    def step(self) -> None:
        """Update the list of members, take the answers, and ask the hospitals that are idle."""
        self.mailbox.refresh()
        for site, question, reply in self.mailbox.collect():
            self.last_moved = clock.monotonic()
            self.take(site, question, reply)
        self._notice_changes()
        self._choose()
        for site in self.mailbox.idle():
            self.ask(site)

    def is_over(self) -> bool:
        """Return whether the configured end has come."""
        contributed = {entry.site for entry in self.publisher.entries()}
        if self._end.sites and contributed >= set(self._end.sites):
            return not self.owes_verdict()
        if self._end.contributions and len(contributed) >= self._end.contributions:
            return not self.owes_verdict()
        return 0 < self._end.seconds <= clock.monotonic() - self._began

    def _last_choice(self) -> Rule:
        """Return the candidate that was published last, if it still is one; else the first."""
        published = self.ledger.publications()
        recipe = published[-1].recipe if published else {}
        same = [
            rule
            for rule in self._rules
            if all(recipe.get(key) == value for key, value in describe_rule(rule).items())
        ]
        return same[0] if same else self._rules[0]

    def owes_verdict(self) -> bool:
        """Return whether a hospital that is online has not yet got its verdict."""
        return any(self._verdicts.get(site) for site in self.members())

    def is_scored(self) -> bool:
        """Return whether every hospital that is online has scored every candidate."""
        return all(site in trial.figures for trial in self.trials for site in self.members())

    def members(self) -> Collection[str]:
        """Return the sites that are online and contribute."""
        return self.mailbox.online

    def ask(self, site: str) -> None:
        """Send the next question to an idle hospital, if there is one."""
        if site in self._needs_base:
            weights = pack(self.base, self.names)
            question = Question("base")
            self.mailbox.ask(site, lambda node: send_base(self.assignment, weights, node), question)
        elif self._verdicts.get(site) or clock.monotonic() >= self._due.get(site, 0.0):
            verdicts = list(self._verdicts.get(site, ()))
            self.mailbox.ask(
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
            question = Question("score", trial)
            self.mailbox.ask(site, lambda node: ask_for_score(order, trial.weights, node), question)

    def take(self, site: str, question: Question, reply: Message) -> None:
        """Take a hospital's answer to a question."""
        if reply.has_error():
            self._due[site] = clock.monotonic() + self.strategy.poll_s
            reason = str(reply.error.reason)
            self.on_event(Failed(phase=question.kind, round=0, site=site, reason=reason))
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
            self._contributed[site] = moment
        elif handover.doing and handover.doing != self._doing.get(site):
            self._doing[site] = handover.doing
            self.on_event(Progress(site=site, text=handover.doing))
        call_s = CALL_S if self.mailbox.tells_news else SLOW_CALL_S
        shortest_s = max(0.5, call_s * len(self.members()))
        waited_s = moment - self._contributed.setdefault(site, moment)
        longest_s = max(self.strategy.poll_s, shortest_s)
        self._due[site] = moment + pause_s(waited_s, shortest_s, longest_s)

    def receive(self, site: str, handover: Handover) -> Verdict:
        """Put a contribution into the ledger, then merge and publish it if it is accepted.

        Args:
            site: Hospital that sent the contribution.
            handover: The contribution's file and digest.
        """
        incoming = self.ledger.folder / "incoming"
        incoming.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=incoming, suffix=".safetensors") as file:
            file.write(handover.content)
            file.flush()
            try:
                self.check_contribution(Path(file.name), site)
                receipt = self.ledger.receive(Path(file.name), site, self.requirements)
            except ContributionRefused as refusal:
                digest, error, reason = handover.digest, type(refusal).__name__, str(refusal)
                self.on_event(
                    ContributionRejected(site=site, digest=digest, error=error, reason=reason)
                )
                return Verdict(digest, False, reason)
        if receipt.new:
            entry = next(entry for entry in self.ledger.entries() if entry.digest == receipt.digest)
            self.on_event(
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
            self.on_event(Duplicate(site=site, digest=receipt.digest))
        if receipt.active:
            self.on_change("arrival")
        return Verdict(handover.digest, True)

    def check_contribution(self, path: Path, site: str) -> None:
        """Check a contribution's file beyond the ledger's requirements; here nothing is checked.

        Raises:
            ContributionRefused: The contribution is not accepted.
        """

    def _notice_changes(self) -> None:
        """Look for changes of the ledger by other processes, such as a hospital's withdrawal."""
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
        """Merge and publish what the ledger holds now, and have the hospitals score all candidates.

        Args:
            why: arrival or withdrawal.
        """
        self.trials = []
        self.merged = {entry.digest for entry in self.publisher.entries()}
        if not self.merged:
            return
        try:
            for rule in [self._chosen, *(rule for rule in self._rules if rule != self._chosen)]:
                state = self.publisher.merge(rule)
                self.trials.append(Trial(rule, pack(state, self.names), state))
        except ConfigError as error:  # the rule needs more hospitals, as Krum does
            self.on_event(Note(text=f"nothing is published yet: {error}"))
            return
        self._publish(self.trials[0], why)

    def _publish(self, trial: Trial, why: str) -> None:
        publication = self.publisher.publish(trial.rule, trial.state)
        trial.number = publication.number
        if self._published is not None and publication.number == self._published.number:
            return
        self._published = publication
        self.on_event(
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
        """Take a hospital's score of a model; those of a published model are figures of the run."""
        try:
            trial.figures[site] = answer_of(metrics_from_reply(reply), "evaluate", 0, site)
        except ValidationError:
            self.on_event(Failed(phase="score", site=site, reason="its figures are not numbers"))
            trial.figures[site] = Answered(phase="evaluate", site=site)
        if trial.number:
            self._record_score(trial, site)

    def _record_score(self, trial: Trial, site: str) -> None:
        self.on_event(trial.figures[site].model_copy(update={"round": trial.number}))

    def _choose(self) -> None:
        """Publish the best candidate once every hospital that is online has scored all of them.

        The best has the highest mean score over the hospitals that could score every candidate.
        """
        if len(self.trials) < 2 or not self.members() or not self.is_scored():
            return
        judges = judges_of(self.trials)
        if not judges:
            return
        best = best_of(self.trials, judges)
        if best.rule == self._chosen:
            return
        self._chosen = best.rule
        self._publish(best, "parameters")
        for site in sorted(judges):
            self._record_score(best, site)


def _is_whole(handover: Handover) -> bool:
    """Return whether the contribution arrived as it was sent; if not, it is asked for again."""
    return hashlib.sha256(handover.content).hexdigest() == handover.digest
