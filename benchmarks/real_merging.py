"""Merging without rounds beside going alone and averaging, on any hospitals' folders.

    python benchmarks/real_merging.py --name NAME --data FOLDER [--data FOLDER] [--folds 3]
        [--passes 8] [--extra 2] [--cases 60] [--frozen] [SETTING=VALUE...]

FOLDER is as for `real_hospitals.py`. Patients are divided into folds, each hospital by itself.
Every hospital fine-tunes the base for `--passes` passes and hands in its task vector. Every model,
its own one too, then gets `--extra` passes at the hospital that uses it ("restored"). Averaging
makes as many rounds as there are passes in all, or `--passes` rounds and the same extra passes.
Candidates of a rule are chosen by validation cases; so is the rule of "chosen by hospitals", among
TIES, Iso-C and the mean, as strategy=merging/best does. With --cases, every
hospital trains with so many cases at most.

Every cell is kept in --folder: an interrupted command goes on. It says beforehand what is left to
do and how long it takes. The table is written to results/merging-NAME-PASSES.json, and printed as
Markdown.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from cells import is_kept, keep_cell
from measuring import machine
from merging_arms import BEST, GRIDS, Merging
from personal_arms import Federation, Models
from real_cohort import Cohort, add_options
from real_table import show, summarize

RESULTS = Path(__file__).with_name("results")
OWN, CHOSEN, RANDOM = "own model", "chosen by hospitals", "random vector"
REFERENCES = (f"{OWN}, restored", "fedavg", "fedavg, restored")
RULES = tuple(GRIDS)
# arm -> passes of everybody that it costs, as a share of (all, extra)
TURN, BACKWARDS = "in turn", "in turn, backwards"
THIN = "ties, rank 2"
LORA = {"LoRA rank 2": 2, "LoRA rank 4": 4}  # chosen by hospitals, of what they trained as factors
LORA_TURN = "in turn, LoRA rank 4"
COSTS = {
    **dict.fromkeys((OWN, "pooled", TURN, BACKWARDS, LORA_TURN), (1, 0)),
    **dict.fromkeys(LORA, (1, 2)),
    "fedavg": (1, 1),
}
OTHERS = (RANDOM, "base", "mixture", TURN, BACKWARDS, THIN, *LORA, LORA_TURN)
ARMS = (OWN, "fedavg", "pooled", *RULES, *OTHERS)


class Fold:
    """One fold of a cohort: its federation, and what the hospitals handed in.

    Args:
        cohort: The hospitals.
        number: Number of the fold.
    """

    def __init__(self, cohort: Cohort, number: int) -> None:
        self.cohort, self.number, self.asked = cohort, number, cohort.asked
        self._made: tuple[Federation, Merging] | None = None

    def make(self, arm: str) -> dict[str, Any]:
        """Make one arm's scores, by hospital, before and after the extra passes."""
        federation, merging = self._open()
        every = merging.everywhere
        models: Mapping[str, Callable[[], Models]] = {
            OWN: lambda: merging.tuned,
            RANDOM: lambda: every(merging.random(self.number)),
            "base": lambda: every(federation.initial),
            "mixture": lambda: merging.mixtures(merging.rule("mean")),
            TURN: lambda: every(merging.in_turn(merging.sites)),
            BACKWARDS: lambda: every(merging.in_turn(merging.sites[::-1])),
            THIN: lambda: every(merging.thin_rule("ties", 2, THIN)),
            LORA_TURN: lambda: every(merging.in_turn(merging.sites, LORA["LoRA rank 4"])),
        }
        if arm in ("fedavg", "pooled"):
            scores = self._together(arm, federation, merging)
        elif arm in LORA:
            thin = merging.lora(LORA[arm])
            rule = thin.best()
            scores = thin.test(f"{OWN}, {arm}", thin.tuned) | thin.test(arm, every(thin.rule(rule)))
            merging.told[arm] = {**thin.told, "rule": rule}
        else:
            found = models[arm]() if arm in models else every(merging.rule(arm))
            scores = merging.test(arm, found)
        return {"fold": self.number, "left": "inside", "arm": arm, "scores": scores} | {
            "told": merging.told.get(arm, {})
        }

    def _together(self, arm: str, federation: Federation, merging: Merging) -> Any:
        """Train with rounds, or on everybody's cases at once."""
        passes, everything = self.asked.passes, self.asked.passes + self.asked.extra
        if arm == "pooled":
            made = merging.test(arm, merging.everywhere(federation.pooled(everything)), extra=False)
        else:
            _, mean = federation.average(everything, at=passes)
            halfway = merging.test(arm, merging.everywhere(federation.kept))
            made = merging.test(arm, merging.everywhere(mean), extra=False)
            made[f"{arm}, restored"] = halfway[f"{arm}, restored"]
        return made

    def _open(self) -> tuple[Federation, Merging]:
        if self._made is None:
            federation = self.cohort.federation(self.number)
            kept = place(self.asked, self.number, OWN).with_suffix(".pt")
            passes = self.asked.passes
            if kept.exists():
                tuned = torch.load(kept)
            else:
                tuned = federation.local(passes)
                kept.parent.mkdir(parents=True, exist_ok=True)
                torch.save(tuned, kept)
            extra = range(passes, passes + self.asked.extra)
            self._made = federation, Merging(federation, tuned, extra, passes)
        return self._made


