"""Merging at the coordinator: from the ledger to the published model, its figures and its rivals'."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor

from polyclinic.config.compose import instantiate, load_config
from polyclinic.config.schemas import Config
from polyclinic.errors import ConfigError, RunError
from polyclinic.federation.coordinator import RunContext
from polyclinic.federation.events import ArmEnd, Asked, Event, Note
from polyclinic.federation.final_test import FinalTest, announce, task_of
from polyclinic.federation.jobs import arm_name, describe_model, make_order, start_network
from polyclinic.federation.records import Order
from polyclinic.federation.reliable_grid import ReliableGrid
from polyclinic.federation.run_folder import read_lines
from polyclinic.learning.state_dict import StateDict, pack, save_state, shared_names
from polyclinic.store.ledger import Ledger
from polyclinic_strategies.merging.comparison import Comparison, Opponent
from polyclinic_strategies.merging.event_loop import EventLoop
from polyclinic_strategies.merging.messages import Assignment, ask_for_score
from polyclinic_strategies.merging.publisher import make_rules
from polyclinic_strategies.merging.strategy import Merging

MOST_SCORED_AGAIN = 12  # publications, at the end


class MergingCoordinator:
    """Coordinator of one strategy whose hospitals contribute whenever they like.

    Args:
        config: Configuration of the strategy.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._strategy: Merging = instantiate(config.strategy, _recursive_=False)

    @property
    def title(self) -> str:
        """Name of the strategy in tables."""
        return self._strategy.title

    def check(self) -> None:
        """Do nothing: settings are checked when the strategy is made."""

    def run(self, context: RunContext) -> None:
        """Merge until the configured end, then test the model and its rivals.

        Raises:
            RunError: Nobody contributed.
        """
        context.folder.update(state="running")
        MergingRun(context, self._strategy).run()


