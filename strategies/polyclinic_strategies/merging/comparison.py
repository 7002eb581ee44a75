"""Models with which a merged model is compared, all made from the same contributions.

They are other rules, each hospital alone, a random vector, and the base.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from polyclinic.federation.grids.reliable_grid import ReliableGrid
from polyclinic.federation.records import Order
from polyclinic.learning.state_dict import StateDict, pack
from polyclinic_strategies.merging.arithmetic.configured import describe_rule
from polyclinic_strategies.merging.arithmetic.layer import Rule, is_normalization_statistic
from polyclinic_strategies.merging.asking.starts import BASE
from polyclinic_strategies.merging.messages import ask_for_score
from polyclinic_strategies.merging.publisher import Publisher
from polyclinic_strategies.merging.strategy import Merging

RESTORATION_STEPS = 10  # steps with which a run without restoration shows its effect


@dataclass(frozen=True)
class Opponent:
    """One more model to test.

    Attributes:
        group: main, rule, single, control, local, restored, or unrestored.
        states: One model for everybody, or one for each site.
    """

    name: str
    title: str
    group: str
    note: str
    states: StateDict | Mapping[str, StateDict]
    restoration: str
    restoration_steps: int

    def state_for(self, site: str) -> StateDict | None:
        """Return the model that a site tests; None if there is none for it."""
        if self.group != "local":
            return self.states  # type: ignore[return-value]
        return self.states.get(site)  # type: ignore[return-value]


class Comparison:
    """Opponents of a merged model.

    Args:
        strategy: Settings of the run.
        publisher: Makes models from the ledger.
        arm: Name of the run's merging arm.
        order: Order for the hospitals.
        names: The base's tensors in the network's order.
    """

    def __init__(
        self, strategy: Merging, publisher: Publisher, arm: str, order: Order, names: Sequence[str]
    ) -> None:
        self._strategy = strategy
        self._publisher = publisher
        self._arm = arm
        self._order = replace(
            order, restoration=strategy.restoration, restoration_steps=strategy.restoration_steps
        )
        self._names = list(names)

    def merged(self, state: StateDict) -> Opponent:
        """Return the run's own merged model."""
        return self._opponent(self._arm, self._strategy.title, "main", "", state)

    def rule(
        self,
        name: str,
        title: str,
        rules: Sequence[Rule],
        grid: ReliableGrid,
    ) -> Opponent:
        """Return another rule's model, with the candidate that scores best at the hospitals."""
        best = rules[0] if len(rules) == 1 else max(rules, key=lambda each: self._score(each, grid))
        note = ", ".join(
            f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in describe_rule(best)["parameters"].items()
            if key != "fraction_bits"
        )
        return self._opponent(name, title, "rule", note, self._publisher.merge(best))

    def controls(self, merged: StateDict) -> Iterator[Opponent]:
        """Yield every control.

        These are every hospital's model at its own hospital, and at all; the base; a random vector;
        and these and the merged model with the other kind of restoration. Where hospitals start
        from published models, no model is of one hospital alone, and there are none of these.
        """
        alone = self._strategy.start == BASE
        entries = self._publisher.entries() if alone else ()
        singles = {entry.site: self._publisher.single(entry) for entry in entries}
        own = "every hospital's own model, on its own images"
        if alone:
            yield self._opponent("local", "local only", "local", own, singles)
        strangers = [
            self._opponent(f"single.{site}", f"{site} alone", "single", "", state)
            for site, state in singles.items()
        ]
        noise = "the merged vector's length in every tensor, in a random direction"
        state = self._publisher.random(merged, self._order.seed)
        random = self._opponent("random", "random vector", "control", noise, state)
        yield from strangers
        yield random
        nobody = "the initial model, without any contribution"
        base = self._opponent("base", "the base alone", "control", nobody, self._publisher.base())
        yield base
        for opponent in (self.merged(merged), base, random, *strangers):
            yield self._restored_otherwise(opponent)

    def _restored_otherwise(self, opponent: Opponent) -> Opponent:
        """Add restoration if the run has none; remove it if the run has one."""
        kind, steps = "none", 0
        if self._strategy.restoration != "none":
            group, note = "unrestored", "no restoration"
        elif any(map(is_normalization_statistic, self._names)):
            group, kind = "restored", "statistics"
            note = "normalization statistics from each hospital's own unlabelled images"
        else:
            group, kind, steps = "restored", "steps", RESTORATION_STEPS
            note = f"{steps} labelled steps at each hospital"
        return replace(
            opponent,
            name=f"{opponent.name}.{group}",
            group=group,
            note=note,
            restoration=kind,
            restoration_steps=steps,
        )

    def _opponent(
        self,
        name: str,
        title: str,
        group: str,
        note: str,
        states: StateDict | Mapping[str, StateDict],
    ) -> Opponent:
        return Opponent(
            name,
            title,
            group,
            note,
            states,
            self._strategy.restoration,
            self._strategy.restoration_steps,
        )

    def _score(self, rule: Rule, grid: ReliableGrid) -> float:
        """Return the mean score over the connected hospitals."""
        weights = pack(self._publisher.merge(rule), self._names)
        order = replace(self._order, arm=self._arm)
        questions = [ask_for_score(order, weights, node) for node in grid.get_node_ids()]
        found = [figures.score for figures in grid.ask_for_figures(questions).values()]
        scores = [score for score in found if score is not None]
        return fmean(scores) if scores else -math.inf
