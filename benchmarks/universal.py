"""One encoder for hospitals with different tasks, against other uses of the same images.

    python benchmarks/universal.py [--seeds 3 4 5] [--folder build/universal] [--short]
                                   [SETTING=VALUE ...]

Every seed has people, images, hospitals and networks of its own (`polyclinic_demos.cohorts.tasks`;
with POLYCLINIC_DATA real cells, chests and structures beside the brains). Nothing is chosen on test
images. Results of one seed after another are kept in `folder`: after an interruption, the same
command goes on, and several may run at the same time. Results: benchmarks/results/universal.json.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, product
from pathlib import Path
from typing import Any

import torch
from measuring import machine
from pulse import count, say
from scipy.stats import wilcoxon
from teaching import Laboratory, Outcome, mean_of, score
from torch import Tensor

from polyclinic.learning.state_dict import StateDict
from polyclinic.system.durable import write_durably
from polyclinic_demos.cohorts.tasks import write_tasks
from polyclinic_strategies.universal.distillation import Distillation
from polyclinic_strategies.universal.teaching.teachers import Teacher

RESULTS = Path(__file__).with_name("results") / "universal.json"
IMAGES, PUBLIC = (240, 48, 480), 1600
SHORT_IMAGES, SHORT_PUBLIC = (96, 32, 96), 600
SHORT_ARMS = 6  # number of arms with --short
STAGES, PASSES = 2, 12
MASKED = 600  # steps of masked image modelling
TAUGHT = Distillation(steps=150)
# a step of distillation with masked images is two of masked image modelling
LONGER = MASKED + 2 * STAGES * TAUGHT.steps
FEW = 48  # number of labels of a hospital that has few
WAYS = ("probe/", "few/", "tune/")
IN_WORDS = {"probe": "linear probe", "few": f"linear probe, {FEW} labels", "tune": "fine-tuned"}
LONE = "cells-a"
RESAMPLES = 2000
OURS, SINGLE = "distilled + mim", "best single hospital"
TITLES = {
    "scratch": "from scratch",
    "mim": "masked image modelling (MIM)",
    "mim longer": "MIM with the same extra computing",
    "averaged": "teachers' encoders averaged",
    "distilled": "distilled",
    OURS: "distilled + MIM",
    "hostile": "distilled + MIM, three hostile hospitals more",
    "random teachers": "distilled + MIM, random teachers",
    "lone": "distilled + MIM, then a stage with one hospital",
    "lone, from before": "the same, started from the encoder before that stage",
    SINGLE: "best single hospital's encoder",
    "pooled": "all tasks in one place (upper bound)",
}
# also with few labels, and fine-tuned
CLAIMED = ("mim", OURS, "mim longer", "averaged", "pooled", "scratch", "distilled")


def measure(seed: int, folder: Path, short: bool, overrides: Sequence[str]) -> dict[str, Any]:
    """Measure all arms of one seed."""
    images, public = (SHORT_IMAGES, SHORT_PUBLIC) if short else (IMAGES, PUBLIC)
    say(f"seed {seed}: writing the tasks and the public images")
    cohort = write_tasks(
        folder / f"cohort-{seed}",
        seed=seed,
        images=images,
        public=public,
        real=False if short else None,
        on_progress=count("writing"),
    )
    work = folder / f"seed-{seed}"
    found = (
        json.loads((work / "figures.json").read_text()) if (work / "figures.json").exists() else {}
    )
    laboratory = Laboratory(
        cohort.hospitals,
        cohort.held_out,
        cohort.public,
        work,
        seed,
        [f"training.epochs={PASSES}", *overrides],
    )

    def keep(**figures: Any) -> None:
        found.update(figures)
        write_durably(work / "figures.json", json.dumps(found).encode())

    keep(
        seed=seed,
        tasks=[each.name for each in laboratory.hospitals],
        held_out=[each.name for each in laboratory.held_out],
    )
    encoders: dict[str, StateDict] = {}

    def see(way: str, arm: str) -> None:
        if (key := f"{way}/{arm}") in found:
            return
        start, told = time.monotonic(), count(f"{IN_WORDS[way]}, {TITLES[arm]}")
        everybody = (*laboratory.hospitals, *laboratory.held_out)
        outcomes = {}
        for number, each in enumerate(everybody, start=1):
            outcomes[each.name] = _outcomes(each, encoders[arm], way, seed)
            told(number, len(everybody), each.name)
        keep(**{key: outcomes})
        say(
            f"seed {seed}, {IN_WORDS[way]}, {TITLES[arm]}: {_mean(outcomes, laboratory):.3f} "
            f"({time.monotonic() - start:.0f} s)"
        )

    for arm, state in islice(_encoders(laboratory, keep), SHORT_ARMS if short else None):
        encoders[arm] = state
        see("probe", arm)
    if short:
        return found
    for arm in CLAIMED[:2]:
        see("tune", arm)
    if f"probe/{SINGLE}" not in found:
        teachers, outcomes = _singles(laboratory, seed)
        keep(**{"best single": teachers, f"probe/{SINGLE}": outcomes})
    for arm, way in product(CLAIMED, ("few", "tune")):
        see(way, arm)
    return found


def _encoders(laboratory: Laboratory, keep: Any) -> Iterator[tuple[str, StateDict]]:
    """Yield every arm's encoder, one after another."""
    yield "scratch", laboratory.scratch()
    base = laboratory.kept("mim", lambda: laboratory.masked(MASKED))
    yield "mim", base

    def student(
        name: str,
        settings: Distillation,
        more: Callable[[StateDict, Sequence[Teacher]], Sequence[Teacher]],
    ) -> StateDict:
        def combine(before: StateDict, teachers: Sequence[Teacher], stage: int) -> StateDict:
            start = time.monotonic()
            crowd = [*teachers, *more(before, teachers)]
            distilled = laboratory.distil(before, crowd, settings, stage)
            figures = {
                site: [distilled.weights[site], distilled.trust[site]] for site in distilled.weights
            }
            keep(
                **{
                    f"gates/{name}, stage {stage}": figures,
                    f"seconds/{name}, stage {stage}": time.monotonic() - start,
                }
            )
            return distilled.state

        return laboratory.staged(name, base, STAGES, combine)

    def nobody(_before: StateDict, _teachers: Sequence[Teacher]) -> Sequence[Teacher]:
        return ()

    yield (
        "averaged",
        laboratory.staged(
            "averaged", base, STAGES, lambda _before, teachers, _stage: mean_of(teachers)
        ),
    )
    ours = student(OURS, TAUGHT, nobody)
    yield OURS, ours
    yield "pooled", laboratory.kept("pooled", lambda: laboratory.pooled(base, STAGES))
    yield "mim longer", laboratory.kept("mim longer", lambda: laboratory.masked(LONGER))
    yield "distilled", student("distilled", replace(TAUGHT, mim=0.0), nobody)
    yield "hostile", student("hostile", TAUGHT, laboratory.hostile)
    yield (
        "random teachers",
        laboratory.kept("random teachers", lambda: _from_strangers(laboratory, base)),
    )
    yield "lone", laboratory.kept("lone", lambda: _lone_stage(laboratory, ours, TAUGHT))
    yield (
        "lone, from before",
        laboratory.kept(
            "lone, from before",
            lambda: _lone_stage(laboratory, ours, replace(TAUGHT, start="before")),
        ),
    )


