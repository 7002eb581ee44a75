"""Refinement at the coordinator: a model for every hospital.

A run makes a base in rounds of averaging, collects contributions without rounds, chooses a recipe,
and sends every hospital the model that the recipe makes for it.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from polyclinic.config.compose import instantiate, load_config
from polyclinic.config.schemas import Config
from polyclinic.describing.statistics import with_variances
from polyclinic.errors import ConfigError, RunError
from polyclinic.federation.attendance import Attendance, Member
from polyclinic.federation.coordinator import RunContext
from polyclinic.federation.events import ArmEnd, Note
from polyclinic.federation.final_test import (
    RETURN_S,
    FinalTest,
    list_before,
    record_as,
    record_start,
    task_of,
)
from polyclinic.federation.grids.reliable_grid import ReliableGrid
from polyclinic.federation.jobs import describe_model, make_order, start_network
from polyclinic.learning.state_dict import (
    StateDict,
    load_state,
    pack,
    save_state,
    shared_names,
    unpack,
)
from polyclinic.store.ledger import Ledger
from polyclinic.system.durable import write_atomically
from polyclinic_strategies.averaging.strategy import Averaging
from polyclinic_strategies.merging.messages import Assignment, ask_for_score
from polyclinic_strategies.refinement.choice import (
    Tried,
    best_statistic,
    decide,
    decide_for_each,
    try_recipes,
)
from polyclinic_strategies.refinement.events import JOIN, Delivered, Recalculated
from polyclinic_strategies.refinement.loop import RefinementLoop
from polyclinic_strategies.refinement.offline import (
    CHOICE,
    Choice,
    KeptDecision,
    read_choice,
)
from polyclinic_strategies.refinement.refine import Recipe, Refinement
from polyclinic_strategies.refinement.refiner import Refiner
from polyclinic_strategies.refinement.strategy import Refining

CENTRE = "centre"  # name of the merged model, which is the same for all hospitals
NO_CONTRIBUTION = (
    "The run has reached its configured end, but no hospital has contributed. See {} for refusals."
)


class AllMembers:
    """The hospitals of a run, also those that only describe their images.

    Args:
        attendance: Hospitals of the run.
    """

    def __init__(self, attendance: Attendance) -> None:
        self._attendance = attendance

    def refresh(self) -> Mapping[str, Member]:
        """Update the list, and return the members that are online, by site."""
        return self._attendance.refresh_all()

    def current(self, site: str) -> Member | None:
        """Return a site's newest node, online or not; None if the site is unknown."""
        return self._attendance.current(site)

    def site_of(self, node: int) -> str:
        """Return the site of a node."""
        return self._attendance.site_of(node)


