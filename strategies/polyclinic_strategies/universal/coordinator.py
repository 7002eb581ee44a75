"""The universal model within a run: stages of contributions, a new encoder after each, and a probe of the first and the last."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from polyclinic.config.compose import instantiate
from polyclinic.config.schemas import Config
from polyclinic.errors import ConfigError, RunError
from polyclinic.federation.events import ArmEnd, Note, Progress
from polyclinic.federation.final_test import RETURN_S, FinalTest, announce, list_before
from polyclinic.federation.jobs import describe_model, make_order, start_network
from polyclinic.federation.method import RunContext
from polyclinic.learning.state_dict import StateDict, pack, save_state, shared_names
from polyclinic.store.ledger import Entry, Ledger
from polyclinic_strategies.merging.messages import Assignment
from polyclinic_strategies.merging.publisher import Publisher, describe_rule, make_rules
from polyclinic_strategies.universal.distillation import distil
from polyclinic_strategies.universal.events import StageBegins
from polyclinic_strategies.universal.exchange import EMBEDDING, TASK, make_teacher
from polyclinic_strategies.universal.images.unlabelled import find_images, read_images
from polyclinic_strategies.universal.loop import Stage, UniversalLoop
from polyclinic_strategies.universal.networks.network import UniversalNetwork
from polyclinic_strategies.universal.report.state import BEFORE
from polyclinic_strategies.universal.settings import (
    UniversalConfig,
    check_parts,
    universal_settings,
)
from polyclinic_strategies.universal.stage_log import StageBook
from polyclinic_strategies.universal.strategy import Universal

LISTED_BEFORE = {
    "name": BEFORE,
    "title": "Before",
    "kind": "universal",
    "note": "the encoder that hospitals got in the first stage",
}
TELL_S = 2.0  # between two words on how far something is


class UniversalCoordinator:
    """Coordinator of one strategy whose hospitals teach one encoder.

    Args:
        config: Configuration of the strategy.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._universal: Universal = instantiate(config.strategy, _recursive_=False)

    @property
    def title(self) -> str:
        """Name of the strategy in tables."""
        return self._universal.title

    def check(self) -> None:
        """Refuse settings that do not fit together, and missing public images.

        Raises:
            ConfigError: Something is missing, or does not fit.
        """
        check_universal(self._config)

    def run(self, context: RunContext) -> None:
        """Run all stages that are not done yet, then test the first encoder and the last.

        Raises:
            RunError: Nobody contributed to the only stage.
        """
        context.folder.update(state="running")
        UniversalRun(context).run()