class MergingRun:
    """One merging strategy while it runs.

    Args:
        context: What it works with.
        strategy: How to merge.
    """

    def __init__(self, context: RunContext, strategy: Merging) -> None:
        config = context.config
        self._grid = context.grid
        self._attendance = context.attendance
        self._folder = context.folder
        self._config = config
        self._overrides = [text for text in context.overrides if not text.startswith("strategy")]
        # scores are taken from whoever is here
        self._patience = replace(config.deployment, min_hospitals=1)
        self._final = FinalTest(self._folder, self._grid, self._attendance, config.deployment)
        self._network = start_network(config)
        self._names = shared_names(self._network, "none")
        self._strategy = strategy
        self._order = make_order(self._folder, config, self._network)
        self._expected = strategy.expected_contributions(config.deployment)

    def run(self) -> None:
        """Run to the end; what was tested before a restart is not tested again."""
        announce(self._folder, self._order, self._strategy.title, self._expected)
        with Ledger.open(self._strategy.ledger_folder(self._folder.path)) as ledger:
            initial = {
                name: self._network.state_dict()[name].detach().float() for name in self._names
            }
            base = ledger.add_base(initial, json.dumps(describe_model(self._order, 0, False)))
            rivals = {arm_name(each): each for each in self._rivals()}
            assignment = Assignment(
                replace(self._order, round=0),
                base,
                task_of(self._config),
                ledger.identity(),
                self._statistics(rivals),
            )
            loop = EventLoop(
                self._strategy,
                self._grid,
                self._attendance,
                ledger,
                assignment,
                self._names,
                self._expected,
                self._folder.record,
            )
            if loop.run() is None:
                raise RunError(
                    "The run is over by its configuration, but no hospital has contributed. See events.jsonl for refusals."
                )
            self._backfill(ledger)
            merged = ledger.load_model(ledger.publications()[-1].digest)
            comparison = Comparison(
                self._strategy, loop.publisher, self._order.arm, self._order, self._names
            )
            self._test(comparison.merged(merged))
            self._compare(comparison, rivals, merged)
        self._folder.record(ArmEnd(arm=self._order.arm))

    def _rivals(self) -> list[Config]:
        """Configurations of the strategies that are compared at the end."""
        return [
            load_config([*self._overrides, f"strategy=merging/{name}"])
            for name in self._strategy.compare
        ]

    def _statistics(self, rivals: Mapping[str, Config]) -> tuple[str, ...]:
        """What hospitals send besides their task vector: what is configured, and what any of the rules needs."""
        wanted = set(self._strategy.statistics)
        for config in [self._config, *rivals.values()]:
            wanted |= make_rules(config.strategy["rule"], {})[0].needs
        return tuple(sorted(wanted))

    def _backfill(self, ledger: Ledger) -> None:
        """Let the hospitals score earlier publications that they were not there for, so that the curve compares like with like.

        Of many publications it is a few, evenly spread, the newest among them: everybody scoring everything would take longer than merging.
        """
        arm = self._order.arm
        lines = [
            line
            for line in read_lines(self._folder.path / "metrics.jsonl")
            if line["arm"] == arm and line["phase"] == "validate"
        ]
        scored = {(line["round"], line["site"]) for line in lines}
        publications = ledger.publications()
        step = -(-len(publications) // MOST_SCORED_AGAIN)
        for publication in publications[::-1][::step][::-1]:
            weights = pack(ledger.load_model(publication.digest), self._names)
            order = replace(
                self._order,
                restoration=self._strategy.restoration,
                restoration_steps=self._strategy.restoration_steps,
            )
            sites = [
                site
                for site in self._attendance.refresh()
                if (publication.number, site) not in scored
            ]
            grid = ReliableGrid(
                self._grid, self._attendance, self._patience, self._scores_of(publication.number)
            )
            if sites:
                grid.send_and_receive(
                    [ask_for_score(order, weights, self._node(site)) for site in sites]
                )

    def _scores_of(self, number: int) -> Callable[[Event], None]:
        """Turns a candidate's figures into those of a publication."""

        def tell(event: Event) -> None:
            if not isinstance(event, Asked):
                self._folder.record(event.model_copy(update={"phase": "evaluate", "round": number}))

        return tell

    def _compare(
        self, comparison: Comparison, rivals: Mapping[str, Config], merged: StateDict
    ) -> None:
        """The opponents' final figures."""
        for name, config in rivals.items():
            if not self._final.is_done(name):  # choosing its parameters takes long
                rule, candidates = config.strategy["rule"], config.strategy.get("candidates") or {}
                try:
                    opponent = comparison.rule(
                        name, str(config.strategy["title"]), rule, candidates, self._quiet_grid()
                    )
                except ConfigError as error:  # Krum, say, needs more hospitals
                    self._folder.record(
                        Note(text=f"{config.strategy['title']} is not compared: {error}")
                    )
                    continue
                self._test(opponent)
        if self._strategy.controls:
            for opponent in comparison.controls(merged):
                self._test(opponent)

    def _test(self, opponent: Opponent) -> None:
        """One opponent's final figures at every hospital that is here, unless they are known already."""
        self._introduce(opponent)
        order = replace(
            self._order,
            arm=opponent.name,
            restoration=opponent.restoration,
            restoration_steps=opponent.restoration_steps,
        )
        if opponent.group != "local" and not self._final.is_done(
            opponent.name
        ):  # there is one model for everybody
            self._keep(opponent, order)

        def weights_for(site: str) -> Tensor | None:
            state = opponent.state_for(site)
            return None if state is None else pack(state, self._names)

        self._final.run(order, weights_for)

    def _keep(self, opponent: Opponent, order: Order) -> None:
        state = {**self._network.state_dict(), **opponent.state_for("")}  # type: ignore[dict-item]
        described = {
            **describe_model(order, order.rounds, True),
            "restoration": opponent.restoration,
        }
        path = self._folder.path / "arms" / opponent.name / "model.safetensors"
        save_state(state, path, {"polyclinic": json.dumps(described)})

    def _introduce(self, opponent: Opponent) -> None:
        """List an opponent in run.json."""
        described = self._folder.describe()
        arms = described["arms"]
        if opponent.group == "local" and all(arm["name"] != "local" for arm in arms):
            self._folder.update(
                arms=[*arms, {"name": "local", "title": opponent.title, "note": opponent.note}]
            )
        if opponent.group in ("local", "main"):
            return
        entries = described.get("comparison", {}).get("entries", [])
        entry = {
            "name": opponent.name,
            "title": opponent.title,
            "group": opponent.group,
            "note": opponent.note,
        }
        kept = [each for each in entries if each["name"] != opponent.name]
        self._folder.update(comparison={"arm": self._order.arm, "entries": [*kept, entry]})

    def _quiet_grid(self) -> ReliableGrid:
        """For scores that are a means to an end."""
        return ReliableGrid(self._grid, self._attendance, self._patience, lambda _event: None)

    def _node(self, site: str) -> int:
        member = self._attendance.current(site)
        assert member is not None
        return member.node