def main() -> None:
    """Run all cells that are not there yet, and write the table."""
    asked = _parse()
    torch.set_num_threads(asked.threads)
    cohort = Cohort(asked, most_cases=asked.cases)
    fold = cache(lambda number: Fold(cohort, number))
    folds = range(asked.folds if asked.only_folds is None else asked.only_folds)
    wanted = [(number, arm) for number in folds for arm in asked.arms]
    if asked.kept:
        wanted = [each for each in wanted if is_kept(place(asked, *each))]
    missing = [each for each in wanted if not is_kept(place(asked, *each))]
    print(f"{len(missing)} of {len(wanted)} cells are to be made; {machine()}", flush=True)
    if missing:
        seconds = cohort.seconds_per_pass(missing[0][0])
        costs = [COSTS.get(arm, (0, 1)) for _, arm in missing]
        passes = sum(a * (asked.passes + asked.extra) + e * asked.extra for a, e in costs)
        print(f"about {passes * seconds / 60:.0f} minutes of training, and the scoring", flush=True)
    cells = []
    for number, arm in wanted:
        cells.append(keep_cell(place(asked, number, arm), lambda n=number, a=arm: fold(n).make(a)))
        means = {
            name: round(sum(row.values()) / len(row), 3)
            for name, row in cells[-1]["scores"].items()
        }
        print(number, means, cells[-1]["told"], f"{cells[-1]['seconds']:.0f} s", flush=True)
    complete = {number for number in folds if all((number, rule) in wanted for rule in BEST)}
    _write(cohort, [*cells, *(_chosen(cells, number) for number in sorted(complete))])


def place(asked: argparse.Namespace, fold: int, arm: str) -> Path:
    """Return a cell's folder."""
    setting = f"{asked.passes}-passes-{asked.extra}-extra-{asked.cases or 'all'}"
    folder: Path = asked.folder / asked.name / setting
    return folder / f"fold-{fold}-of-{asked.folds}" / arm.replace(" ", "-")


def _chosen(cells: list[dict[str, Any]], number: int) -> dict[str, Any]:
    """Return the cell of the rule whose model scored best on validation cases."""
    tried = [cell for cell in cells if cell["fold"] == number and cell["arm"] in BEST]
    best = max(tried, key=lambda cell: cell["told"]["validation"])
    scores = {name.replace(best["arm"], CHOSEN): row for name, row in best["scores"].items()}
    return {**best, "arm": CHOSEN, "scores": scores, "told": {"rule": best["arm"]}}


def _write(cohort: Cohort, cells: list[dict[str, Any]]) -> None:
    asked = cohort.asked
    against = f"{OWN}, restored"
    table = summarize(cells, against)
    made = {
        "machine": machine(),
        "settings": asked.settings,
        "frozen": asked.frozen,
        "passes": asked.passes,
        "extra": asked.extra,
        "most_cases": asked.cases,
        "folds": asked.folds,
        "subjects": cohort.subjects(),
        "table": table,
        "recovery": recovery(cells),
        "cells": cells,
    }
    asked.to.parent.mkdir(exist_ok=True)
    asked.to.write_text(json.dumps(made, indent=1) + "\n")
    print(show(table, against))
    print("share of averaging's gain over the own model, both restored:", made["recovery"])


def recovery(cells: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return each restored arm's gain over the own model, as a share of averaging's.

    An arm is compared in the folds that it has. Averaging counts with its extra passes at home, or
    with rounds instead of them, whichever is better there.
    """
    means: dict[str, dict[int, float]] = {}
    for cell in cells:
        for arm, row in cell["scores"].items():
            means.setdefault(arm, {})[cell["fold"]] = fmean(row.values())
    found = {}
    for arm in (each for each in means if each.endswith(", restored")):
        folds = [fold for fold in means[arm] if all(fold in means[each] for each in REFERENCES)]

        def mean(name: str, folds: Sequence[int] = folds) -> float:
            return fmean(means[name][fold] for fold in folds)

        if folds:
            own = mean(f"{OWN}, restored")
            gain = max(mean("fedavg"), mean("fedavg, restored")) - own
            if gain > 0:
                found[arm] = (mean(arm) - own) / gain
    return found


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--passes", type=int, default=8, help="of every hospital, from the base")
    parser.add_argument("--extra", type=int, default=2, help="passes of restoration")
    parser.add_argument("--cases", type=int, default=0, help="most of a hospital; 0: all")
    parser.add_argument("--arms", nargs="+", default=ARMS)
    parser.add_argument("--kept", action="store_true", help="write what is there, make nothing")
    parser.add_argument("--folder", type=Path, default=Path("build/real-merging"))
    asked = parser.parse_args()
    asked.to = asked.to or RESULTS / f"merging-{asked.name}-{asked.passes}.json"
    return asked


if __name__ == "__main__":
    main()
