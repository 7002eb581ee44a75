"""Merging at the coordinator: contributions, published models, and the final comparison."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor

from polyclinic.config.compose import instantiate, load_config
from polyclinic.config.schemas import Config
from polyclinic.errors import ConfigError, RunError
from polyclinic.federation.coordinator import RunContext
from polyclinic.federation.events import ArmEnd, Asked, Event, Note
from polyclinic.federation.final_test import FinalTest, record_start, task_of
from polyclinic.federation.grids.reliable_grid import ReliableGrid
from polyclinic.federation.jobs import arm_name, describe_model, make_order, start_network
from polyclinic.federation.metrics import FILE as METRICS
from polyclinic.federation.metrics import read_metrics
from polyclinic.federation.records import Order
from polyclinic.learning.state_dict import StateDict, pack, save_state, shared_names
from polyclinic.store.ledger import Ledger
from polyclinic_strategies.merging.arithmetic.configured import rules_of
from polyclinic_strategies.merging.batches.checks import (
    by_members,
    check_batches,
    describe_batches,
)
from polyclinic_strategies.merging.batches.loop import BatchLoop
from polyclinic_strategies.merging.comparison import Comparison, Opponent
from polyclinic_strategies.merging.event_loop import EventLoop
from polyclinic_strategies.merging.messages import Assignment, ask_for_score
from polyclinic_strategies.merging.strategy import Merging

MOST_SCORED_AGAIN = 12  # upper limit of publications that are scored again at the end


class MergingCoordinator:
    """Coordinator of one strategy in which hospitals contribute at any time.

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
        """Refuse what secure sums cannot do; else settings are checked when the strategy is made.

        Raises:
            ConfigError: The strategy needs single contributions.
        """
        if (sums := self._config.privacy.get("sums")) is not None:
            check_batches(self._strategy, sums)

    def run(self, context: RunContext) -> None:
        """Merge until the configured end, then test the model and those it is compared with.

        Raises:
            RunError: Nobody contributed.
        """
        context.folder.update(state="running")
        MergingRun(context, self._strategy).run()