def _lone_stage(laboratory: Laboratory, ours: StateDict, settings: Distillation) -> StateDict:
    """Return the universal encoder after one more stage with a single hospital.

    The hospital's images are unlike most others'.
    """
    names = [hospital.name for hospital in laboratory.hospitals]
    teachers = laboratory.teachers(ours, OURS, STAGES + 1, only=LONE if LONE in names else names[0])
    return laboratory.distil(ours, teachers, settings, STAGES + 1).state


def _from_strangers(laboratory: Laboratory, base: StateDict) -> StateDict:
    """Return what as many encoders with random weights teach if all of them are believed."""
    for stage in range(1, STAGES + 1):
        base = laboratory.distil(
            base, laboratory.strangers(stage), replace(TAUGHT, gate=False, start="before"), stage
        ).state
    return base


def _outcomes(hospital: Any, state: StateDict, way: str, seed: int) -> list[list[Any]]:
    """Return the outcomes of a hospital's test cases for a model with this encoder."""
    return _rows(
        hospital,
        hospital.tune(state, seed)
        if way == "tune"
        else hospital.probe(state, FEW if way == "few" else None)[0],
    )


def _rows(hospital: Any, network: Any) -> list[list[Any]]:
    return [[each.truth, each.guess, list(each.dice)] for each in hospital.outcomes(network)]


