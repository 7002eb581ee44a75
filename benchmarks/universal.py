"""One encoder for hospitals with different tasks, against other uses of the same images.

    python benchmarks/universal.py [--seeds 6 7] [--folder build/universal] [--short]
                                   [--arms NAME ...] [SETTING=VALUE ...]

Every seed has people, images, hospitals and networks of its own (`polyclinic_demos.cohorts.tasks`;
with POLYCLINIC_DATA cells, chests, gliomas and hippocampi beside the brains on simulated scanners).
Nothing is chosen on test images. Every cell (an arm, and a way to use its encoder) is kept in
`folder`: after an interruption, the same command goes on. It says beforehand what is left to do.
Results: benchmarks/results/universal.json.
"""

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pulse import count, say
from teaching import Hospital, Laboratory
from universal_arms import (
    CONTROLS,
    DISTILLED,
    LIBRARY,
    OFTEN,
    PASSES,
    POLISHED,
    TITLES,
    encoders,
    last_teachers,
)
from universal_table import FEW, IN_WORDS, show, summarize, task_score

from polyclinic.learning.state_dict import StateDict
from polyclinic.system.durable import write_durably
from polyclinic_demos.cohorts.tasks import write_tasks
from polyclinic_strategies.universal.teaching.library import choose_encoder

RESULTS = Path(__file__).with_name("results") / "universal.json"
IMAGES, PUBLIC = (160, 48, 160), 1000
SHORT_IMAGES, SHORT_PUBLIC = (96, 32, 96), 600
SHORT_ARMS = ("mim", "averaged", OFTEN, DISTILLED, "pooled")
ARMS = tuple(arm for arm in TITLES if arm not in CONTROLS)
TUNED = ("mim longer", "averaged", OFTEN, POLISHED, LIBRARY)  # also fine-tuned
UNIVERSAL = POLISHED  # the encoder that lies in the library beside its teachers
# seven tasks on real images, four on simulated scanners, and four on which nobody trains
TASKS = (
    "contrast",
    "structure",
    "tissue",
    "artefact",
    "cells-a",
    "cells-c",
    "chest",
    "tumour",
    "tumour-map",
    "hippocampus-plane",
    "hippocampus-map",
    "position",
    "cells-d",
    "tumour-elsewhere",
    "hippocampus-part",
)


class Figures:
    """What is known of a seed, kept after every cell."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def keep(self, **figures: Any) -> None:
        """Keep some more."""
        self.found.update(figures)
        write_durably(self._path, json.dumps(self.found).encode())


class Measurement:
    """All arms of one seed.

    Args:
        seed: Seed of people, images and networks.
        asked: The command's options.
    """

    def __init__(self, seed: int, asked: argparse.Namespace) -> None:
        images, public = (SHORT_IMAGES, SHORT_PUBLIC) if asked.short else (IMAGES, PUBLIC)
        real = bool(os.environ.get("POLYCLINIC_DATA")) and not asked.short
        say(f"seed {seed}: writing the tasks and the public images")
        cohort = write_tasks(
            asked.folder / f"cohort-{seed}",
            seed=seed,
            images=images,
            public=public,
            real=real,
            names=TASKS if real else None,
            on_progress=count("writing"),
        )
        self.seed, self._arms, self._ways = seed, asked.arms, asked.ways
        work = asked.folder / f"seed-{seed}"
        settings = [f"training.epochs={PASSES}", *asked.settings]
        self._laboratory = Laboratory(
            cohort.hospitals, cohort.held_out, cohort.public, work, seed, settings
        )
        self._everybody = (*self._laboratory.hospitals, *self._laboratory.held_out)
        self._figures = Figures(work / "figures.json")
        self._figures.keep(
            seed=seed,
            tasks=[each.name for each in self._laboratory.hospitals],
            held_out=[each.name for each in self._laboratory.held_out],
            real=list(cohort.real),
            subjects={each.name: each.test_subjects() for each in self._everybody},
        )
        self._encoders: dict[str, StateDict] = {}
        self._shelves: dict[str, dict[str, float]] = {}  # validation scores of a library

    def run(self) -> dict[str, Any]:
        """Measure what is not kept yet."""
        for arm, state in encoders(self._laboratory, self._figures.keep, self._arms):
            self._encoders[arm] = state
            for way in (each for each in self._ways if each != "tune"):
                self._see(way, arm)
        if LIBRARY in self._arms and UNIVERSAL in self._arms:
            self._see("probe", LIBRARY)
        for arm in self._arms if "tune" in self._ways else ():
            if arm in TUNED:
                self._see("tune", arm)
        return self._figures.found

    def _see(self, way: str, arm: str) -> None:
        if (key := f"{way}/{arm}") in self._figures.found:
            return
        start, told = time.monotonic(), count(f"{IN_WORDS[way]}, {TITLES[arm]}")
        outcomes, validated, chosen = {}, {}, {}
        for number, each in enumerate(self._everybody, start=1):
            labels = FEW if way == "few" else None
            state, name = self._encoder(arm, each, labels)
            if way == "tune":
                network, value = each.tune(state, self.seed), float("nan")
            else:
                network, value = each.probe(state, labels)
            outcomes[each.name] = _rows(each, network)
            validated[each.name], chosen[each.name] = value, name
            told(number, len(self._everybody), each.name)
        figures = {key: outcomes, f"seconds/{key}": time.monotonic() - start}
        if way != "tune":
            figures[f"validation/{key}"] = validated
        if arm == LIBRARY:
            figures |= {f"chosen/{key}": chosen, f"shelves/{key}": dict(self._shelves)}
        self._figures.keep(**figures)
        names = self._figures.found["tasks"]
        mean = sum(task_score(outcomes[name]) for name in names) / len(names)
        say(f"seed {self.seed}, {IN_WORDS[way]}, {TITLES[arm]}: {mean:.3f}")

    def _teachers(self) -> list[tuple[str, StateDict]]:
        """Return everybody's encoder of the last stage, by the name of the hospital."""
        base = self._laboratory.kept("mim", dict)
        found = last_teachers(self._laboratory, base)[1]
        return [(each.site, each.encoder) for each in found]

    def _encoder(self, arm: str, hospital: Hospital, labels: int | None) -> tuple[StateDict, str]:
        """Return an arm's encoder; of a library, that which the hospital chooses, and its name."""
        if arm != LIBRARY:
            return self._encoders[arm], arm
        shelf = [("universal", self._encoders[UNIVERSAL])]
        shelf += self._teachers()
        kept = self._figures.found.get("chosen/probe/library", {}).get(hospital.name)
        if labels is None and kept is not None:
            return dict(shelf)[kept], kept
        scores = {name: hospital.probe(state, labels)[1] for name, state in shelf}
        name = choose_encoder(scores)
        self._shelves[hospital.name] = scores
        return dict(shelf)[name], name


