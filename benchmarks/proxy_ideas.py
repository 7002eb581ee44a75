"""Which ideas bring a deformation proxy further: Dice against AUC, on a small configuration.

    python benchmarks/proxy_ideas.py

Every idea changes one thing of the same small training, and is attacked alike. The people are in no
cohort of proxy.py: ideas are chosen here and measured there. Every finished cell is kept in the
folder, and the same command goes on after an interruption. `--only` names some ideas, `--show`
summarizes what is kept. Results: benchmarks/results/proxy_ideas.json.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import torch
from proxy_people import BOX_MM, make_people
from torch import Tensor, nn
from torch.nn import functional

from polyclinic.config.compose import instantiate, load_config
from polyclinic.config.schemas import Config
from polyclinic.imaging.deformation import upsample, warp
from polyclinic.learning.metrics import dice_per_class
from polyclinic.learning.state_dict import load_state, save_state
from polyclinic.system.durable import write_durably
from polyclinic_demos.cohorts.visits import T1
from polyclinic_strategies.proxy.attacks.attackers import ATTACKERS, attack
from polyclinic_strategies.proxy.attacks.contest import Attacker, AttackTraining, Contest
from polyclinic_strategies.proxy.attacks.evidence import Evidence, collect
from polyclinic_strategies.proxy.attacks.siamese import ProxyAndOriginal, ProxyAndProxy
from polyclinic_strategies.proxy.attacks.similarities import Similarities
from polyclinic_strategies.proxy.attacks.white_box import WhiteBox
from polyclinic_strategies.proxy.cases import CanonicalCase, label_shares
from polyclinic_strategies.proxy.frame.atlas import icbm152_reference
from polyclinic_strategies.proxy.generator import Field, LearnedField, NoField, RandomField
from polyclinic_strategies.proxy.measurements import measure_field
from polyclinic_strategies.proxy.networks.flow_generator import FlowGenerator
from polyclinic_strategies.proxy.protection import TOP, coarse_reference, draw_deformation
from polyclinic_strategies.proxy.settings import ProxyConfig, proxy_settings
from polyclinic_strategies.proxy.system import ProxySystem
from polyclinic_strategies.proxy.training import Trainer

RESULTS = Path(__file__).parent / "results" / "proxy_ideas.json"
SEED = 0
GROUPS = {  # number of people, their visits, and the scanner
    "training": (24, 2, T1),
    "more": (48, 2, T1),
    "known": (32, 3, T1),
    "test": (32, 3, T1),
}
SMALL = (
    "model=proxy",
    "data=proxy_brain",
    "training=proxy",
    "model.channels=[12,16,24]",
    "training.proxy.people=4",
    f"model.box_mm={list(BOX_MM)}",
    "model.segmenter.channels=[8,16,32]",
    "training.proxy.patch=[24,24,24]",
    "training.proxy.more_segmentation=0",
    f"seed={SEED}",
)
PATCH, RATE = (48, 48, 48), 3e-3  # of the segmenter's own steps
# who attack all but the base: the strongest, and those who average
BRIEFLY = (WhiteBox(), Similarities(), ProxyAndProxy(), ProxyAndOriginal())
KEYS, SCORED = 4, 8  # proxies of a visit; people whose Dice is measured
MARGIN = 16  # voxels at the box's border, which warps bring in and out, that are not scored
STRONGER = 1.2  # a random velocity over the displacement that it makes
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Idea:
    """One change of the small configuration.

    Attributes:
        title: What is said of it.
        settings: Settings that it changes.
        more: Whether it trains with the further people, too.
        fine: Whether the generator answers every 4 mm.
    """

    title: str
    settings: tuple[str, ...] = ()
    more: bool = False
    fine: bool = False


class FineGenerator(FlowGenerator):
    """Generator with one more level, that answers every 4 mm, as finely as it sees."""

    def __init__(self, channels: tuple[int, int, int]) -> None:
        super().__init__(channels, smoothness=1.6, bound=8.0)
        first, last = channels[0], 8
        self.finest = nn.Sequential(
            nn.Conv3d(first + 5, last, 3, padding=1),
            nn.InstanceNorm3d(last, affine=True),
            nn.LeakyReLU(0.1),
        )
        self.head = nn.Conv3d(last, 3, 3, padding=1)
        nn.init.normal_(self.head.weight, std=1e-3)

    def decode(self, image: Tensor, key: Tensor) -> Tensor:
        """Compute features on the image's grid."""
        coarse = torch.cat([super().decode(image, key), key], 1)
        found = functional.interpolate(coarse, size=image.shape[2:], mode="trilinear")
        features: Tensor = self.finest(torch.cat([found, image], 1))
        return features


ADVERSARIES = ("training.proxy.adversaries=3", "training.proxy.memory=32")
IDEAS = {
    "base": Idea("as in 0.1.0"),
    "people": Idea("72 people instead of 24", (), more=True),
    "keys": Idea("two keys of a visit in a step", ("training.proxy.keys=2",)),
    "adversaries": Idea("three adversaries with memory", ADVERSARIES),
    "fine": Idea("velocity at 4 mm", fine=True),
}


