"""The coordinator's event loop of asynchronous merging: hospitals contribute without rounds.

Every hospital that is online is asked for its contribution. Each contribution is merged at once,
and the new model is published and sent to the hospitals for scoring; no hospital waits for another.
All lasting state is in the ledger and in the hospitals' outboxes, so coordinator, SuperLink and
hospitals may each die at any moment: the loop starts again from the ledger.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from flwr.app import Message
from flwr.serverapp import Grid

from polyclinic.federation.answers import Failure, Figures, read_figures, take
from polyclinic.federation.attendance import Listener
from polyclinic.federation.events import Answered, Failed, Missing, Progress
from polyclinic.learning.state_dict import pack
from polyclinic.store.contribution import TensorFile
from polyclinic.store.ledger import Ledger, Publication
from polyclinic.store.refusals import ContributionRefused
from polyclinic.system import clock
from polyclinic.system.processes import pause_s
from polyclinic_strategies.merging.asking.calls import Calls
from polyclinic_strategies.merging.asking.starts import Starts
from polyclinic_strategies.merging.events import Reused
from polyclinic_strategies.merging.intake.reception import is_whole, take_in
from polyclinic_strategies.merging.intake.statistics import (
    check_description,
    check_statistics,
    check_wanted,
)
from polyclinic_strategies.merging.mailbox import Mailbox, Members
from polyclinic_strategies.merging.messages import (
    Assignment,
    Handover,
    Verdict,
    ask_for_contribution,
    ask_for_score,
    read_confirmation,
    read_handover,
    send_base,
)
from polyclinic_strategies.merging.publisher import Publisher
from polyclinic_strategies.merging.strategy import Merging
from polyclinic_strategies.merging.trials import Candidates, Trial

READERS: Mapping[str, Callable[[Message], object]] = {
    "collect": read_handover,
    "base": read_confirmation,
    "score": read_figures,
}


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

    Subclasses change what happens by the public methods, such as `ask`, `reader`, `use`, `fail`,
    `receive`, `inspect` and `on_change`.

    Args:
        strategy: How to merge.
        grid: Flower's grid.
        members: Hospitals that take part.
        ledger: Ledger of contributions; hospitals start from its current base, or from a model
            that was published on it.
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
        self.strategy = strategy.for_network(names)
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
        self.candidates = Candidates(self.publisher, strategy.rules(), self.names, on_event)
        self.base = ledger.load_model(assignment.base)
        self.requirements = replace(
            strategy.requirements(
                self.publisher, self.base, assignment.task, assignment.statistics
            ),
            inspect=self.inspect,
        )
        self._starts = Starts(strategy.start, self.publisher)
        self._given_up: set[str] = set()  # sites that say that their work failed
        self._end = strategy.make_end(expected)
        self._verdicts: dict[str, list[Verdict]] = {}
        self._calls = Calls(strategy.poll_s, tells_news=self.mailbox.tells_news)
        self._doing: dict[str, str] = {}  # a site's last words about its work
        self._told: dict[str, tuple[str, str]] = {}  # question and reason of a site's last failure
        self._has_base: set[str] = set()  # sites that were sent the base, and have not used it yet
        self._needs_base: set[str] = set()
        self._ended: float | None = None  # monotonic time in seconds, while only hospitals are late
        self.merged: set[str] = set()  # digests of the contributions in the newest model
        self._head = ""  # hash of the journal's last line that was seen
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
            if self.may_end(self.has_ended(), self._late()):
                return self.candidates.published
            self.mailbox.wait(pause_s(clock.monotonic() - self.last_moved, 0.05, 0.5))

    def step(self) -> None:
        """Update the list of members, take the answers, and ask the hospitals that are idle."""
        self.mailbox.refresh()
        self._starts.see(self.mailbox.online)
        for site, question, reply in self.mailbox.collect():
            self.last_moved = clock.monotonic()
            answer: object = reply
            if isinstance(reply, Message):
                answer = take(reply, self.reader(question))
            if isinstance(answer, Failure):
                self.fail(site, question, answer.reason)
            else:
                self.use(site, question, answer)
        self._notice_changes()
        self.candidates.choose(self.members())
        for site in self.mailbox.idle():
            self.ask(site)

    def is_over(self) -> bool:
        """Return whether the configured end has come, and every hospital has its verdict."""
        return self.has_ended() and not self.owes_verdict()

    def has_ended(self) -> bool:
        """Return whether the configured end has come.

        A hospital that has sent nothing useful for longer than anybody waits is not waited for.
        """
        sent = self.contributors()
        useless = self._calls.useless_since()
        lost = {site for site, since in useless if self._is_late(since)} - sent
        if self._end.sites and sent | lost >= set(self._end.sites):
            return True
        if self._end.contributions and len(sent | lost) >= self._end.contributions:
            return True
        return 0 < self._end.seconds <= clock.monotonic() - self._began

    def contributors(self) -> set[str]:
        """Return the hospitals whose contributions the ledger holds."""
        return {entry.site for entry in self.publisher.received()}

    def may_end(self, ended: bool, late: Collection[str]) -> bool:
        """Return whether a phase may end now: nobody is late, or has been for too long.

        Args:
            ended: Whether nothing else is to be waited for.
            late: Hospitals that still have to take or answer something.
        """
        if not ended:
            self._ended = None
            return False
        if self._ended is None:
            self._ended = clock.monotonic()
        if late and not self._is_late(self._ended):
            return False
        for site in sorted(late):
            reason = f"it was not ready within {self.mailbox.patience_s:.0f} s"
            self.on_event(Missing(phase="collect", site=site, reason=reason))
        return True

    def _is_late(self, since: float) -> bool:
        return clock.monotonic() - since > self.mailbox.patience_s

    def _late(self) -> set[str]:
        """Return the sites that are online and lack a verdict, or owe a score."""
        sites = self.members()
        return set(filter(self.has_verdict, sites)) | self.candidates.owing(sites)

    def owes_verdict(self) -> bool:
        """Return whether a hospital that is online has not yet got its verdict."""
        return any(map(self.has_verdict, self.members()))

    def has_verdict(self, site: str) -> bool:
        """Return whether there is a verdict that a hospital has not got yet."""
        return bool(self._verdicts.get(site))

    def is_scored(self) -> bool:
        """Return whether every hospital that is online has scored every candidate."""
        return not self.candidates.owing(self.members())

    def members(self) -> Collection[str]:
        """Return the sites that are online and contribute."""
        return self.mailbox.online

    def ask(self, site: str) -> None:
        """Send the next question to an idle hospital, if there is one."""
        start = self._start_of(site)
        if start is not None and site in self._needs_base:
            asked = self._assignment_from(start)
            state = self.base if asked is self.assignment else self.ledger.load_model(start)
            weights = pack(state, self.names)
            self.mailbox.ask(site, lambda node: send_base(asked, weights, node), Question("base"))
        elif start is not None and self._calls.is_due(site, urgent=self.has_verdict(site)):
            asked, verdicts = self._assignment_from(start), list(self._verdicts.get(site, ()))
            self.mailbox.ask(
                site,
                lambda node: ask_for_contribution(asked, verdicts, node),
                Question("collect"),
            )
        elif trial := self.candidates.unscored(site):
            order = replace(
                self.assignment.order,
                round=0,
                restoration=self.strategy.restoration,
                restoration_steps=self.strategy.restoration_steps,
            )
            question = Question("score", trial)
            self.mailbox.ask(site, lambda node: ask_for_score(order, trial.weights, node), question)

    def _assignment_from(self, start: str) -> Assignment:
        """Return what a hospital is asked for that starts from a model."""
        same = start == self.assignment.base
        return self.assignment if same else replace(self.assignment, base=start)

    def _start_of(self, site: str) -> str | None:
        """Return the model that a hospital starts from; None while it is to wait."""
        start = self._starts.of(site)
        if start is not None:
            return start
        done = self.contributors() | self._given_up | self._calls.refused_sites()
        if self.candidates.owing(self.members()) or not self._starts.may_begin(
            site, done, self.mailbox.patience_s
        ):
            self._tell_doing(site, "waiting for its turn")
            return None
        newest = self.candidates.published if self.merged else None
        return self._starts.begin(site, newest.digest if newest else self.assignment.base)

    def reader(self, question: Question) -> Callable[[Message], object]:
        """Return what reads the answer to a question."""
        return READERS[question.kind]

    def fail(self, site: str, question: Question, reason: str) -> None:
        """Note that a hospital could not do what it was asked, or answered nothing of use."""
        self._calls.failed(site)
        if question.trial is not None:
            question.trial.figures[site] = Answered(phase="evaluate", site=site)
        if self._told.get(site) != (question.kind, reason):  # once, not at every question
            self._told[site] = (question.kind, reason)
            self.on_event(Failed(phase=question.kind, round=0, site=site, reason=reason))

    def use(self, site: str, question: Question, answer: object) -> None:
        """Use a hospital's answer to a question."""
        if isinstance(answer, Figures) and question.trial is not None:
            self.candidates.take_score(site, question.trial, answer)
        elif isinstance(answer, Handover):
            self._verdicts.pop(site, None)
            self._take_handover(site, question, answer)
        else:
            self._needs_base.discard(site)
            if site not in self._has_base:
                self._has_base.add(site)
                self._calls.call_now(site)

    def _take_handover(self, site: str, question: Question, handover: Handover) -> None:
        if not is_whole(handover):
            self.fail(site, question, "its contribution is not what its digest says")
            return
        if handover.needs_base:
            self._needs_base.add(site)
            if site in self._has_base:
                self.fail(site, question, "it asks again for the base that it was sent")
                self._calls.refused(site)
                self._calls.call_later(site, len(self.members()))
                return
        else:
            self._has_base.discard(site)
        moves = handover.doing != self._doing.get(site)
        if moves:
            self._starts.move(site)
        self._given_up = self._given_up - {site} | ({site} if handover.has_failed else set())
        if handover.digest:
            self.judge(site, self.receive(site, handover))
        else:
            self._tell_doing(site, handover.doing)
        if self._calls.is_refused(site) and (handover.digest or not moves):
            self._calls.useless(site)  # it was refused, and does not try again
        else:
            self._calls.useful(site)
            self._told.pop(site, None)
        self._calls.call_later(site, len(self.members()))

    def _tell_doing(self, site: str, doing: str) -> None:
        """Tell what a hospital does, if it is something new."""
        if doing and doing != self._doing.get(site):
            self._doing[site] = doing
            self.on_event(Progress(site=site, text=doing))

    def judge(self, site: str, verdict: Verdict) -> None:
        """Keep a verdict until its hospital has got it."""
        self._verdicts[site] = [verdict]
        self._calls.judged(site, accepted=verdict.accepted)

    def receive(self, site: str, handover: Handover) -> Verdict:
        """Put a contribution into the ledger, then merge and publish it if it is accepted.

        Args:
            site: Hospital that sent the contribution.
            handover: The contribution's file and digest.
        """
        try:
            receipt = take_in(self.ledger, site, handover, self.requirements, self.on_event)
        except ContributionRefused as refusal:
            return Verdict(handover.digest, False, str(refusal))
        if receipt.active and receipt.digest not in self.merged:
            self.on_change("arrival")
        return Verdict(handover.digest, True)

    def inspect(self, file: TensorFile, site: str) -> None:
        """Check what a contribution holds besides its task vector.

        Raises:
            ContributionRefused: The contribution is not accepted.
        """
        asked = self.assignment
        check_wanted(file, site, asked.statistics, variances=asked.variances)
        check_statistics(file, site, self.requirements.layout)
        check_description(file, site)

    def _notice_changes(self) -> None:
        """Look for changes of the ledger by other processes, such as a hospital's withdrawal."""
        moment = clock.monotonic()
        if moment - self._checked < self.strategy.poll_s:
            return
        self._checked = moment
        head = self.ledger.newest()
        if head != self._head:
            self._head = head
            if self.merged != {entry.digest for entry in self.publisher.entries()}:
                self.on_change("withdrawal")

    def on_change(self, why: str) -> None:
        """Merge and publish what the ledger holds now, and have the hospitals score all candidates.

        Args:
            why: arrival or withdrawal.
        """
        self.merged = {entry.digest for entry in self.publisher.entries()}
        self.candidates.merge(why)
        if published := self._starts.published():
            accepted = {**published, **self.requirements.older_bases}
            self.requirements = replace(self.requirements, older_bases=accepted)