class MergingRun:
    """The run of one merging strategy.

    Args:
        context: Grid, hospitals, folder and configuration of the run.
        strategy: How to merge.
    """

    def __init__(self, context: RunContext, strategy: Merging) -> None:
        config = context.config
        self._grid = context.grid
        self._attendance = context.attendance
        self._folder = context.folder
        self._config = config
        self._overrides = [text for text in context.overrides if not text.startswith("strategy")]
        # scores are taken from the hospitals that are online, however few
        self._deployment = replace(config.deployment, min_hospitals=1)
        self._final = FinalTest(self._folder, self._grid, self._attendance, config.deployment)
        self._network = start_network(config)
        self._names = shared_names(self._network, "none")
        self._sums = config.privacy.get("sums")
        strategy = strategy.for_network(self._names)
        self._strategy = strategy if self._sums is None else by_members(strategy)
        self._order = make_order(self._folder, config, self._network)
        self._expected = strategy.expected_contributions(config.deployment)

    def run(self) -> None:
        """Run the strategy to its end; do not repeat tests that were made before a restart.

        Raises:
            RunError: Nobody contributed.
        """
        record_start(self._folder, self._order, self._strategy.title, self._expected)
        with Ledger.open(self._strategy.ledger_folder(self._folder.path)) as ledger:
            initial = {
                name: self._network.state_dict()[name].detach().float() for name in self._names
            }
            base = ledger.add_base(initial, json.dumps(describe_model(self._order, 0, False)))
            rivals = {arm_name(each): each for each in self._rivals()}
            release = self._config.privacy["release"]
            assignment = Assignment(
                replace(self._order, round=0),
                base,
                task_of(self._config),
                ledger.identity(),
                self._statistics(rivals),
                release.min_subjects,
                release.noise_multiplier,
                summed=self._sums is not None,
                rank=self._strategy.rank,
            )
            loop = self._make_loop(ledger, assignment)
            loop.mailbox.patience_s = self._deployment.round_timeout_s
            if loop.run() is None:
                raise RunError(
                    "The run has reached its configured end, but no hospital has contributed. "
                    f"See {self._folder.path / 'events.jsonl'} for refusals."
                )
            self._score_earlier(ledger)
            merged = ledger.load_model(ledger.publications()[-1].digest)
            comparison = Comparison(
                self._strategy, loop.publisher, self._order.arm, self._order, self._names
            )
            self._test(comparison.merged(merged))
            self._compare(comparison, rivals, merged)
        self._folder.record(ArmEnd(arm=self._order.arm))

    def _make_loop(self, ledger: Ledger, assignment: Assignment) -> EventLoop:
        """Make the loop that waits for contributions, or for batches of them."""
        more = (
            self._strategy,
            self._grid,
            self._attendance,
            ledger,
            assignment,
            self._names,
            self._expected,
            self._folder.record,
        )
        if self._sums is None:
            return EventLoop(*more)
        self._folder.record(Note(text=describe_batches(self._sums)))
        grid, delta = self._make_grid(self._folder.record), self._config.privacy["release"].delta
        return BatchLoop(self._sums, grid, delta, *more)

    def _rivals(self) -> list[Config]:
        """Return the configurations of the strategies that are compared at the end."""
        return [
            load_config([*self._overrides, f"strategy=merging/{name}"])
            for name in self._strategy.compare
        ]

    def _statistics(self, rivals: Mapping[str, Config]) -> tuple[str, ...]:
        """Return the names of the statistics that hospitals send besides their task vector.

        They are those in the configuration, and those that any of the compared rules needs.
        """
        wanted = set(self._strategy.statistics)
        for config in [self._config, *rivals.values()]:
            for rule in rules_of(config.strategy):
                wanted |= rule.needs
        return tuple(sorted(wanted))

    def _score_earlier(self, ledger: Ledger) -> None:
        """Have the hospitals score the publications that they have not scored yet.

        Every point of the curve is then a mean over the same hospitals. At most `MOST_SCORED_AGAIN`
        publications are scored, evenly spread and with the newest, to limit the time.
        """
        arm = self._order.arm
        figures, _ = read_metrics(self._folder.path / METRICS)
        scored = {
            (figure.round, figure.site)
            for figure in figures
            if figure.arm == arm and figure.phase == "validate"
        }
        publications = ledger.publications()
        step = -(-len(publications) // MOST_SCORED_AGAIN)
        for publication in publications[::-1][::step][::-1]:
            weights = pack(ledger.load_model(publication.digest), self._names)
            order = replace(
                self._order,
                restoration=self._strategy.restoration,
                restoration_steps=self._strategy.restoration_steps,
            )
            number = publication.number
            sites = [site for site in self._attendance.refresh() if (number, site) not in scored]
            if sites:
                questions = [ask_for_score(order, weights, self._node(site)) for site in sites]
                self._make_grid(self._record_scores_of(number)).ask_for_figures(questions)

    def _record_scores_of(self, number: int) -> Callable[[Event], None]:
        """Return a function that records answers as figures of a publication."""

        def record(event: Event) -> None:
            if not isinstance(event, Asked):
                self._folder.record(event.model_copy(update={"phase": "evaluate", "round": number}))

        return record

    def _compare(
        self, comparison: Comparison, rivals: Mapping[str, Config], merged: StateDict
    ) -> None:
        """Test the models that the strategy is compared with."""
        for name, config in rivals.items():
            if self._final.is_done(name):  # do not choose its parameters again: that takes long
                continue
            title, rules = str(config.strategy["title"]), rules_of(config.strategy)
            try:
                opponent = comparison.rule(name, title, rules, self._silent_grid())
            except ConfigError as error:  # the rule needs more hospitals, as Krum does
                self._folder.record(Note(text=f"{title} is not compared: {error}"))
                continue
            self._test(opponent)
        if self._strategy.controls:
            for opponent in comparison.controls(merged):
                self._test(opponent)

    def _test(self, opponent: Opponent) -> None:
        """Test a model at every hospital that is online, unless it was tested before."""
        self._list(opponent)
        order = replace(
            self._order,
            arm=opponent.name,
            restoration=opponent.restoration,
            restoration_steps=opponent.restoration_steps,
        )
        shared = opponent.group != "local"  # one model for all hospitals
        if shared and not self._final.is_done(opponent.name):
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

    def _list(self, opponent: Opponent) -> None:
        """List a model in run.json."""
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

    def _silent_grid(self) -> ReliableGrid:
        """Make a grid for scores that do not belong into the run's figures."""
        return self._make_grid(lambda _event: None)

    def _make_grid(self, on_event: Callable[[Event], None]) -> ReliableGrid:
        return ReliableGrid(self._grid, self._attendance, self._deployment, on_event)

    def _node(self, site: str) -> int:
        member = self._attendance.current(site)
        assert member is not None
        return member.node