@dataclass(frozen=True)
class Lengths:
    """Number of steps: of all three networks, of the first segmenter, and of an idea's."""

    joint: int = 200
    segmenter: int = 200
    polish: int = 100
    attackers: AttackTraining = field(default_factory=lambda: AttackTraining(80, 60, 24, 1))


class Bench:
    """People and trainings, each made once and kept.

    Args:
        folder: Where everything is kept.
        lengths: Of the trainings.
    """

    def __init__(self, folder: Path, lengths: Lengths) -> None:
        self.folder, self.lengths = folder, lengths

    def people(self, group: str) -> list[CanonicalCase]:
        """Return a group's scans: made once, and kept."""
        path = self.folder / f"{group}.safetensors"
        if not path.is_file():
            count, visits, scanner = GROUPS[group]
            save_cases(make_people(group, count, visits, scanner, SEED), path)
        return load_cases(path)

    def system(self, name: str) -> ProxySystem:
        """Train generator and adversaries of an idea, or read them."""
        config = self._config(name)
        torch.manual_seed(SEED)
        system: ProxySystem = instantiate(config.model)
        if IDEAS[name].fine:
            coarse = coarse_reference(icbm152_reference(1.0, BOX_MM))
            system.field = LearnedField(coarse, FineGenerator((12, 16, 24)))
        settings, rate = proxy_settings(config.training), config.training.learning_rate

        def train() -> Mapping[str, float]:
            people = self.people("training") + (self.people("more") if IDEAS[name].more else [])
            return Trainer(system, people, settings, rate, SEED).train(tell(name))

        return self._kept(system, self.folder / f"{name}-{self.lengths.joint}.safetensors", train)

    def attacked(self, name: str, variant: str = "") -> dict[str, Any]:
        """Attack proxies; measure the field.

        Args:
            name: An idea, "originals" or "random".
            variant: "agreeing": a person's visits have one key.
        """
        kept: dict[str, Evidence] = {}
        field, title = self._field(name), f"{name} {variant}".strip()

        def evidence(group: str) -> Evidence:
            if group not in kept:
                print(f"{title}: making proxies of {group}", flush=True)
                agree, seed = variant == "agreeing", 1 + (group == "test")
                kept[group] = collect(field, self.people(group), KEYS, seed, agree=agree)
            return kept[group]

        found: dict[str, Any] = {}
        for attacker in ATTACKERS if title == "base" else BRIEFLY:

            def run(attacker: Attacker = attacker) -> dict[str, Any]:
                return self._attack(attacker, evidence("known"), evidence("test"), field)

            found |= self._cell(f"{title} by {type(attacker).__name__}", run)
        people = self.people("test")
        moved = self._cell(f"{title} moved", lambda: asdict(measure_field(field, people)))
        return {**moved, "attackers": found}

    def _field(self, name: str) -> Field:
        if name == "originals":
            return NoField()
        if name == "random":
            return RandomField(self.attacked("base")["strength_mm"] * STRONGER)
        return self.system(name).field

    def _attack(
        self, attacker: Attacker, known: Evidence, test: Evidence, field: Field
    ) -> dict[str, Any]:
        atlas = coarse_reference(icbm152_reference(1.0, BOX_MM))[None, None]
        contest = Contest(known, test, atlas, self.lengths.attackers, field)
        found = attack(contest, None, [attacker])
        for name, results in found.items():
            print(f"{name}: {results[0].auc:.3f}", flush=True)
        return {key: asdict(results[0]) for key, results in found.items()}

    def scored(self, name: str, group: str = "test") -> dict[str, Any]:
        """Measure the Dice through an idea's proxies, by a segmenter polished on them."""
        return self._cell(f"{name} scored {group}", lambda: self._score(name, group))

    def _score(self, name: str, group: str) -> dict[str, Any]:
        system = self.system("base" if name == "originals" else name)
        moving: Field = NoField() if name == "originals" else system.field
        system.field = moving
        self._segmenter(system, name)
        cases = self.people(group)[:: GROUPS[group][1]][:SCORED]
        return measure_dice(system, moving, cases)

    def _segmenter(self, system: ProxySystem, name: str) -> None:
        """Give a system a segmenter: first trained on originals, then on its own proxies."""
        system.field, own = NoField(), system.field
        first = self.folder / f"segmenter-{self.lengths.segmenter}.safetensors"
        settings = ProxyConfig(polish=self.lengths.segmenter, patch=PATCH)
        self._kept(system.segmenter, first, self._polishing(system, settings, "segmenter"))
        system.field = own
        path = self.folder / f"segmenter-{name}-{self.lengths.polish}.safetensors"
        settings = replace(settings, polish=self.lengths.polish)
        self._kept(system.segmenter, path, self._polishing(system, settings, f"{name} segmenter"))

    def _polishing(
        self, system: ProxySystem, settings: ProxyConfig, name: str
    ) -> Callable[[], Mapping[str, float]]:
        return lambda: Trainer(system, self.people("training"), settings, RATE, SEED).polish(
            tell(name)
        )

    def _config(self, name: str) -> Config:
        steps = f"training.proxy.steps={self.lengths.joint}"
        return load_config([*SMALL, steps, *IDEAS[name].settings])

    def _kept(
        self, network: Network, path: Path, train: Callable[[], Mapping[str, float]]
    ) -> Network:
        if path.is_file():
            network.load_state_dict(load_state(path)[0])
        else:
            start = time.monotonic()
            losses = train()
            save_state(network.state_dict(), path, {})
            facts = {"seconds": time.monotonic() - start, "losses": losses}
            write_durably(path.with_suffix(".json"), json.dumps(facts))
        return network.eval()

    def _cell(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        path = self.folder / "cells" / f"{name.replace(' ', '-')}.json"
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            start = time.process_time()
            found = measure()
            write_durably(path, json.dumps(found))
            print(f"{name}: {time.process_time() - start:.0f} s of processor time", flush=True)
        return dict(json.loads(path.read_text()))


def measure_dice(
    system: ProxySystem, field: Field, cases: Sequence[CanonicalCase]
) -> dict[str, Any]:
    """Return the Dice of every class in the box without its margin, and that of a round trip."""
    rows, trips = [], []
    inside = (slice(MARGIN, -MARGIN),) * 3
    for number, case in enumerate(cases):
        assert case.fine is not None and case.labels is not None
        ddf, inverse = draw_deformation(field, case.coarse[None], SEED + number)
        there, back = (upsample(each, case.fine.shape) for each in (ddf, inverse))
        truth = functional.one_hot(case.labels.long(), 4).movedim(-1, 0)[None].float()
        with torch.inference_mode():
            proxy = warp(case.fine[None, None].float(), there).round() / TOP
            answer = warp(system(proxy).softmax(1), back)[0].argmax(0)
            warped = functional.one_hot(warp(truth, there).argmax(1), 4).movedim(-1, 1).float()
            trip = warp(warped, back)[0].argmax(0)
        wanted = case.labels[inside].reshape(-1)
        rows.append(dice_per_class(answer[inside].reshape(-1), wanted, 4))
        trips.append(float(dice_per_class(trip[inside].reshape(-1), wanted, 4).nanmean()))
    mean = torch.stack(rows).nanmean(0)
    return {"dice": mean.tolist(), "mean": float(mean.mean()), "round trip": fmean(trips)}


def save_cases(cases: list[CanonicalCase], path: Path) -> None:
    """Write scans into one file."""
    state = {}
    for number, case in enumerate(cases):
        key = f"{number:04d} {case.subject}"
        state[f"{key}/middle"] = case.middle
        for name in ("fine", "labels"):
            state[f"{key}/{name}"] = getattr(case, name)
    save_state(state, path, {})


def load_cases(path: Path) -> list[CanonicalCase]:
    """Read the scans of `save_cases`."""
    state = load_state(path)[0]
    keys = sorted({name.rpartition("/")[0] for name in state})
    return [
        CanonicalCase(
            key.partition(" ")[2],
            state[f"{key}/middle"],
            state[f"{key}/fine"],
            state[f"{key}/labels"],
            label_shares(state[f"{key}/labels"], 4, 4),
        )
        for key in keys
    ]


def tell(name: str) -> Callable[[int, int, Mapping[str, float]], None]:
    """Return a function that prints every 25th step."""
    start = time.monotonic()

    def say(step: int, steps: int, running: Mapping[str, float]) -> None:
        if step % 25 == 0 or step == steps:
            parts = ", ".join(f"{key} {value:.3f}" for key, value in running.items())
            print(
                f"{name}: step {step} of {steps}, {time.monotonic() - start:.0f} s: {parts}",
                flush=True,
            )

    return say


def summarize(bench: Bench) -> dict[str, Any]:
    """Return what is kept, without training anything."""
    cells = {
        path.stem: json.loads(path.read_text())
        for path in sorted((bench.folder / "cells").glob("*.json"))
    }
    groups = {name: group[:2] for name, group in GROUPS.items()}
    ideas = {name: idea.title for name, idea in IDEAS.items()}
    return {"people": groups, "steps": asdict(bench.lengths), "ideas": ideas, "cells": cells}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(IDEAS), default=list(IDEAS))
    parser.add_argument("--folder", type=Path, default=Path("build/proxy-ideas"))
    parser.add_argument("--show", action="store_true", help="summarize what is kept")
    asked = parser.parse_args()
    bench = Bench(asked.folder, Lengths())
    if not asked.show:
        measure(bench, asked.only)
    RESULTS.write_text(json.dumps(summarize(bench), indent=1) + "\n")


def measure(bench: Bench, names: Sequence[str]) -> None:
    """Measure the ideas, and what is compared with them."""
    for name in names:
        bench.attacked(name)
        bench.scored(name)
        if name == "base":
            bench.scored("originals")
            for what in (("base", "agreeing"), ("originals",), ("random",)):
                bench.attacked(*what)


if __name__ == "__main__":
    main()
