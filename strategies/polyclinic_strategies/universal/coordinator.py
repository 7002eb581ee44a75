"""The universal model at the coordinator: stages of contributions, and a new encoder after each.

The first encoder and the last are tested with a probe at every hospital.
"""

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
from polyclinic.federation.coordinator import RunContext
from polyclinic.federation.events import ArmEnd, Note, Progress
from polyclinic.federation.final_test import RETURN_S, FinalTest, list_before, record_start
from polyclinic.federation.jobs import describe_model, make_order, start_network
from polyclinic.federation.records import Order
from polyclinic.learning.optimizing.schedules import scale_rate
from polyclinic.learning.state_dict import StateDict, pack, save_state, shared_names
from polyclinic.store.ledger import Entry, Ledger
from polyclinic_strategies.merging.arithmetic.configured import describe_rule, make_rules
from polyclinic_strategies.merging.messages import Assignment
from polyclinic_strategies.merging.publisher import Publisher
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
from polyclinic_strategies.universal.stage_log import StageLog
from polyclinic_strategies.universal.strategy import Universal
from polyclinic_strategies.universal.teaching.library import write_library

LISTED_BEFORE = {
    "name": BEFORE,
    "title": "Before",
    "kind": "universal",
    "note": "the encoder that hospitals got in the first stage",
}
LIBRARY = "library.safetensors"  # name of the file of encoders, beside the universal one
SEEDS_APART = 1_000_003  # seeds of two stages are so far apart
PROGRESS_S = 2.0  # seconds between two events about the progress of some work