class RefinementCoordinator:
    """Coordinator of one strategy that makes a model for every hospital.

    Args:
        config: Configuration of the strategy.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._refining: Refining = instantiate(config.strategy, _recursive_=False)

    @property
    def title(self) -> str:
        """Name of the strategy in tables."""
        return self._refining.title

    def check(self) -> None:
        """Refuse a base that takes all rounds.

        Raises:
            ConfigError: No round is left for contributions.
        """
        warm = self._refining.warm_rounds(self._config.rounds)
        if not 0 <= warm < self._config.rounds:
            raise ConfigError(
                f"strategy.base_rounds={warm} must be at least 0 and less "
                f"than rounds={self._config.rounds}."
            )

    def run(self, context: RunContext) -> None:
        """Run the strategy until the conditions in `strategy.stay` are met.

        Raises:
            RunError: Nobody contributed, or no recipe could be chosen.
        """
        context.folder.update(state="running")
        RefinementRun(context, self._refining).run()


class RefinementRun:
    """The run of one refinement strategy.

    Args:
        context: Grid, hospitals, folder and configuration of the run.
        refining: How to refine.
    """

    def __init__(self, context: RunContext, refining: Refining) -> None:
        config = context.config
        self._grid = context.grid
        self._attendance = context.attendance
        self._folder = context.folder
        self._config = config
        # figures are taken from the hospitals that are online, however few
        self._deployment = replace(config.deployment, min_hospitals=1)
        self._network = start_network(config)
        self._names = shared_names(self._network, "none")
        self._normalization = sorted(set(self._names) - set(shared_names(self._network, "norm")))
        self._refining = refining
        self._warm = refining.warm_rounds(config.rounds)
        self._cases: dict[str, int] = {}  # validation cases of each hospital
        self._merging = refining.merging()
        self._expected = self._merging.expected_contributions(config.deployment)
        self._order = make_order(self._folder, config, self._network)

    def run(self) -> None:
        """Run the strategy to its end.

        Raises:
            RunError: Nobody contributed, or no recipe could be chosen.
        """
        record_start(self._folder, self._order, self._refining.title, self._expected)
        self._record_privacy()
        with Ledger.open(self._merging.ledger_folder(self._folder.path)) as ledger:
            loop = self._make_loop(ledger)
            # a chosen recipe ends the first phase, even if a hospital has left since
            if (ledger.folder / CHOICE).exists():
                known = len(loop.refiner.contributors())
                self._attendance.wait_for(known, 0, min(RETURN_S, self._config.deployment.wait_s))
            elif loop.run() is None:
                raise RunError(NO_CONTRIBUTION.format(self._folder.path / "events.jsonl"))
            choice = self._choose(ledger, loop.refiner)
            recipe, own = choice.recipes
            self._test(loop.refiner, ledger, choice)
            self._draw(loop.refiner, recipe)
            loop.count(*self._history())
            stay = self._refining.make_stay()
            if not stay.any:
                self._note(
                    "the run ends with these models; strategy.stay.seconds=N keeps it open for "
                    "newcomers"
                )
            loop.stay(recipe, own, stay, choice.exceptions)
            self._draw(loop.refiner, recipe)
        self._folder.record(ArmEnd(arm=self._order.arm))

    def _make_loop(self, ledger: Ledger) -> RefinementLoop:
        base = self._base(ledger)
        digest = ledger.add_base(base, json.dumps(describe_model(self._order, 0, False)))
        loop = RefinementLoop(
            self._refining,
            self._grid,
            AllMembers(self._attendance),
            ledger,
            self._assignment(digest, ledger),
            self._names,
            self._expected,
            self._folder.record,
        )
        loop.mailbox.patience_s = self._deployment.round_timeout_s
        loop.refiner = Refiner(loop.publisher, self._normalization)
        return loop

    def _note(self, text: str) -> None:
        self._folder.record(Note(text=text))

    def _history(self) -> tuple[set[str], int]:
        """Return the newcomers that got a model in this run, and how many hospitals have left."""
        events = self._folder.events()
        served = {
            event.site for event in events if isinstance(event, Delivered) and event.why == JOIN
        }
        gone = sum(len(event.gone) for event in events if isinstance(event, Recalculated))
        return served, gone

    def _record_privacy(self) -> None:
        """Record the differential privacy that the noise on descriptions gives each subject."""
        release = self._config.privacy["release"]
        releases = len(with_variances(self._refining.statistics))
        if release.noise_multiplier > 0:
            told = [
                f"epsilon {release.epsilon(count):.2f} for {who}"
                for count, who in ((releases, "contributors"), (2, "newcomers, at most"))
            ]
            self._note(f"descriptions are noisy: {', '.join(told)}, delta {release.delta:g}")

    def _assignment(self, base: str, ledger: Ledger) -> Assignment:
        rounds = self._order.rounds - self._warm
        release = self._config.privacy["release"]
        return Assignment(
            replace(self._order, round=0, rounds=rounds),
            base,
            task_of(self._config),
            ledger.identity(),
            tuple(sorted({*self._merging.statistics, *self._refining.statistics})),
            release.min_subjects,
            release.noise_multiplier,
            variances=True,
            rank=self._merging.rank,
        )

    def _base(self, ledger: Ledger) -> StateDict:
        """Return the model that contributions start from.

        It is the newest base of the ledger if there is one, else the result of
        `strategy.base_rounds` rounds of averaging.

        Raises:
            ConfigError: The ledger's base is of another network.
        """
        rounds = self._warm
        path = self._folder.path / "arms" / self._order.arm / "base.safetensors"
        if ledger.bases():
            if rounds and not path.exists():
                self._note(
                    f"the base is the newest one of the ledger; strategy.base_rounds={rounds} are "
                    "not made"
                )
            found = ledger.load_model(ledger.bases()[-1])
            if set(found) != set(self._names):
                model = self._config.choices["model"]
                raise ConfigError(
                    f"{ledger.folder}: its base is of another network than model={model}. "
                    "Choose the model that the ledger was made with, or another ledger."
                )
            return found
        initial, done = self._network.state_dict(), 0
        if path.exists():
            initial, metadata = load_state(path)
            done = int(json.loads(metadata["polyclinic"])["round"])
        weights = pack(initial, self._names)
        if done < rounds:
            deployment = self._config.deployment
            self._attendance.wait_for(
                max(deployment.hospitals, deployment.min_hospitals),
                deployment.min_hospitals,
                deployment.wait_s,
            )
            weights = self._average(weights, done, path)
        state = unpack(weights, self._network.state_dict(), self._names)
        return {name: tensor.float() for name, tensor in state.items()}

    def _average(self, weights: Any, done: int, path: Path) -> Any:
        """Run the rounds of averaging that are not done yet, and save the weights after each."""
        fedavg = load_config(["strategy=averaging/fedavg"]).strategy
        averaging: Averaging = instantiate(fedavg, _recursive_=False)
        order = replace(self._order, rounds=self._warm, offset=done)

        def keep(number: int, latest: Any) -> None:
            state = self._network.state_dict()
            described = json.dumps(describe_model(order, number, False))
            save_state(
                {**state, **unpack(latest, state, self._names)}, path, {"polyclinic": described}
            )
            self._note(f"base, round {number} of {order.rounds} is averaged")

        record = record_as(self._folder, f"{self._order.arm}.base")
        grid = ReliableGrid(self._grid, self._attendance, self._config.deployment, record)
        aggregation = averaging.build(self._config.privacy, self._names)
        return averaging.run(grid, aggregation, order, weights, keep)

    def _choose(self, ledger: Ledger, refiner: Refiner) -> Choice:
        """Choose the recipe for newcomers and the one for contributors.

        The choice is saved in the ledger's folder, and read from there if it is made already.

        Raises:
            RunError: There are too few contributors, or none scored every model.
        """
        path = ledger.folder / CHOICE
        if path.exists():
            return read_choice(path)
        left_out, own = self._try(refiner)
        newcomers, contributors = decide(left_out), decide_for_each(own, self._cases)
        kept = {
            "newcomers": KeptDecision.keep(newcomers).model_dump(),
            "contributors": KeptDecision.keep(contributors).model_dump(),
            "normalization": self._normalization,
            "max_staleness": self._merging.max_staleness,
            "staleness_discount": self._merging.staleness_discount,
            "left_out": list(map(_plain, left_out)),
            "own": list(map(_plain, own)),
        }
        write_atomically(path, json.dumps(kept, indent=1))
        self._note(f"newcomers: {newcomers.tell()}")
        self._note(f"contributors: {contributors.tell()}")
        return read_choice(path)

    def _try(self, refiner: Refiner) -> tuple[list[Tried], list[Tried]]:
        """Score recipes with each hospital left out in turn, then recipes for contributors.

        Returns:
            Both, the best first.
        """
        contributors, described = refiner.contributors(), refiner.statistics()
        online = [site for site in self._attendance.refresh() if site in contributors]
        usable = [each for each in self._refining.recipes() if each.statistic in described]
        if len(contributors) < 2 or not online or not usable:
            raise RunError(
                "To choose a recipe, two hospitals must have contributed and described their "
                "images, and one of them must be online. Resume the run when they are."
            )

        def score(wanted: Mapping[str, Refinement]) -> Mapping[str, float]:
            return self._score(refiner, wanted)

        def leave_out(site: str, recipe: Recipe) -> Refinement:
            return refiner.coefficients(site, recipe, leave_out=True)

        self._note(f"trying {len(usable)} recipes on hospitals left out in turn")
        left_out = try_recipes(usable, online, leave_out, score)
        if math.isnan(left_out[0].mean):
            raise RunError(
                "To choose a recipe, one hospital must score every model that is tried. "
                f"See {self._folder.path / 'events.jsonl'} for failures."
            )
        recipes = self._refining.own_recipes(best_statistic(left_out))
        return left_out, try_recipes(recipes, online, refiner.coefficients, score)

    def _score(self, refiner: Refiner, wanted: Mapping[str, Refinement]) -> dict[str, float]:
        """Return the score of each hospital that is online for the model that is made for it."""
        grid = ReliableGrid(self._grid, self._attendance, self._deployment, lambda _event: None)
        members = self._attendance.refresh().items()
        nodes = {site: member.node for site, member in members if site in wanted}
        order = replace(self._order, round=0)
        questions = [
            ask_for_score(order, pack(refiner.model(wanted[site]), self._names), node)
            for site, node in nodes.items()
        ]
        found = grid.ask_for_figures(questions)
        self._cases |= {site: each.num_examples for site, each in found.items()}
        return {site: each.score for site, each in found.items() if each.score is not None}

    def _test(self, refiner: Refiner, ledger: Ledger, choice: Choice) -> None:
        """Test the merged model, and each contributor's own model."""
        centre = ledger.load_model(ledger.publications()[-1].digest)
        weights = pack(centre, self._names)
        list_before(self._folder, self._order.arm, {"name": CENTRE, "title": self._merging.title})
        test = FinalTest(self._folder, self._grid, self._attendance, self._config.deployment)
        test.run(replace(self._order, arm=CENTRE), lambda _site: weights)
        self._keep(CENTRE, centre)
        contributors = refiner.contributors()

        def own_model(site: str) -> Tensor | None:
            if site not in contributors:
                return None
            recipe = choice.exceptions.get(site, choice.recipes[1])
            return pack(refiner.model(refiner.coefficients(site, recipe)), self._names)

        test.run(self._order, own_model)

    def _keep(self, name: str, state: StateDict) -> None:
        described = describe_model(replace(self._order, arm=name), self._order.rounds, True)
        whole = {**self._network.state_dict(), **state}
        path = self._folder.path / "arms" / name / "model.safetensors"
        save_state(whole, path, {"polyclinic": json.dumps(described)})

    def _draw(self, refiner: Refiner, recipe: Recipe) -> None:
        """Write distances, coefficients and the choice to run.json, for the report's figures."""
        sites, distances = refiner.matrix(recipe.statistic)
        contributors = refiner.contributors()
        made = {
            site: refiner.coefficients(site, recipe, leave_out=contributors != [site])
            for site in sites
        }
        choice = read_choice(self._merging.ledger_folder(self._folder.path) / CHOICE)
        means = {
            key: [{"recipe": each.words, "mean": each.mean} for each in tried]
            for key, tried in (("left_out", choice.left_out), ("own", choice.own))
        }
        decided = {
            key: each.model_dump(mode="json", include={"gain", "error", "loses", "words"})
            | {"recipe": str(each.recipe), "is_common": each.recipe == each.common}
            for key, each in (
                ("newcomers", choice.newcomers),
                ("contributors", choice.contributors),
            )
            if each is not None
        }
        described = {
            "statistic": recipe.statistic,
            "recipe": str(recipe),
            "sites": sites,
            "contributors": contributors,
            "distances": distances,
            "coefficients": {site: dict(each.coefficients) for site, each in made.items()},
            "fallback": {site: each.fallback for site, each in made.items() if each.fallback},
            "choice": {**means, **decided},
        }
        self._folder.update(refinement=described)


def _plain(tried: Tried) -> dict[str, Any]:
    return {
        "recipe": asdict(tried.recipe),
        "words": str(tried.recipe),
        "mean": tried.mean,
        "scores": dict(tried.scores),
    }
