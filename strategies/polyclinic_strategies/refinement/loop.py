"""The coordinator's event loop of refinement: that of merging, then changes of membership.

After the recipe is chosen, three things may happen:

- A newcomer describes its images and gets a model.
- A hospital with new data hands in another contribution and gets a new model.
- A hospital leaves, which means that its contribution is withdrawn.

Each time the coordinator recalculates all models, and sends a message only to the hospital that
joined or changed.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from flwr.app import Message

from polyclinic.describing.statistics import statistic_named
from polyclinic.errors import ModelInvalid
from polyclinic.federation.attendance import Listener
from polyclinic.federation.grids.traffic import Count, CountingGrid
from polyclinic.learning.state_dict import pack
from polyclinic.store.ledger import Ledger
from polyclinic.system import clock
from polyclinic.system.processes import pause_s
from polyclinic_strategies.merging.event_loop import EventLoop, Question
from polyclinic_strategies.merging.mailbox import Members
from polyclinic_strategies.merging.messages import (
    Assignment,
    Handover,
    Verdict,
    read_confirmation,
)
from polyclinic_strategies.refinement.events import (
    Delivered,
    Described,
    Recalculated,
    Refined,
    Traffic,
)
from polyclinic_strategies.refinement.messages import (
    DescriptionReply,
    ask_for_description,
    read_description,
    send_refined,
)
from polyclinic_strategies.refinement.refine import Recipe, Refinement
from polyclinic_strategies.refinement.refiner import NOBODY, Description, Refiner, affected
from polyclinic_strategies.refinement.strategy import Refining, Stay

# Seconds after a departure at which its traffic is counted: all messages that it causes have been
# sent by then.
WATCH_S = 1.0


class NamedMembers(Members, Protocol):
    """The hospitals that take part, also by node."""

    def site_of(self, node: int) -> str:
        """Return the site of a node."""
        ...


@dataclass(frozen=True)
class MembershipChange:
    """A change that concerns one hospital.

    Attributes:
        why: join, update or withdrawal.
        began: Monotonic time in seconds.
        before: Bytes that had been sent and received before.
    """

    why: str
    began: float
    before: Count


class RefinementLoop(EventLoop):
    """The coordinator's side of refinement, until the run is over.

    `run` is the first phase, in which hospitals contribute. `stay` is the second, which sends
    refined models.

    Args:
        refining: How to refine.
        grid: Flower's grid; it counts bytes.
        members: Hospitals that take part, also those that only describe their images.
        ledger: Ledger of contributions.
        assignment: What every hospital is asked to contribute.
        names: Names of the base's tensors in the network's order.
        expected: Number of contributions that end the first phase.
        on_event: Called with every event.
    """

    def __init__(
        self,
        refining: Refining,
        grid: CountingGrid,
        members: NamedMembers,
        ledger: Ledger,
        assignment: Assignment,
        names: Sequence[str],
        expected: int,
        on_event: Listener,
    ) -> None:
        merging = refining.merging()
        super().__init__(merging, grid, members, ledger, assignment, names, expected, on_event)
        self.refiner = Refiner(self.publisher)
        self._grid, self._members = grid, members
        self._recipe: Recipe | None = None  # for hospitals that did not contribute
        self._own_recipe: Recipe | None = None  # for those that did
        self._exceptions: Mapping[str, Recipe] = NOBODY  # of those
        self._known: list[Refinement] = []  # coefficients of all hospitals
        self._ready: dict[str, Refinement] = {}  # models that their hospitals do not have yet
        # newcomer -> when its SuperNode came online before it was asked to describe itself
        self._described: dict[str, str] = {}
        self._changes: dict[str, MembershipChange] = {}  # joins and updates without a model yet
        self._step_began = MembershipChange("", 0.0, {})
        self._newcomers: set[str] = set()
        self._departures = 0
        self._departed: dict[str, MembershipChange] = {}  # departures whose traffic is not told yet
        self._number = 0

    def count(self, newcomers: Collection[str], departures: int) -> None:
        """Count what happened before the coordinator was started again.

        Args:
            newcomers: Hospitals that got a model for their description.
            departures: Number of hospitals that left.
        """
        self._newcomers, self._departures = set(newcomers), departures

    def stay(
        self,
        recipe: Recipe,
        own_recipe: Recipe,
        stay: Stay,
        exceptions: Mapping[str, Recipe] = NOBODY,
    ) -> None:
        """Send every hospital its model, then serve those that join, change or leave.

        Args:
            recipe: Recipe for hospitals that did not contribute.
            own_recipe: Recipe for contributors.
            stay: When to end.
            exceptions: Contributors with another recipe.
        """
        self._recipe, self._own_recipe, self._exceptions = recipe, own_recipe, exceptions
        self.candidates.trials = []
        self._known = self.refine_all()
        for refinement in self._known:
            if refinement.site in self.refiner.contributors():
                self._offer(refinement, "choice")
        began = clock.monotonic()
        self.step()
        while not self._is_done(stay, clock.monotonic() - began):
            self.mailbox.wait(pause_s(clock.monotonic() - self.last_moved, 0.05, 0.5))
            self.step()

    def step(self) -> None:
        """Do a step of merging, then tell the traffic of departures."""
        self._step_began = self._now("")
        super().step()
        for site, change in list(self._departed.items()):
            if self._step_began.began - change.began > WATCH_S:
                self._record_traffic(site, self._departed.pop(site))

    def receive(self, site: str, handover: Handover) -> Verdict:
        """Put a contribution into the ledger; in the second phase, make the hospital's new model.

        Args:
            site: Hospital that sent the contribution.
            handover: The contribution's file and digest.
        """
        before = self._digest_of(site)
        verdict = super().receive(site, handover)
        if self._recipe is not None and self._digest_of(site) != before:
            self._changes[site] = replace(self._step_began, why="update")
            self._offer(self.refine(site), "update")
        return verdict

    def refine(self, site: str) -> Refinement:
        """Return a hospital's coefficients for the present contributions and descriptions."""
        assert self._recipe is not None
        assert self._own_recipe is not None
        if site not in self.refiner.contributors():
            return self.refiner.coefficients(site, self._recipe)
        return self.refiner.coefficients(site, self._exceptions.get(site, self._own_recipe))

    def refine_all(self) -> list[Refinement]:
        """Return the coefficients of all hospitals."""
        assert self._recipe is not None
        assert self._own_recipe is not None
        return self.refiner.all_coefficients(self._recipe, self._own_recipe, self._exceptions)

    def _is_done(self, stay: Stay, seconds: float) -> bool:
        if self._departed:
            return False
        late = {site for site in self._ready if site in self.mailbox.online}
        late |= {site for site in self.members() if self.has_verdict(site)}
        return self.may_end(self._has_stayed(stay, seconds), late)

    def _has_stayed(self, stay: Stay, seconds: float) -> bool:
        if not stay.any:
            return True
        counted = [(len(self._newcomers), stay.newcomers), (self._departures, stay.departures)]
        wanted = [(found, limit) for found, limit in counted if limit]
        is_complete = bool(wanted) and all(found >= limit for found, limit in wanted)
        return is_complete or 0 < stay.seconds <= seconds

    def members(self) -> Collection[str]:
        """Return the sites that are online and contribute, without those that only describe."""
        return [site for site, member in self.mailbox.online.items() if not member.describes]

    def ask(self, site: str) -> None:
        """Send the next question to an idle hospital; a model that is ready is sent first."""
        member = self.mailbox.online[site]
        if self._recipe is None:
            if not member.describes:
                super().ask(site)
        elif site in self._ready:
            self._send(site)
        elif not member.describes:
            super().ask(site)
        elif not self._is_busy() and self._described.get(site) != member.activated:
            self._described[site] = member.activated
            self._changes[site] = self._now("join")
            self._ask_newcomer(site, self._recipe.statistic)

    def _is_busy(self) -> bool:
        """Return whether a hospital that is online describes itself or waits for its model.

        Newcomers are served one at a time, so that the bytes that are counted belong to one change.
        """
        # a site with a change that is idle was offline meanwhile, and is asked again
        asked = set(self._changes) - set(self.mailbox.idle())
        return any(site in self.mailbox.online for site in asked.union(self._ready))

    def _ask_newcomer(self, site: str, statistic: str) -> None:
        weights = pack(self.base, self.names) if statistic_named(statistic).needs_network else None
        self.mailbox.ask(
            site,
            lambda node: ask_for_description(self.assignment, [statistic], weights, node),
            Question("describe"),
        )

    def _send(self, site: str) -> None:
        weights = pack(self.refiner.model(self._ready[site]), self.names)
        self._number += 1
        number = self._number
        self.mailbox.ask(
            site,
            lambda node: send_refined(self.assignment.order, weights, number, node),
            Question("refined"),
        )

    def reader(self, question: Question) -> Callable[[Message], object]:
        """Return what reads the answer to a question."""
        if question.kind == "describe":
            assert self._recipe is not None
            return partial(read_description, wanted=[self._recipe.statistic])
        return read_confirmation if question.kind == "refined" else super().reader(question)

    def use(self, site: str, question: Question, answer: object) -> None:
        """Use a hospital's answer to a question."""
        if isinstance(answer, DescriptionReply):
            self._take_description(site, question, answer)
        elif question.kind == "refined":
            self._conclude(site)
        else:
            super().use(site, question, answer)

    def fail(self, site: str, question: Question, reason: str) -> None:
        """Stop waiting for a hospital that could not describe itself or take its model."""
        if question.kind in ("describe", "refined"):
            self._ready.pop(site, None)
            self._changes.pop(site, None)
        super().fail(site, question, reason)

    def _take_description(self, site: str, question: Question, answer: DescriptionReply) -> None:
        assert self._recipe is not None
        description = Description(self.assignment.base, answer.subjects, answer.means)
        try:
            self.refiner.describe(site, description)
        except ModelInvalid as error:
            self.fail(site, question, str(error))
            return
        statistic, seconds = self._recipe.statistic, answer.seconds
        self.on_event(
            Described(site=site, subjects=answer.subjects, statistic=statistic, seconds=seconds)
        )
        self._known = self.refine_all()
        self._offer(next(each for each in self._known if each.site == site), "join")

    def on_change(self, why: str) -> None:
        """Publish the merged model; in the second phase, recalculate all coefficients.

        In the second phase no hospital is asked to score.

        Args:
            why: arrival or withdrawal.
        """
        super().on_change(why)
        if self._recipe is None or not self.merged:
            return
        self.candidates.trials = []
        began, before, departure = clock.monotonic(), self._known, self._now("withdrawal")
        self._known = self.refine_all()
        gone = sorted({each.site for each in before} - {each.site for each in self._known})
        changed, seconds = affected(before, self._known), clock.monotonic() - began
        self.on_event(
            Recalculated(why=why, sites=tuple(changed), gone=tuple(gone), seconds=seconds)
        )
        self._departures += len(gone)
        self._departed |= dict.fromkeys(gone, departure)

    def _digest_of(self, site: str) -> str:
        return next((entry.digest for entry in self.publisher.entries() if entry.site == site), "")

    def _now(self, why: str) -> MembershipChange:
        return MembershipChange(why, clock.monotonic(), self._grid.total())

    def _offer(self, refinement: Refinement, why: str) -> None:
        """Make a model ready to be sent to its hospital."""
        self._ready[refinement.site] = refinement
        self.on_event(
            Refined(
                site=refinement.site,
                why=why,
                recipe=str(refinement.recipe),
                coefficients=dict(refinement.coefficients),
                nearest=refinement.nearest,
                distance=refinement.distances.get(refinement.nearest),
                fallback=refinement.fallback,
            )
        )

    def _conclude(self, site: str) -> None:
        """Record that a hospital has its model, and the traffic of the change that led to it."""
        self._ready.pop(site, None)
        change = self._changes.pop(site, None)
        why = change.why if change else "choice"
        seconds = clock.monotonic() - change.began if change else None
        self.on_event(Delivered(site=site, why=why, seconds=seconds))
        if change is not None:
            self._newcomers |= {site} if why == "join" else set()
            self._record_traffic(site, change)

    def _record_traffic(self, site: str, change: MembershipChange) -> None:
        """Record the bytes that all hospitals sent and received since a change began.

        Regular questions for contributions, which go on meanwhile, are in the count.
        """
        moved: dict[str, dict[str, int]] = {}
        for node, kinds in self._grid.total().items():
            before = change.before.get(node, {})
            moved[self._members.site_of(node)] = {
                kind: count - before.get(kind, 0) for kind, count in kinds.items()
            }
        self.on_event(Traffic(why=change.why, site=site, bytes=moved))