class UniversalCoordinator:
    """Coordinator of one strategy in which all hospitals teach one encoder.

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
    """The run of one universal strategy.

    Args:
        context: Grid, hospitals, folder and configuration of the run.
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
        self._order = self._make_order(1)
        self._log = StageLog(self._folder, self._order.arm)
        self._images: torch.Tensor | None = None
        self._gathered = False  # whether this process has collected contributions

    def run(self) -> None:
        """Run the stages that are not done yet, then test the first encoder and the last.

        Raises:
            RunError: Nobody contributed to the only stage.
        """
        record_start(self._folder, self._order, self._universal.title, self._expected)
        stages = self._universal.stages
        self._log.record_plan(self._universal.combine, stages)
        initial = self._network.state_dict()
        first = {name: initial[name].detach().cpu().float().clone() for name in self._names}
        with Ledger.open(self._merging.ledger_folder(self._folder.path)) as ledger:
            done, state = self._latest_encoder(ledger, first)
            if self._universal.distils and done < stages:
                self._images = self._read_public()
            for number in range(done + 1, stages + 1):
                state = self._run_stage(ledger, number, state)
            self._keep_library(ledger, state)
        if not self._gathered:  # after a restart, hospitals need some seconds to come back
            known = len(self._log.contributors())
            self._attendance.wait_for(known, 0, min(RETURN_S, self._config.deployment.wait_s))
        list_before(self._folder, self._order.arm, LISTED_BEFORE)
        self._test(BEFORE, first)
        self._test(self._order.arm, state)
        self._keep(state, stages, tested=True)
        self._folder.record(ArmEnd(arm=self._order.arm))

    def _make_order(self, stage: int) -> Order:
        """Make the order of a stage: `training.epochs` passes, drawn anew in each stage.

        Args:
            stage: Number of the stage, from 1.
        """
        training = scale_rate(self._config.training, self._universal.share(stage))
        config = replace(self._config, training=training)
        seed = (self._config.seed + (stage - 1) * SEEDS_APART) % 2**31
        return replace(make_order(self._folder, config, self._network), rounds=1, seed=seed)

    def _latest_encoder(self, ledger: Ledger, first: StateDict) -> tuple[int, StateDict]:
        """Return the number of finished stages, which the ledger's bases show, and the encoder."""
        made = self._log.read_bases(ledger)
        if not made:
            return 0, first
        return max(made), ledger.load_model(made[max(made)])

    def _run_stage(self, ledger: Ledger, number: int, state: StateDict) -> StateDict:
        """Run a stage, or the rest of one that a crash interrupted, and return its encoder.

        The stage's contributions are combined, and the result becomes the next base.

        Raises:
            RunError: Nobody contributed, and it is the only stage.
        """
        base = ledger.add_base(state, json.dumps(describe_model(self._order, number - 1, False)))
        begun = time.monotonic()
        sites = tuple(sorted(entry.site for entry in ledger.active(base)))
        self._folder.record(StageBegins(number=number, of=self._universal.stages, sites=sites))
        entries = self._log.read_contributions(number, base, ledger)
        entries = entries or self._gather(ledger, number, base, begun)
        name = f"stage {number} of {self._universal.stages}"
        if not entries:
            if self._universal.stages == 1:
                raise RunError(
                    "The stage has reached its configured end, but no hospital contributed. "
                    f"See {self._folder.path / 'events.jsonl'} for refusals."
                )
            self._note(f"{name}: nobody contributed, the encoder is not changed")
            return state
        made = self._combine(ledger, entries, number, state)
        contributors = ", ".join(entry.site for entry in entries)
        self._note(f"{name}: a new encoder is made of {contributors}")
        return made

    def _combine(
        self, ledger: Ledger, entries: Sequence[Entry], number: int, state: StateDict
    ) -> StateDict:
        """Combine a stage's contributions into an encoder, and make it the next base."""
        began = time.monotonic()
        if self._universal.distils:
            made, result = self._distil(entries, number, state)
        else:
            made, result = self._merge(ledger, entries)
        self._log.record_result(number, {**result, "seconds": time.monotonic() - began})
        rule = "Distillation" if self._universal.distils else self._universal.combine
        recipe = {"rule": rule, "parameters": {"stage": number}}
        ledger.publish(made, recipe, [entry.digest for entry in entries])
        ledger.add_base(made, json.dumps(describe_model(self._order, number, False)))
        self._keep(made, number)
        for left in self._checkpoints().glob("*"):
            left.unlink()
        return made

    def _gather(self, ledger: Ledger, number: int, base: str, began: float) -> list[Entry]:
        """Collect contributions until the stage is over, and record them with their bytes."""
        release = self._config.privacy["release"]
        statistics = (EMBEDDING,) if self._universal.distils else ()
        noise = release.noise_multiplier
        assignment = Assignment(
            replace(self._make_order(number), round=0),
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
        loop.mailbox.patience_s = self._config.deployment.round_timeout_s
        entries = loop.gather()
        self._gathered = True
        moved: dict[str, tuple[int, int]] = {}
        for node, (sent, received) in self._grid.both_ways().items():
            site, earlier = self._attendance.site_of(node), before.get(node, (0, 0))
            other = moved.get(site, (0, 0))
            moved[site] = (other[0] + sent - earlier[0], other[1] + received - earlier[1])
        seconds = time.monotonic() - began
        self._log.record_contributions(number, base, entries, moved, seconds)
        return entries

    def _merge(self, ledger: Ledger, entries: Sequence[Entry]) -> tuple[StateDict, dict[str, Any]]:
        """Return an encoder that a rule of merging made, and the rule."""
        (rule,) = make_rules(self._merging.rule, {})
        state = Publisher(ledger, 0, 1.0).merge(rule, entries)
        return state, {"rule": describe_rule(rule)}

    def _distil(
        self, entries: Sequence[Entry], number: int, base: StateDict
    ) -> tuple[StateDict, dict[str, Any]]:
        """Return an encoder, distilled from the hospitals' on public images, and its figures."""
        assert self._images is not None
        self._network.eval().load_state_dict({**self._network.state_dict(), **base})
        teachers = [make_teacher(entry, base, self._learning.rank) for entry in entries]
        key = sha256("".join(sorted(entry.digest for entry in entries)).encode()).hexdigest()[:16]
        count = len(teachers)
        whose = "1 hospital's encoder" if count == 1 else f"{count} hospitals' encoders"
        self._note(f"stage {number}: distilling {whose} on {len(self._images)} public images")
        found = distil(
            self._network,
            teachers,
            self._images,
            self._universal.make_distillation(),
            self._config.seed + number,
            checkpoint=self._checkpoints() / f"{number}-{key}.pt",
            on_step=self._progress(f"stage {number}, distilling"),
        )
        state = {name: found.state[name].detach().cpu().float() for name in self._names}
        return state, {
            "weights": dict(found.weights),
            "trust": dict(found.trust),
            "losses": list(found.losses),
        }

    def _read_public(self) -> torch.Tensor:
        paths = find_images(Path(str(self._universal.public)))
        record = self._progress("reading public images")
        images = read_images(
            paths, self._config.data, lambda done, total: record(done, total, None)
        )
        self._log.record_public_images(len(images))
        return images

    def _progress(self, what: str) -> Callable[[int, int, float | None], None]:
        """Return a function that records the progress of some work, at most every `PROGRESS_S`.

        It takes the number of steps that are done, the number of all steps, and the loss if any.
        """
        last = time.monotonic()

        def record(step: int, steps: int, loss: float | None) -> None:
            nonlocal last
            if time.monotonic() - last >= PROGRESS_S:
                last = time.monotonic()
                more = "" if loss is None else f", loss {loss:.3f}"
                self._folder.record(Progress(text=f"{what}: {step} of {steps}{more}"))

        return record

    def _note(self, text: str) -> None:
        self._folder.record(Note(text=text))

    def _test(self, name: str, state: StateDict) -> None:
        """Test an encoder with a probe at every hospital that is online."""
        weights = pack(state, self._names)
        self._final.run(replace(self._order, arm=name), lambda _site: weights)

    def _keep(self, state: Mapping[str, torch.Tensor], number: int, tested: bool = False) -> None:
        described = json.dumps(describe_model(self._order, number, tested))
        whole = {**self._network.state_dict(), **state}
        path = self._folder.path / "arms" / self._order.arm / "model.safetensors"
        save_state(whole, path, {"polyclinic": described})

    def _keep_library(self, ledger: Ledger, state: StateDict) -> None:
        """Write the last stage's encoders beside the universal one, if that is wanted."""
        path = self._folder.path / "arms" / self._order.arm / LIBRARY
        taught = self._log.last_taught()
        if not self._universal.library or taught is None:
            return
        number, base = taught
        before = ledger.load_model(base)
        entries = self._log.read_contributions(number, base, ledger)
        teachers = [make_teacher(entry, before, self._learning.rank) for entry in entries]
        described = json.dumps(describe_model(self._order, self._universal.stages, False))
        kept = write_library(path, described, state, before, teachers)
        self._log.record_library(kept)
        self._note(f"the library has the universal encoder and those of {kept} hospitals")

    def _checkpoints(self) -> Path:
        return self._folder.path / "arms" / self._order.arm / "checkpoints"


def check_universal(config: Config) -> tuple[Universal, UniversalConfig]:
    """Check all that can be checked without hospitals.

    Returns:
        The strategy, and what hospitals learn.

    Raises:
        ConfigError: Settings do not fit together, or public images are needed and missing.
    """
    if config.data.task != "own":
        raise ConfigError(
            "strategy=universal is for hospitals with tasks of their own: add model=universal "
            "data=universal training=universal."
        )
    check_parts(config.model, config.training)
    universal: Universal = instantiate(config.strategy, _recursive_=False)
    learning = universal_settings(config.training)
    universal.check(learning)
    if universal.distils:
        universal.make_distillation()
        find_images(Path(str(universal.public)))
    return universal, learning
