"""The coordinator's side of refinement: the event loop of merging, and what follows once it is known how to refine.

A newcomer says what its images are like and gets its model; a hospital with new data hands in again and gets its own; one that leaves is
withdrawn. Each time everything is recalculated here, and only the hospital that it is about hears of it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from flwr.app import Message

from polyclinic.describing.statistics import statistic_named
from polyclinic.errors import ConfigError, ModelInvalid
from polyclinic.federation.events import Failed
from polyclinic.federation.traffic import Count, CountingGrid
from polyclinic.learning.state_dict import pack
from polyclinic.store.ledger import Ledger
from polyclinic.system import clock
from polyclinic.system.processes import pause_s
from polyclinic_strategies.merging.correspondence import Roster
from polyclinic_strategies.merging.event_loop import EventLoop, Question, Tell
from polyclinic_strategies.merging.messages import Assignment, Handover, Verdict
from polyclinic_strategies.refinement.events import (
    Delivered,
    Described,
    Recalculated,
    Refined,
    Traffic,
)
from polyclinic_strategies.refinement.messages import (
    ask_for_description,
    read_description,
    send_refined,
)
from polyclinic_strategies.refinement.refine import Recipe, Refinement
from polyclinic_strategies.refinement.refiner import Description, Refiner, affected
from polyclinic_strategies.refinement.strategy import Refining, Stay

WATCH_S = 1.0  # after a departure: whatever it makes anybody send or receive has been sent by then


class NamedRoster(Roster, Protocol):
    """Who takes part, and which site is behind a node."""

    def site_of(self, node: int) -> str:
        """The site behind a node."""
        ...


@dataclass(frozen=True)
class Occasion:
    """Something that changes models, with the moment and the count of bytes before it."""

    why: str  # join, update, withdrawal
    began: float
    before: Count


class RefinementLoop(EventLoop):
    """See the module.

    Args:
        refining: The strategy.
        grid: Flower's grid, counting.
        roster: Who takes part, hospitals that only describe themselves among them.
        ledger: What is known for good.
        assignment: What every hospital is asked for.
        names: The base's tensors in the network's order.
        expected: Contributions after which the first phase is over.
        tell: Told what happens.
    """

    def __init__(
        self, refining: Refining, grid: CountingGrid, roster: NamedRoster, ledger: Ledger, assignment: Assignment, names: Sequence[str],
        expected: int, tell: Tell,
    ) -> None:  # fmt: skip
        super().__init__(
            refining.merging(), grid, roster, ledger, assignment, names, expected, tell
        )
        self.refiner = Refiner(self.publisher)
        self._grid, self._roster = grid, roster
        self._recipe: Recipe | None = None  # for hospitals that did not contribute
        self._own_recipe: Recipe | None = None  # for those that did
        self._known: list[Refinement] = []
        self._ready: dict[str, Refinement] = {}  # made, and on its way
        self._described: dict[str, str] = {}  # newcomer -> when its SuperNode had come online
        self._occasions: dict[str, Occasion] = {}
        self._moment = Occasion("", 0.0, {})
        self._newcomers: set[str] = set()
        self._departures = 0
        self._departed: dict[str, Occasion] = {}  # whose departure is being watched
        self._number = 0

    def count(self, newcomers: Collection[str], departures: int) -> None:
        """Who was served, and how many left, before the coordinator was started again."""
        self._newcomers, self._departures = set(newcomers), departures

    def stay(self, recipe: Recipe, own_recipe: Recipe, stay: Stay) -> None:
        """Send every hospital its model; then take in who comes, changes and goes, until there is nothing more to stay for."""
        self._recipe, self._own_recipe = recipe, own_recipe
        self.trials = []
        self._known = self.refine_all()
        for refinement in self._known:
            if refinement.site in self.refiner.contributors():
                self._offer(refinement, "choice")
        began = clock.monotonic()
        self.step()
        while not self._is_done(stay, clock.monotonic() - began):
            clock.sleep(pause_s(clock.monotonic() - self.last_moved, 0.05, 0.5))
            self.step()

    def step(self) -> None:
        """As in merging."""
        self._moment = self._now("")
        super().step()
        for site, occasion in list(self._departed.items()):
            if self._moment.began - occasion.began > WATCH_S:
                self._tell_traffic(site, self._departed.pop(site))

    def receive(self, site: str, handover: Handover) -> Verdict:
        """As in merging; after the first phase the hospital gets the model that follows from what it handed in."""
        before = self._digest_of(site)
        verdict = super().receive(site, handover)
        if self._recipe is not None and self._digest_of(site) != before:
            self._occasions[site] = replace(self._moment, why="update")
            self._offer(self.refine(site), "update")
        return verdict

    def refine(self, site: str) -> Refinement:
        """A hospital's coefficients as things are now."""
        assert self._recipe is not None
        assert self._own_recipe is not None
        own = site in self.refiner.contributors()
        return self.refiner.coefficients(site, self._own_recipe if own else self._recipe)

    def refine_all(self) -> list[Refinement]:
        """Everybody's coefficients as things are now."""
        assert self._recipe is not None
        assert self._own_recipe is not None
        return self.refiner.all_coefficients(self._recipe, self._own_recipe)

    def _is_done(self, stay: Stay, seconds: float) -> bool:
        if (
            any(site in self.talk.online for site in self._ready)
            or self.owes_verdict()
            or self._departed
        ):
            return False
        if not stay.any:
            return True
        counted = [(len(self._newcomers), stay.newcomers), (self._departures, stay.departures)]
        wanted = [(found, limit) for found, limit in counted if limit]
        return (
            bool(wanted and all(found >= limit for found, limit in wanted))
            or 0 < stay.seconds <= seconds
        )

    def members(self) -> Collection[str]:
        """Return who is online and contributes; a hospital that only describes itself does not."""
        return [site for site, member in self.talk.online.items() if not member.describes]

    def ask(self, site: str) -> None:
        """Put the next question to an idle hospital; a model that is ready is sent first."""
        member = self.talk.online[site]
        if self._recipe is None:
            if not member.describes:
                super().ask(site)
        elif site in self._ready:
            self._send(site)
        elif not member.describes:
            super().ask(site)
        elif not self._is_busy() and self._described.get(site) != member.activated:
            self._described[site] = member.activated
            self._occasions[site] = self._now("join")
            self._ask_newcomer(site, self._recipe.statistic)

    def _is_busy(self) -> bool:
        """Whether somebody who is here describes itself or waits for its model: one at a time, so a count of bytes is of one occasion."""
        asked = set(self._occasions) - set(
            self.talk.idle()
        )  # not those that were away meanwhile: they are asked again
        return any(site in self.talk.online for site in asked.union(self._ready))

    def _ask_newcomer(self, site: str, statistic: str) -> None:
        weights = pack(self.base, self.names) if statistic_named(statistic).needs_network else None
        self.talk.ask(
            site,
            lambda node: ask_for_description(self.assignment, [statistic], weights, node),
            Question("describe"),
        )

    def _send(self, site: str) -> None:
        weights = pack(self.refiner.model(self._ready[site]), self.names)
        self._number += 1
        number = self._number
        self.talk.ask(
            site,
            lambda node: send_refined(self.assignment.order, weights, number, node),
            Question("refined"),
        )

    def take(self, site: str, question: Question, reply: Message) -> None:
        """Take in what a hospital answered."""
        if question.kind not in ("describe", "refined"):
            super().take(site, question, reply)
        elif reply.has_error():
            self._give_up(site, question.kind, str(reply.error.reason))
        elif question.kind == "describe":
            self._take_description(site, reply)
        else:
            self._conclude(site)

    def _take_description(self, site: str, reply: Message) -> None:
        assert self._recipe is not None
        try:
            means, subjects, seconds = read_description(reply, [self._recipe.statistic])
            self.refiner.describe(site, Description(self.assignment.base, subjects, means))
        except (ConfigError, ModelInvalid) as error:
            self._give_up(site, "describe", str(error))
            return
        self.tell(
            Described(
                site=site, subjects=subjects, statistic=self._recipe.statistic, seconds=seconds
            )
        )
        self._known = self.refine_all()
        self._offer(next(each for each in self._known if each.site == site), "join")

    def _give_up(self, site: str, phase: str, reason: str) -> None:
        """A hospital could not describe itself, or take its model: others are not kept waiting."""
        self._ready.pop(site, None)
        self._occasions.pop(site, None)
        self.tell(Failed(phase=phase, round=0, site=site, reason=reason))

    def on_change(self, why: str) -> None:
        """The centre, and every hospital's coefficients; after the first phase nobody is asked to score."""
        super().on_change(why)
        if self._recipe is None or not self.merged:
            return
        self.trials = []
        began, before, departure = clock.monotonic(), self._known, self._now("withdrawal")
        self._known = self.refine_all()
        gone = sorted({each.site for each in before} - {each.site for each in self._known})
        changed, seconds = affected(before, self._known), clock.monotonic() - began
        self.tell(Recalculated(why=why, sites=tuple(changed), gone=tuple(gone), seconds=seconds))
        self._departures += len(gone)
        self._departed |= dict.fromkeys(gone, departure)

    def _digest_of(self, site: str) -> str:
        return next((entry.digest for entry in self.publisher.entries() if entry.site == site), "")

    def _now(self, why: str) -> Occasion:
        return Occasion(why, clock.monotonic(), self._grid.total())

    def _offer(self, refinement: Refinement, why: str) -> None:
        """A model is ready for its hospital."""
        self._ready[refinement.site] = refinement
        self.tell(
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
        """A hospital has its model."""
        self._ready.pop(site, None)
        occasion = self._occasions.pop(site, None)
        why = occasion.why if occasion else "choice"
        seconds = clock.monotonic() - occasion.began if occasion else None
        self.tell(Delivered(site=site, why=why, seconds=seconds))
        if occasion is not None:
            self._newcomers |= {site} if why == "join" else set()
            self._tell_traffic(site, occasion)

    def _tell_traffic(self, site: str, occasion: Occasion) -> None:
        """What an occasion moved, to and from everybody; that hospitals are asked for news now and then goes on meanwhile."""
        after = self._grid.total()
        moved = {
            self._roster.site_of(node): {
                kind: count - occasion.before.get(node, {}).get(kind, 0)
                for kind, count in kinds.items()
            }
            for node, kinds in after.items()
        }
        self.tell(Traffic(why=occasion.why, site=site, bytes=moved))
