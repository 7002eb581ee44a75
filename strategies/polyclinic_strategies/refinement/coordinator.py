"""A refinement strategy within a run: a base in rounds, contributions at leisure, the choice of a recipe, a model for each hospital."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from polyclinic.config.compose import instantiate, load_config
from polyclinic.config.schemas import Config
from polyclinic.errors import ConfigError, RunError
from polyclinic.federation.attendance import Attendance, Member
from polyclinic.federation.coordinator import RunContext
from polyclinic.federation.events import ArmEnd, Note
from polyclinic.federation.final_test import (
    RETURN_S,
    FinalTest,
    announce,
    list_before,
    record_as,
    task_of,
)
from polyclinic.federation.jobs import describe_model, make_order, start_network
from polyclinic.federation.records import metrics_from_reply
from polyclinic.federation.reliable_grid import ReliableGrid
from polyclinic.federation.run_folder import write_whole
from polyclinic.learning.state_dict import (
    StateDict,
    load_state,
    pack,
    save_state,
    shared_names,
    unpack,
)
from polyclinic.store.ledger import Ledger
from polyclinic_strategies.averaging.strategy import Averaging
from polyclinic_strategies.merging.messages import Assignment, ask_for_score
from polyclinic_strategies.refinement.choice import Tried, try_recipes
from polyclinic_strategies.refinement.events import JOIN, Delivered, Recalculated
from polyclinic_strategies.refinement.loop import RefinementLoop
from polyclinic_strategies.refinement.offline import CHOICE, read_choice
from polyclinic_strategies.refinement.refine import Recipe, Refinement
from polyclinic_strategies.refinement.refiner import Refiner
from polyclinic_strategies.refinement.strategy import Refining

CENTRE = "centre"  # the arm of the model that everybody would get


class Everybody:
    """Attendance with the hospitals that only describe themselves."""

    def __init__(self, attendance: Attendance) -> None:
        self._attendance = attendance

    def refresh(self) -> Mapping[str, Member]:
        """Everybody who is online, by site."""
        return self._attendance.refresh_all()

    def current(self, site: str) -> Member | None:
        """A site's newest node, online or not."""
        return self._attendance.current(site)

    def site_of(self, node: int) -> str:
        """The site behind a node."""
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
            ConfigError: No pass is left for contributions.
        """
        if not 0 <= self._refining.base_rounds < self._config.rounds:
            raise ConfigError(
                f"strategy.base_rounds={self._refining.base_rounds}: at least 0, and less than "
                f"rounds={self._config.rounds}."
            )

    def run(self, context: RunContext) -> None:
        """Run until there is nothing more to stay for.

        Raises:
            RunError: Nobody contributed, or no recipe could be chosen.
        """
        context.folder.update(state="running")
        RefinementRun(context, self._refining).run()


class RefinementRun:
    """One refinement strategy while it runs.

    Args:
        context: What it works with.
        refining: How to refine.
    """

    def __init__(self, context: RunContext, refining: Refining) -> None:
        config = context.config
        self._grid = context.grid
        self._attendance = context.attendance
        self._folder = context.folder
        self._config = config
        # figures are taken from whoever is here
        self._patience = replace(config.deployment, min_hospitals=1)
        self._network = start_network(config)
        self._names = shared_names(self._network, "none")
        self._normalization = sorted(set(self._names) - set(shared_names(self._network, "norm")))
        self._refining = refining
        self._merging = refining.merging()
        self._expected = self._merging.expected_contributions(config.deployment)
        self._order = make_order(self._folder, config, self._network)

    def run(self) -> None:
        """Until there is nothing more to stay for."""
        announce(self._folder, self._order, self._refining.title, self._expected)
        self._tell_privacy()
        with Ledger.open(self._merging.ledger_folder(self._folder.path)) as ledger:
            base = self._base(ledger)
            digest = ledger.add_base(base, json.dumps(describe_model(self._order, 0, False)))
            loop = RefinementLoop(
                self._refining, self._grid, Everybody(self._attendance), ledger, self._assignment(digest, ledger), self._names,
                self._expected, self._folder.record,
            )  # fmt: skip
            loop.refiner = Refiner(loop.publisher, self._normalization)
            chosen = (
                ledger.folder / CHOICE
            ).exists()  # then the first phase is over, even if somebody has left since
            if chosen:  # those that are here get their models first; nobody has to be
                self._attendance.wait_for(
                    len(loop.refiner.contributors()),
                    0,
                    min(RETURN_S, self._config.deployment.wait_s),
                )
            elif loop.run() is None:
                raise RunError(
                    "The run is over by its configuration, but no hospital has contributed. See events.jsonl for refusals."
                )
            recipe, own = self._choose(ledger, loop.refiner)
            self._test(loop.refiner, ledger, own)
            self._draw(loop.refiner, recipe)
            loop.count(*self._history())
            stay = self._refining.make_stay()
            if not stay.any:
                self._folder.record(
                    Note(
                        text="the run ends with these models; strategy.stay.seconds=N keeps it open for newcomers"
                    )
                )
            loop.stay(recipe, own, stay)
            self._draw(loop.refiner, recipe)
        self._folder.record(ArmEnd(arm=self._order.arm))

    def _history(self) -> tuple[set[str], int]:
        """Newcomers that this run has served already, and how many hospitals have left it."""
        events = self._folder.events()
        served = {
            event.site for event in events if isinstance(event, Delivered) and event.why == JOIN
        }
        gone = sum(len(event.gone) for event in events if isinstance(event, Recalculated))
        return served, gone

    def _tell_privacy(self) -> None:
        """What the noise on descriptions promises to each subject."""
        release, releases = self._config.privacy["release"], len(self._refining.statistics)
        if release.noise_multiplier > 0:
            told = [
                f"epsilon {release.epsilon(count):.2f} for {who}"
                for count, who in ((releases, "contributors"), (1, "newcomers"))
            ]
            self._folder.record(
                Note(text=f"descriptions are noisy: {', '.join(told)}, delta {release.delta:g}")
            )

    def _assignment(self, base: str, ledger: Ledger) -> Assignment:
        passes = replace(
            self._order, round=0, rounds=self._order.rounds - self._refining.base_rounds
        )
        release = self._config.privacy["release"]
        names = tuple(sorted({*self._merging.statistics, *self._refining.statistics}))
        return Assignment(
            passes,
            base,
            task_of(self._config),
            ledger.identity(),
            names,
            release.min_subjects,
            release.noise_multiplier,
        )

    def _base(self, ledger: Ledger) -> StateDict:
        """What everybody starts from: the ledger's base if it has one, else what a few rounds of averaging make."""
        if ledger.bases():
            found = ledger.load_model(ledger.bases()[-1])
            if set(found) != set(self._names):
                raise ConfigError(
                    f"{ledger.folder}: its base is of another network than model={self._config.choices['model']}."
                )
            return found
        rounds, path = (
            self._refining.base_rounds,
            self._folder.path / "arms" / self._order.arm / "base.safetensors",
        )
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
        return {
            name: tensor.float()
            for name, tensor in unpack(weights, self._network.state_dict(), self._names).items()
        }

    def _average(self, weights: Any, done: int, path: Path) -> Any:
        """Rounds of averaging; what they came to is kept after each."""
        averaging: Averaging = instantiate(
            load_config(["strategy=averaging/fedavg"]).strategy, _recursive_=False
        )
        order = replace(self._order, rounds=self._refining.base_rounds, offset=done)

        def keep(number: int, latest: Any) -> None:
            state = {
                **self._network.state_dict(),
                **unpack(latest, self._network.state_dict(), self._names),
            }
            save_state(
                state, path, {"polyclinic": json.dumps(describe_model(order, number, False))}
            )
            self._folder.record(Note(text=f"base, round {number} of {order.rounds} is averaged"))

        grid = ReliableGrid(
            self._grid,
            self._attendance,
            self._config.deployment,
            record_as(self._folder, f"{self._order.arm}.base"),
        )
        return averaging.run(
            grid, averaging.build(self._config.privacy, self._names), order, weights, keep
        )

    def _choose(self, ledger: Ledger, refiner: Refiner) -> tuple[Recipe, Recipe]:
        """The recipe for newcomers, and that for contributors: kept beside the ledger, so it is chosen once."""
        path = ledger.folder / CHOICE
        if path.exists():
            return read_choice(path)
        here = [site for site in self._attendance.refresh() if site in refiner.contributors()]
        usable = [
            recipe
            for recipe in self._refining.recipes()
            if recipe.statistic in refiner.statistics()
        ]
        if len(refiner.contributors()) < 2 or not here or not usable:
            raise RunError(
                "To choose a recipe, two hospitals must have contributed and described themselves, and one must be online."
            )

        def score(wanted: Mapping[str, Refinement]) -> Mapping[str, float]:
            return self._score(refiner, wanted)

        self._folder.record(
            Note(text=f"trying {len(usable)} recipes on hospitals left out in turn")
        )
        left_out = try_recipes(
            usable, here, lambda site, each: refiner.coefficients(site, each, leave_out=True), score
        )
        if math.isnan(left_out[0].mean):
            raise RunError(
                "To choose a recipe, one hospital must score every model that is tried. See events.jsonl for failures."
            )
        own = try_recipes(
            self._refining.own_recipes(left_out[0].recipe), here, refiner.coefficients, score
        )
        staleness = {
            "max_staleness": self._merging.max_staleness,
            "staleness_discount": self._merging.staleness_discount,
        }
        kept = {
            "normalization": self._normalization,
            **staleness,
            "left_out": list(map(_plain, left_out)),
            "own": list(map(_plain, own)),
        }
        write_whole(path, json.dumps(kept, indent=1))
        self._folder.record(
            Note(text=f"newcomers: {left_out[0].recipe}; contributors: {own[0].recipe}")
        )
        return left_out[0].recipe, own[0].recipe

    def _score(self, refiner: Refiner, wanted: Mapping[str, Refinement]) -> dict[str, float]:
        grid = ReliableGrid(self._grid, self._attendance, self._patience, lambda _event: None)
        nodes = {
            site: member.node
            for site, member in self._attendance.refresh().items()
            if site in wanted
        }
        order = replace(self._order, round=0)
        replies = grid.send_and_receive(
            [
                ask_for_score(order, pack(refiner.model(wanted[site]), self._names), node)
                for site, node in nodes.items()
            ]
        )
        by_node = {node: site for site, node in nodes.items()}
        return {
            by_node[reply.metadata.src_node_id]: float(metrics_from_reply(reply)["score"])
            for reply in replies
        }

    def _test(self, refiner: Refiner, ledger: Ledger, own: Recipe) -> None:
        """Final figures of the centre and of each hospital's own model; what was tested before a restart is not tested again."""
        centre = ledger.load_model(ledger.publications()[-1].digest)
        weights = pack(centre, self._names)
        list_before(self._folder, self._order.arm, {"name": CENTRE, "title": self._merging.title})
        test = FinalTest(self._folder, self._grid, self._attendance, self._config.deployment)
        test.run(replace(self._order, arm=CENTRE), lambda _site: weights)
        self._keep(CENTRE, centre)
        contributors = refiner.contributors()

        def own_model(site: str) -> Tensor | None:
            return (
                pack(refiner.model(refiner.coefficients(site, own)), self._names)
                if site in contributors
                else None
            )

        test.run(self._order, own_model)

    def _keep(self, name: str, state: StateDict) -> None:
        described = describe_model(replace(self._order, arm=name), self._order.rounds, True)
        whole = {**self._network.state_dict(), **state}
        save_state(
            whole,
            self._folder.path / "arms" / name / "model.safetensors",
            {"polyclinic": json.dumps(described)},
        )

    def _draw(self, refiner: Refiner, recipe: Recipe) -> None:
        """What the report shows of who is near whom."""
        sites, distances = refiner.matrix(recipe.statistic)
        contributors = refiner.contributors()
        coefficients = {
            site: refiner.coefficients(site, recipe, leave_out=contributors != [site])
            for site in sites
        }
        choice = json.loads((self._merging.ledger_folder(self._folder.path) / CHOICE).read_text())
        self._folder.update(
            refinement={
                "statistic": recipe.statistic, "recipe": str(recipe), "sites": sites, "contributors": contributors, "distances": distances,
                "coefficients": {site: dict(each.coefficients) for site, each in coefficients.items()},
                "fallback": {site: each.fallback for site, each in coefficients.items() if each.fallback},
                "choice": {key: [{"recipe": each["words"], "mean": each["mean"]} for each in choice[key]] for key in ("left_out", "own")},
            }
        )  # fmt: skip


def _plain(tried: Tried) -> dict[str, Any]:
    return {
        "recipe": asdict(tried.recipe),
        "words": str(tried.recipe),
        "mean": tried.mean,
        "scores": dict(tried.scores),
    }
