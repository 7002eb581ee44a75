"""What a merged model is compared with, all made of the same contributions: other rules, each hospital alone, a random vector."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from flwr.serverapp import Grid

from polyclinic.config.schemas import Part
from polyclinic.federation.records import Order, metrics_from_reply
from polyclinic.learning.state_dict import StateDict, pack
from polyclinic_strategies.merging.arithmetic.layer import Rule, is_normalization_statistic
from polyclinic_strategies.merging.messages import ask_for_score
from polyclinic_strategies.merging.publisher import Publisher, describe_rule, make_rules
from polyclinic_strategies.merging.strategy import Merging

RESTORATION_STEPS = 10  # where a run without restoration shows what it would do


@dataclass(frozen=True)
class Opponent:
    """One more model to test.

    `states` is one model for everybody, or one for each site.
    """

    name: str
    title: str
    group: str  # main, rule, single, control, local, restored, unrestored
    note: str
    states: StateDict | Mapping[str, StateDict]
    restoration: str
    restoration_steps: int

    def state_for(self, site: str) -> StateDict | None:
        """The model that a site tests; None if there is none for it."""
        if self.group != "local":
            return self.states  # type: ignore[return-value]
        return self.states.get(site)  # type: ignore[return-value]


class Comparison:
    """The opponents of a merged model.

    Args:
        strategy: The run's.
        publisher: Knows the ledger.
        arm: Name of the run's merging arm.
        order: What hospitals are told.
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
        """The run's own merged model."""
        return self._opponent(self._arm, self._strategy.title, "main", "", state)

    def rule(
        self,
        name: str,
        title: str,
        rule: Part,
        candidates: Mapping[str, Sequence[float]],
        grid: Grid,
    ) -> Opponent:
        """Another rule, with the candidate that the hospitals score best on their validation cases."""
        rules = make_rules(rule, candidates)
        best = rules[0] if len(rules) == 1 else max(rules, key=lambda each: self._score(each, grid))
        parameters = {
            key: value
            for key, value in describe_rule(best)["parameters"].items()
            if key != "fraction_bits"
        }
        note = ", ".join(
            f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in parameters.items()
        )
        return self._opponent(name, title, "rule", note, self._publisher.merge(best))

    def controls(self, merged: StateDict) -> Iterator[Opponent]:
        """Every hospital's model at its own hospital; at all; a random vector; these and the merged one restored otherwise."""
        singles = {entry.site: self._publisher.single(entry) for entry in self._publisher.entries()}
        own = "every hospital's own model, on its own images"
        yield self._opponent("local", "local only", "local", own, singles)
        strangers = [
            self._opponent(f"single.{site}", f"{site} alone", "single", "", state)
            for site, state in singles.items()
        ]
        noise = "the merged vector's length in every tensor, in a random direction"
        random = self._opponent(
            "random",
            "random vector",
            "control",
            noise,
            self._publisher.random(merged, self._order.seed),
        )
        yield from strangers
        yield random
        nobody = "what everybody starts from, with nobody's contribution"
        base = self._opponent("base", "the base alone", "control", nobody, self._publisher.base())
        yield base
        for opponent in (self.merged(merged), base, random, *strangers):
            yield self._restored_otherwise(opponent)

    def _restored_otherwise(self, opponent: Opponent) -> Opponent:
        """With restoration if the run does without, without if it has one."""
        if self._strategy.restoration == "none" and any(
            map(is_normalization_statistic, self._names)
        ):
            note = "normalization statistics from each hospital's own unlabelled images"
            changes: dict[str, Any] = {
                "group": "restored",
                "restoration": "statistics",
                "restoration_steps": 0,
            }
        elif self._strategy.restoration == "none":
            note = f"{RESTORATION_STEPS} labelled steps at each hospital"
            changes = {
                "group": "restored",
                "restoration": "steps",
                "restoration_steps": RESTORATION_STEPS,
            }
        else:
            note, changes = (
                "no restoration",
                {"group": "unrestored", "restoration": "none", "restoration_steps": 0},
            )
        return replace(opponent, name=f"{opponent.name}.{changes['group']}", note=note, **changes)

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

    def _score(self, rule: Rule, grid: Grid) -> float:
        """The mean over the hospitals that are here."""
        weights = pack(self._publisher.merge(rule), self._names)
        order = replace(self._order, arm=self._arm)
        replies = grid.send_and_receive(
            [ask_for_score(order, weights, node) for node in grid.get_node_ids()]
        )
        return fmean(float(metrics_from_reply(reply)["score"]) for reply in replies)