def _singles(laboratory: Laboratory, seed: int) -> tuple[dict[str, str], dict[str, Any]]:
    """Return, for each task, the best single hospital on the validation cases, and its outcomes.

    An encoder is one hospital's alone: the first that everybody gets, trained on its labels for as
    many passes as all stages have.
    """
    base, everybody = laboratory.kept("mim", dict), (*laboratory.hospitals, *laboratory.held_out)
    best: dict[str, tuple[float, str, Any]] = {}  # by task: score, teacher, network
    for number, teacher in enumerate(laboratory.hospitals, start=1):
        encoder = laboratory.alone(teacher, base, STAGES)
        for hospital in everybody:
            network, value = hospital.probe(encoder)
            if hospital.name not in best or value > best[hospital.name][0]:
                best[hospital.name] = (value, teacher.name, network)
        say(f"seed {seed}, alone: {number} of {len(laboratory.hospitals)}")
    return {task: teacher for task, (_, teacher, _) in best.items()}, {
        each.name: _rows(each, best[each.name][2]) for each in everybody
    }


def _mean(outcomes: Mapping[str, Any], laboratory: Laboratory) -> float:
    return sum(task_score(outcomes[each.name]) for each in laboratory.hospitals) / len(
        laboratory.hospitals
    )


def task_score(rows: Sequence[Sequence[Any]]) -> float:
    """Return the score of kept outcomes."""
    return score([Outcome(truth, guess, tuple(dice)) for truth, guess, dice in rows])