def _rows(hospital: Hospital, network: Any) -> list[list[Any]]:
    """Return the outcomes of a hospital's test cases."""
    return [[each.truth, each.guess, list(each.dice)] for each in hospital.outcomes(network)]


def announce(asked: argparse.Namespace) -> None:
    """Say what is left to do, and for how long by what kept cells took."""
    wanted = [
        f"{way}/{arm}"
        for way in asked.ways
        for arm in asked.arms
        if (way != "tune" or arm in TUNED) and (way, arm) != ("few", LIBRARY)
    ]
    kept = {seed: _kept(asked.folder, seed) for seed in asked.seeds}
    took: dict[str, list[float]] = {}
    for path in asked.folder.glob("seed-*/figures.json"):
        for key, value in json.loads(path.read_text()).items():
            if key.startswith("seconds/"):
                took.setdefault(key.removeprefix("seconds/"), []).append(value)
    left = [key for seed in asked.seeds for key in wanted if key not in kept[seed]]
    known = [sum(took[key]) / len(took[key]) for key in left if key in took]
    cost = (
        f"about {sum(known) / 60 * len(left) / len(known):.0f} minutes by those that are kept, and "
        "as many for the encoders of a new seed"
        if known
        else "some 25 minutes of one core for each seed with all arms"
    )
    say(f"{len(left)} of {len(wanted) * len(asked.seeds)} cells are to be measured: {cost}")


def _kept(folder: Path, seed: int) -> Mapping[str, Any]:
    return Figures(folder / f"seed-{seed}" / "figures.json").found


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[6, 7])
    parser.add_argument("--folder", type=Path, default=Path("build/universal"))
    parser.add_argument(
        "--short",
        action="store_true",
        help="fewer images, no real ones, fewer arms, linear probes only; "
        "nothing is written to results/",
    )
    parser.add_argument("--ways", nargs="+", choices=list(IN_WORDS), metavar="WAY")
    parser.add_argument("--arms", nargs="+", choices=list(TITLES), metavar="NAME")
    parser.add_argument(
        "--show",
        action="store_true",
        help="measure nothing, summarize what is kept of all these seeds",
    )
    parser.add_argument("--to", type=Path, default=RESULTS)
    parser.add_argument("settings", nargs="*", help="SETTING=VALUE")
    asked = parser.parse_args()
    asked.arms = asked.arms or (SHORT_ARMS if asked.short else ARMS)
    asked.ways = asked.ways or (("probe",) if asked.short else tuple(IN_WORDS))
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    if asked.show:
        found: Sequence[Mapping[str, Any]] = [_kept(asked.folder, seed) for seed in asked.seeds]
    else:
        announce(asked)
        found = [Measurement(seed, asked).run() for seed in asked.seeds]
    summary = summarize(found, list(TITLES))
    if not asked.short and len(found) > 1:
        asked.to.parent.mkdir(exist_ok=True)
        asked.to.write_text(json.dumps(summary, indent=1) + "\n")
    print(show(summary, TITLES))


if __name__ == "__main__":
    main()