class UniversalRun:
    """One universal strategy while it runs.

    Args:
        context: What it works with.
    """

    def __init__(self, context: RunContext) -> None:
        config = context.config
        self._grid = context.grid
        self._attendance = context.attendance
        self._folder = context.folder
        self._config = config
        self._final = FinalTest(self._folder, self._grid, self._attendance, config.deployment)
        network = start_network(config)
        assert isinstance(network, UniversalNetwork)
        self._network = network.to("cuda" if torch.cuda.is_available() else "cpu")
        self._names = shared_names(network, "none")
        self._universal, self._learning = check_universal(config)
        self._merging = self._universal.merging()
        self._expected = self._merging.expected_contributions(config.deployment)
        # a stage is `training.epochs` passes
        self._order = replace(make_order(self._folder, config, network), rounds=1)
        self._book = StageBook(self._folder, self._order.arm)
        self._images: torch.Tensor | None = None
        self._gathered = False  # whether this process has spoken with hospitals

    def run(self) -> None:
        """All stages that are not done yet, then the figures of the first encoder and the last."""
        announce(self._folder, self._order, self._universal.title, self._expected)
        self._book.begin(self._universal.combine, self._universal.stages)
        first = {
            name: self._network.state_dict()[name].detach().cpu().float().clone()
            for name in self._names
        }
        with Ledger.open(self._merging.ledger_folder(self._folder.path)) as ledger:
            done, state = self._find_newest(ledger, first)
            self._images = (
                self._read_public()
                if self._universal.distils and done < self._universal.stages
                else None
            )
            for number in range(done + 1, self._universal.stages + 1):
                state = self._run_stage(ledger, number, state)
        if (
            not self._gathered
        ):  # a coordinator that was started again: hospitals need a moment to come back
            known = len(self._book.contributors())
            self._attendance.wait_for(known, 0, min(RETURN_S, self._config.deployment.wait_s))
        list_before(self._folder, self._order.arm, LISTED_BEFORE)
        self._test(BEFORE, first)
        self._test(self._order.arm, state)
        self._keep(state, self._universal.stages, tested=True)
        self._folder.record(ArmEnd(arm=self._order.arm))

    def _find_newest(self, ledger: Ledger, first: StateDict) -> tuple[int, StateDict]:
        """How many stages this run has behind it, and the encoder that came of them: the ledger's bases say so."""
        made = self._book.read_bases(ledger)
        if not made:
            return 0, first
        return max(made), ledger.load_model(made[max(made)])

    def _run_stage(self, ledger: Ledger, number: int, state: StateDict) -> StateDict:
        """Gather, combine, and make what comes of it the next base; what a crash left half-done is taken up."""
        base = ledger.add_base(state, json.dumps(describe_model(self._order, number - 1, False)))
        begun = time.monotonic()
        sites = tuple(sorted(entry.site for entry in ledger.active(base)))
        self._folder.record(StageBegins(number=number, of=self._universal.stages, sites=sites))
        entries = self._book.gathered(number, base, ledger) or self._gather(
            ledger, number, base, begun
        )
        if not entries:
            if self._universal.stages == 1:
                raise RunError(
                    "The stage is over by its configuration, but no hospital contributed. See events.jsonl for refusals."
                )
            self._note(
                f"stage {number} of {self._universal.stages}: nobody contributed, the encoder stays as it is"
            )
            return state
        began = time.monotonic()
        made, result = (
            self._distil(entries, number, state)
            if self._universal.distils
            else self._merge(ledger, entries)
        )
        self._book.conclude(number, {**result, "seconds": time.monotonic() - began})
        recipe = {
            "rule": "Distillation" if self._universal.distils else self._universal.combine,
            "parameters": {"stage": number},
        }
        ledger.publish(made, recipe, [entry.digest for entry in entries])
        ledger.add_base(made, json.dumps(describe_model(self._order, number, False)))
        self._keep(made, number)
        for left in self._checkpoints().glob("*"):
            left.unlink()
        self._note(
            f"stage {number} of {self._universal.stages}: a new encoder is made of {', '.join(entry.site for entry in entries)}"
        )
        return made

    def _gather(self, ledger: Ledger, number: int, base: str, began: float) -> list[Entry]:
        """Until the stage is over; what moved is counted."""
        release = self._config.privacy["release"]
        statistics = (EMBEDDING,) if self._universal.distils else ()
        noise = release.noise_multiplier
        assignment = Assignment(
            replace(self._order, round=0),
            base,
            TASK,
            ledger.identity(),
            statistics,
            release.min_subjects,
            noise,
        )
        stage = Stage(
            number, self._expected, self._learning.rank, sum(self._network.encoder.widths)
        )
        before = self._grid.both_ways()
        loop = UniversalLoop(
            self._merging,
            self._grid,
            self._attendance,
            ledger,
            assignment,
            self._names,
            stage,
            self._folder.record,
        )
        entries = loop.gather()
        self._gathered = True
        moved: dict[str, tuple[int, int]] = {}
        for node, (sent, received) in self._grid.both_ways().items():
            site, earlier = self._attendance.site_of(node), before.get(node, (0, 0))
            other = moved.get(site, (0, 0))
            moved[site] = (other[0] + sent - earlier[0], other[1] + received - earlier[1])
        self._book.close(number, base, entries, moved, time.monotonic() - began)
        return entries

    def _merge(self, ledger: Ledger, entries: Sequence[Entry]) -> tuple[StateDict, dict[str, Any]]:
        """One encoder by a rule of merging."""
        (rule,) = make_rules(self._merging.rule, {})
        state = Publisher(ledger, 0, 1.0).merge(rule, entries)
        return state, {"rule": describe_rule(rule)}

    def _distil(
        self, entries: Sequence[Entry], number: int, base: StateDict
    ) -> tuple[StateDict, dict[str, Any]]:
        """One encoder that learned on public images what the hospitals' know."""
        assert self._images is not None
        self._network.eval().load_state_dict({**self._network.state_dict(), **base})
        teachers = [make_teacher(entry, base, self._learning.rank) for entry in entries]
        key = sha256("".join(sorted(entry.digest for entry in entries)).encode()).hexdigest()[:16]
        who = (
            "1 hospital's encoder" if len(teachers) == 1 else f"{len(teachers)} hospitals' encoders"
        )
        self._note(f"stage {number}: learning from {who} on {len(self._images)} public images")
        seed = self._config.seed + number
        found = distil(
            self._network, teachers, self._images, self._universal.make_distillation(), seed,
            checkpoint=self._checkpoints() / f"{number}-{key}.pt", on_step=self._progress(f"stage {number}, distilling"),
        )  # fmt: skip
        state = {name: found.state[name].detach().cpu().float() for name in self._names}
        return state, {
            "weights": dict(found.weights),
            "trust": dict(found.trust),
            "losses": list(found.losses),
        }

    def _read_public(self) -> torch.Tensor:
        paths = find_images(Path(str(self._universal.public)))
        tell = self._progress("reading public images")
        images = read_images(paths, self._config.data, lambda done, total: tell(done, total, None))
        self._book.note_public(len(images))
        return images

    def _progress(self, what: str) -> Callable[[int, int, float | None], None]:
        """Tells how far something is, now and then."""
        told = time.monotonic()

        def tell(step: int, steps: int, loss: float | None) -> None:
            nonlocal told
            if time.monotonic() - told >= TELL_S:
                told = time.monotonic()
                more = "" if loss is None else f", loss {loss:.3f}"
                self._folder.record(Progress(text=f"{what}: {step} of {steps}{more}"))

        return tell

    def _note(self, text: str) -> None:
        self._folder.record(Note(text=text))

    def _test(self, name: str, state: StateDict) -> None:
        """Figures of an encoder with a probe at every hospital that is here."""
        weights = pack(state, self._names)
        self._final.run(replace(self._order, arm=name), lambda _site: weights)

    def _keep(self, state: Mapping[str, torch.Tensor], number: int, tested: bool = False) -> None:
        described = json.dumps(describe_model(self._order, number, tested))
        whole = {**self._network.state_dict(), **state}
        save_state(
            whole,
            self._folder.path / "arms" / self._order.arm / "model.safetensors",
            {"polyclinic": described},
        )

    def _checkpoints(self) -> Path:
        return self._folder.path / "arms" / self._order.arm / "checkpoints"


def check_universal(config: Config) -> tuple[Universal, UniversalConfig]:
    """The strategy and what hospitals learn, as far as they can be checked without anybody else.

    Raises:
        ConfigError: They do not fit together, or there are no public images where some are needed.
    """
    if config.data.task != "own":
        raise ConfigError(
            "strategy=universal is for hospitals with tasks of their own: model=universal data=universal training=universal."
        )
    check_parts(config.model, config.training)
    universal: Universal = instantiate(config.strategy, _recursive_=False)
    learning = universal_settings(config.training)
    universal.check(learning)
    if universal.distils:
        universal.make_distillation()
        find_images(Path(str(universal.public)))
    return universal, learning