def summarize(seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return mean and spread of every arm, and tests of what is claimed."""
    tasks, held_out = seeds[0]["tasks"], seeds[0]["held_out"]
    arms = [
        f"{way}{arm}"
        for way in WAYS
        for arm in TITLES
        if all(f"{way}{arm}" in found for found in seeds)
    ]
    scores = {
        arm: {
            task: [task_score(found[arm][task]) for found in seeds] for task in (*tasks, *held_out)
        }
        for arm in arms
    }
    summary: dict[str, Any] = {
        "machine": machine(),
        "seeds": [found["seed"] for found in seeds],
        "tasks": tasks,
        "held_out": held_out,
    }
    summary["arms"] = {
        arm: {task: _spread(values) for task, values in scores[arm].items()} for arm in scores
    }
    summary["means"] = {
        arm: _spread(
            [_average(each[task][number] for task in tasks) for number in range(len(seeds))]
        )
        for arm, each in scores.items()
    }
    summary["claims"] = {}
    for arm, theirs in scores.items():
        ours = f"{arm.partition('/')[0]}/{OURS}"
        if arm != ours and ours in scores:
            summary["claims"][arm] = _compare(scores[ours], theirs, tasks)
    pairs = {arm: (f"{arm.partition('/')[0]}/{OURS}", arm) for arm in summary["claims"]}
    summary["intervals"] = {
        task: _interval(seeds, task, *pairs["probe/mim"]) for task in (*tasks, *held_out)
    }
    summary["held out"] = {
        arm: {task: _interval(seeds, task, *pair) for task in held_out}
        for arm, pair in pairs.items()
    }
    gates = [
        key for key in seeds[0] if key.startswith("gates/") and all(key in found for found in seeds)
    ]
    summary["gates"] = {
        key.removeprefix("gates/"): [found[key] for found in seeds] for key in gates
    }
    return summary


def _compare(
    ours: Mapping[str, list[float]], other: Mapping[str, list[float]], tasks: Sequence[str]
) -> dict[str, Any]:
    """Compare two arms, paired over tasks, means over seeds first."""
    differences = [_average(ours[task]) - _average(other[task]) for task in tasks]
    p = float(wilcoxon(differences).pvalue) if any(differences) else 1.0
    return {
        "mean difference": _average(differences),
        "p": p,
        "tasks": len(tasks),
        "better": sum(value > 0 for value in differences),
    }


def _interval(seeds: Sequence[Mapping[str, Any]], task: str, ours: str, other: str) -> list[float]:
    """Return mean, low and high of the difference of two arms.

    This is a 95 % interval over new draws of the test cases, all seeds together.
    """
    generator, drawn = torch.Generator().manual_seed(0), torch.zeros(RESAMPLES)
    for found in seeds:
        count = len(found[ours][task])
        chosen = torch.randint(count, (RESAMPLES, count), generator=generator)
        drawn += (
            _resampled(found[ours][task], chosen) - _resampled(found[other][task], chosen)
        ) / len(seeds)
    whole = _average(
        task_score(found[ours][task]) - task_score(found[other][task]) for found in seeds
    )
    low, high = drawn.quantile(torch.tensor([0.025, 0.975])).tolist()
    return [whole, low, high]


def _resampled(rows: Sequence[Sequence[Any]], chosen: Tensor) -> Tensor:
    """Return `task_score` of the chosen cases, (draws, cases): one for each draw."""
    if rows[0][0] is None:
        table = torch.tensor([dice for _, _, dice in rows])
        return table[chosen].nanmean(1).nanmean(1)
    truths = torch.tensor([truth for truth, _, _ in rows])
    right = torch.tensor([float(truth == guess) for truth, guess, _ in rows])[chosen]
    masks = [(truths[chosen] == value).float() for value in truths.unique()]
    return torch.stack([(right * mask).sum(1) / mask.sum(1) for mask in masks]).nanmean(0)


def _average(values: Any) -> float:
    values = list(values)
    return float(sum(values) / len(values))


def _spread(values: Sequence[float]) -> list[float]:
    """Return mean and standard deviation."""
    return [_average(values), float(torch.tensor(values).std()) if len(values) > 1 else 0.0]


def show(summary: Mapping[str, Any]) -> str:
    """Print the tables as Markdown."""
    lines = [
        "| | mean of the tasks | " + " | ".join(summary["held_out"]) + " |",
        "|---|---|" + "---|" * len(summary["held_out"]),
    ]
    for arm, (mean, spread) in summary["means"].items():
        held = [f"{summary['arms'][arm][task][0]:.3f}" for task in summary["held_out"]]
        way, _, name = arm.partition("/")
        lines.append(
            f"| {TITLES[name]}, {IN_WORDS[way]} | {mean:.3f} ± {spread:.3f} | {' | '.join(held)} |"
        )
    lines += [
        "",
        "| distilled + MIM against | mean difference | better on | p |",
        "|---|---|---|---|",
    ]
    for arm, claim in summary["claims"].items():
        way, _, name = arm.partition("/")
        difference = f"{claim['mean difference']:+.3f}"
        lines.append(
            f"| {TITLES[name]}, {IN_WORDS[way]} | {difference} | {claim['better']} of "
            f"{claim['tasks']} | {claim['p']:.4f} |"
        )
    lines += ["", "| task, linear probe | distilled + MIM less MIM | 95 % |", "|---|---|---|"]
    lines += [
        f"| {task} | {_in_words(interval)} |" for task, interval in summary["intervals"].items()
    ]
    lines += [
        "",
        "| distilled + MIM against | " + " | ".join(summary["held_out"]) + " |",
        "|---|" + "---|" * len(summary["held_out"]),
    ]
    for arm, held in summary["held out"].items():
        way, _, name = arm.partition("/")
        lines.append(
            f"| {TITLES[name]}, {IN_WORDS[way]} | "
            f"{' | '.join(_in_words(held[task], ' ') for task in summary['held_out'])} |"
        )
    return "\n".join(lines)


def _in_words(interval: Sequence[float], between: str = " | ") -> str:
    mean, low, high = interval
    return f"{mean:+.3f}{between}({low:+.3f} to {high:+.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 4, 5])
    parser.add_argument("--folder", type=Path, default=Path("build/universal"))
    parser.add_argument(
        "--short",
        action="store_true",
        help="fewer images, no real ones, fewer arms, linear probes only; "
        "nothing is written to results/",
    )
    parser.add_argument(
        "--show",
        action="store_true",
        help="measure nothing, summarize what is kept of all these seeds",
    )
    parser.add_argument("settings", nargs="*", help="SETTING=VALUE")
    asked = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    if asked.show:
        found = [
            json.loads((asked.folder / f"seed-{seed}" / "figures.json").read_text())
            for seed in asked.seeds
        ]
    else:
        found = [measure(seed, asked.folder, asked.short, asked.settings) for seed in asked.seeds]
    summary = summarize(found)
    if not asked.short and len(found) > 1:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(summary, indent=1) + "\n")
    print(show(summary))


if __name__ == "__main__":
    main()
