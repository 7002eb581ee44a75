"""Refinement beside other ways of personal models, on any hospitals' folders.

    python benchmarks/real_hospitals.py --name NAME --data FOLDER [--data FOLDER] [--folds 3]
        [--rounds 8] [--frozen] [SETTING=VALUE...]

FOLDER is a hospital's (dataset.json), a folder of such folders, or one with labels.csv (site,
image, label). Patients are divided into folds, each hospital by itself. For every fold there is the
federation of all hospitals ("inside"), and one without each hospital, which is then a newcomer
without labels. Every arm makes `--rounds` passes (Ditto and APFL twice as many); of refinement's,
half are rounds of averaging that make the centre. Everything that is chosen is chosen on
validation cases of hospitals that take part. With --frozen a trunk reads the images once, and only
a head is trained: that takes minutes, not hours.

Every cell is kept in --folder: an interrupted command goes on. It says beforehand what is left to
do and how long it takes. The table is written to results/real-NAME-ROUNDS.json, and printed as
Markdown.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from cells import is_kept, keep_cell
from measuring import machine
from personal_arms import BASELINES, Federation
from real_cohort import Cohort, add_options
from real_table import show, summarize
from refined_arms import Refined

from polyclinic.config.compose import instantiate, load_config
from polyclinic_strategies.refinement.strategy import Refining

RESULTS = Path(__file__).with_name("results")
INSIDE = "inside"
FAMILY = "refined"  # the cell of averaging and everything that is made of its rounds
REFINING: Refining = instantiate(load_config(["strategy=refinement"]).strategy, _recursive_=False)
NEWCOMERS = (FAMILY, "fedbn", "pooled")  # cells that say something of a newcomer


def main() -> None:
    """Run all cells that are not there yet, and write the table."""
    asked = _parse()
    torch.set_num_threads(asked.threads)
    cohort = Cohort(asked, REFINING.statistics)
    wanted = [
        (fold, left, arm)
        for fold in range(asked.folds if asked.only_folds is None else asked.only_folds)
        for left in (INSIDE, *(sorted(cohort.hospitals) if asked.left is None else asked.left))
        for arm in (FAMILY, *BASELINES)
        if (left == INSIDE or arm in NEWCOMERS) and arm in asked.arms
    ]
    missing = [each for each in wanted if not is_kept(_place(asked, *each))]
    print(f"{len(missing)} of {len(wanted)} cells are to be made; {machine()}", flush=True)
    if missing:
        seconds = cohort.seconds_per_pass(missing[0][0])
        passes = sum(BASELINES[arm][1] if arm in BASELINES else 1.25 for _, _, arm in missing)
        print(f"about {passes * asked.rounds * seconds / 60:.0f} minutes of training", flush=True)
    cells = []
    for fold, left, arm in wanted:
        cells.append(_cell(cohort, fold, left, arm))
        short = {key: round(value, 3) for key, value in cells[-1]["scores"].get(arm, {}).items()}
        print(fold, left, arm, short, f"{cells[-1]['seconds']:.0f} s", flush=True)
        if (fold, left, arm) in missing:
            _write(cohort, cells)
    _write(cohort, cells)
    print(show(summarize(cells)))


def _write(cohort: Cohort, cells: list[dict[str, Any]]) -> None:
    asked = cohort.asked
    made = {
        "machine": machine(),
        "settings": asked.settings,
        "frozen": asked.frozen,
        "rounds": asked.rounds,
        "tuning": asked.tuning,
        "folds": asked.folds,
        "subjects": cohort.subjects(),
        "table": summarize(cells),
        "cells": cells,
    }
    asked.to.parent.mkdir(exist_ok=True)
    asked.to.write_text(json.dumps(made, indent=1) + "\n")


def _cell(cohort: Cohort, fold: int, left: str, arm: str) -> dict[str, Any]:
    def make() -> dict[str, Any]:
        scores, told = _family(cohort, fold, left) if arm == FAMILY else ({}, {})
        if arm != FAMILY:
            scores = {arm: _baseline(cohort, fold, left, BASELINES[arm][0])}
        return {"fold": fold, "left": left, "arm": arm, "scores": scores, "told": told}

    return keep_cell(_place(cohort.asked, fold, left, arm), make)


def _baseline(
    cohort: Cohort, fold: int, left: str, train: Callable[[Federation, int], Any]
) -> dict[str, float]:
    """Test everybody's model; a newcomer's is the mean of those."""
    federation = cohort.federation(fold, left)
    found = train(federation, cohort.asked.rounds)
    personal = isinstance(next(iter(found.values())), Mapping)
    if personal and left != INSIDE:
        found, personal = federation.mean(found), False
    tested = federation.sites if left == INSIDE else {left: cohort.sites(fold)[left]}
    return {
        site: federation.score(found[site] if personal else found, where, "test")
        for site, where in tested.items()
    }


def _family(
    cohort: Cohort, fold: int, left: str
) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """Test averaging, and refinement around the centre that its first rounds made."""
    rounds = cohort.asked.rounds
    warm = rounds - cohort.asked.tuning
    federation = cohort.federation(fold, left)
    _, averaged = federation.average(rounds, at=warm)
    federation.network.load_state_dict(federation.kept)
    rows = {  # of everybody's training images, by the base: the trunk, or the centre
        name: site.rows(federation.network, REFINING.statistics)
        for name, site in cohort.sites(fold).items()
    }
    refined = Refined(federation, federation.kept, range(warm, rounds), REFINING, rows)
    scores: dict[str, dict[str, float]] = {}
    told: dict[str, Any] = {}
    tested = federation.sites if left == INSIDE else {left: cohort.sites(fold)[left]}
    for site, where in tested.items():
        found, told[site] = refined.test(site, where)
        found["fedavg"] = federation.score(averaged, where, "test")
        found["centre"] = federation.score(refined.centre, where, "test")
        for name, score in found.items():
            scores.setdefault(name, {})[site] = score
    return scores, told


def _place(asked: argparse.Namespace, fold: int, left: str, arm: str) -> Path:
    tuning = f"-{asked.tuning}-alone" if arm == FAMILY else ""
    folder: Path = asked.folder / asked.name / f"{asked.rounds}-rounds{tuning}"
    return folder / f"fold-{fold}-of-{asked.folds}" / left / arm


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--left", nargs="*", help="newcomers; default: every hospital in turn")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--tuning", type=int, default=0, help="of them, alone; 0: half")
    parser.add_argument("--arms", nargs="+", default=[FAMILY, *BASELINES])
    parser.add_argument("--folder", type=Path, default=Path("build/real-hospitals"))
    asked = parser.parse_args()
    asked.tuning = asked.tuning or max(1, asked.rounds // 2)
    asked.to = asked.to or RESULTS / f"real-{asked.name}-{asked.rounds}.json"
    return asked


if __name__ == "__main__":
    main()
