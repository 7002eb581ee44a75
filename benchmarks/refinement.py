"""Refinement for hospitals that joined later, and for contributors, with its ablations.

    python benchmarks/refinement.py [--cohort brain|anatomies|anatomies-four|cells]
                                    [--seeds 0 1 2] [--folder build/refinement] [--short]

Figures are mean and spread over seeds of data and training. Six hospitals take part and three join
later with a description alone (brain), or every hospital is left out in turn (anatomies: 16 people
of POLYCLINIC_DATA on the six simulated scanners, or on four of which each has a similar one; cells:
three real laboratories). Subjects are split first; every choice is made on validation subjects of
hospitals that take part. The same seed gives every arm the same hospitals, initial weights and
number of passes.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from measuring import machine

RESULTS = Path(__file__).with_name("results")
SHUFFLES = 3
# generated shifts: each alone, and together those that did no harm on a cohort of another seed
SHIFTS = (
    "gamma=0.3",
    "inversion=0.3",
    "bias_field=0.3",
    "noise=0.3",
    "blur=0.2",
    "resolution=0.2",
    "feature=fedfa",
    "feature=mixstyle",
    "gamma=0.3, bias_field=0.3, noise=0.3",
)
BRAIN = ["experiment=demo"]
# four people each, two of them for training; every scanner has a similar one
FOUR = ("mprage-3t", "spgr-1.5t", "t2w", "t2-new")
CELLS = ["experiment=demo_cells", "model.pretrained=true"]
Scores = dict[str, dict[str, float]]  # arm -> site -> test score


def measure(cohort: str, seed: int, folder: Path, short: bool) -> dict[str, object]:
    """Measure all arms of one seed."""
    import torch

    torch.set_num_threads(1)
    start = time.monotonic()
    found = (
        _brain(seed, folder, short)
        if cohort == "brain"
        else _leave_out_in_turn(cohort, seed, folder)
    )
    print(f"{cohort}, seed {seed}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return {"seed": seed, **found}


def _brain(seed: int, folder: Path, short: bool) -> dict[str, object]:
    from refining import Hospitals

    from polyclinic_demos.cohorts.hospitals import HOSPITALS, NEWCOMERS, write_cohort

    paths = write_cohort(
        folder / f"brain-{seed}",
        sites=9,
        subjects=(4, 1, 2),
        seed=seed,
        scanners=[*HOSPITALS, *NEWCOMERS],
    )
    hospitals = Hospitals(paths, 6, [*BRAIN, f"seed={seed}"])
    scores: Scores = {}
    chosen = _refined_arms(hospitals, scores)
    _references(hospitals, scores)
    for shift in () if short else SHIFTS:
        changed = Hospitals(
            paths,
            6,
            [*BRAIN, f"seed={seed}", *(f"training.shifts.{text}" for text in shift.split(", "))],
        )
        coordinator = _contributions(changed)
        scores[f"refined, with {shift}"] = _test_refined(changed, coordinator, chosen["recipes"])
    chosen["recipes"] = [str(recipe) for recipe in chosen["recipes"]]
    return {"scores": scores, **chosen, "old": hospitals.old, "new": hospitals.new}


def _contributions(hospitals):  # type: ignore[no-untyped-def]
    """Return the coordinator with everybody's contributions and descriptions."""
    from refining import Coordinator

    warm = hospitals.refining.base_rounds
    base = hospitals.average(warm)[""]
    vectors = hospitals.contribute(base, warm + 1, hospitals.config.rounds)
    return Coordinator(hospitals, base, vectors, hospitals.describe(base, _statistics(hospitals)))


def _refined_arms(hospitals, scores: Scores, *, brief: bool = False) -> dict[str, Any]:  # type: ignore[no-untyped-def]
    """Contribute, choose, and test refined models and the uniform merge.

    Then the ablations are run.
    """
    coordinator = _contributions(hospitals)
    recipe = coordinator.choose(hospitals.refining.recipes(), leave_out=True).recipe
    own = coordinator.choose(hospitals.refining.own_recipes(recipe), leave_out=False).recipe
    scores["refined"] = _test_refined(hospitals, coordinator, (recipe, own))
    everybody, contributors = [*hospitals.old, *hospitals.new], list(coordinator.vectors)
    uniform = coordinator.mix({site: 1 / len(contributors) for site in contributors})
    scores["uniform merge"] = {site: hospitals.test(uniform, site) for site in everybody}
    _ablations(hospitals, coordinator, scores, recipe, brief=brief)
    coefficients = {
        site: dict(coordinator.refine(site, own if site in contributors else recipe).coefficients)
        for site in everybody
    }
    return {"recipes": (recipe, own), "coefficients": coefficients}


def _test_refined(hospitals, coordinator, recipes) -> dict[str, float]:  # type: ignore[no-untyped-def]
    """Test everybody's own model on its own test images."""
    recipe, own = recipes
    refined = {
        site: coordinator.refine(site, own if site in coordinator.vectors else recipe)
        for site in (*hospitals.old, *hospitals.new)
    }
    return {site: hospitals.test(coordinator.model(each), site) for site, each in refined.items()}


def _statistics(hospitals) -> list[str]:  # type: ignore[no-untyped-def]
    return [*hospitals.refining.statistics, "early_features"]


def _ablations(hospitals, coordinator, scores: Scores, recipe, *, brief: bool) -> None:  # type: ignore[no-untyped-def]
    """Test single sources and shuffled descriptions.

    Unless `brief`, also each statistic alone, and coefficients found on unlabelled images.
    """
    from refining import shuffled

    everybody = [*hospitals.old, *hospitals.new]
    for source in coordinator.vectors:
        alone = coordinator.mix({source: 1.0})
        scores[f"single {source}"] = {
            site: hospitals.test(alone, site) for site in (*hospitals.new, source)
        }
    totals: dict[str, float] = defaultdict(float)
    for number in range(SHUFFLES):
        wrong = shuffled(everybody, number)
        for site in hospitals.new:
            model = coordinator.model(coordinator.refine(wrong[site], recipe))
            totals[site] += hospitals.test(model, site) / SHUFFLES
    scores["shuffled descriptions"] = dict(totals)
    if brief:
        return
    from dataclasses import replace

    for statistic in _statistics(hospitals):
        recipes = [
            replace(each, statistic=statistic)
            for each in hospitals.refining.recipes()
            if each.statistic == recipe.statistic
        ]
        best = coordinator.choose(
            [each for each in recipes if each.rule != "uniform"], leave_out=True
        ).recipe
        models = {site: coordinator.model(coordinator.refine(site, best)) for site in hospitals.new}
        scores[f"by {statistic}"] = {
            site: hospitals.test(model, site) for site, model in models.items()
        }
    for objective in ("entropy", "consistency"):
        scores[f"adaptive ({objective})"] = {
            site: _adapt(hospitals, coordinator, site, objective) for site in hospitals.new
        }


def _adapt(hospitals, coordinator, site: str, objective: str) -> float:  # type: ignore[no-untyped-def]
    """Let a newcomer find its own coefficients, without a statistic or a label.

    It starts from the uniform ones.
    """
    from dataclasses import replace

    from closed_form_heads.adaptive import adapt

    from polyclinic.config.schemas import ShiftsConfig
    from polyclinic.learning.loading.samples import training_loader

    plain = replace(hospitals.config.training, shifts=ShiftsConfig())
    loader = training_loader(hospitals.sites[site], plain, hospitals.config.seed)
    start = {source: 1 / len(coordinator.vectors) for source in coordinator.vectors}
    images = [batch["image"] for _ in range(2) for batch in islice(loader, 12)]
    found = adapt(
        hospitals.network, coordinator.base, coordinator.vectors, start, images, objective=objective
    )
    return float(hospitals.test({**hospitals.initial, **found.state}, site))


def _references(hospitals, scores: Scores) -> None:  # type: ignore[no-untyped-def]
    rounds = hospitals.config.rounds
    averaged = hospitals.average(rounds)[""]
    scores["FedAvg"] = {
        site: hospitals.test(averaged, site) for site in (*hospitals.old, *hospitals.new)
    }
    personal = hospitals.average(rounds, "averaging/fedbn")
    scores["FedBN"] = {
        site: hospitals.test(personal.get(site, personal[""]), site)
        for site in (*hospitals.old, *hospitals.new)
    }
    alone = {
        site: hospitals.train(hospitals.initial, site, range(1, rounds + 1))
        for site in hospitals.old
    }
    scores["local only"] = {site: hospitals.test(state, site) for site, state in alone.items()}
    together = hospitals.pooled(rounds)
    scores["pooled"] = {
        site: hospitals.test(together, site) for site in (*hospitals.old, *hospitals.new)
    }


def _leave_out_in_turn(cohort: str, seed: int, folder: Path) -> dict[str, object]:
    """Let every hospital be the newcomer once."""
    from refining import Hospitals

    paths, overrides = _folders(cohort, seed, folder)
    merged: Scores = defaultdict(dict)
    chosen = {}
    for number, left in enumerate(paths):
        others = [path for place, path in enumerate(paths) if place != number]
        hospitals = Hospitals([*others, left], len(others), [*overrides, f"seed={seed}"])
        scores: Scores = {}
        chosen[left.name] = {
            key: str(value) for key, value in _refined_arms(hospitals, scores, brief=True).items()
        }
        averaged = hospitals.average(hospitals.config.rounds)[""]
        scores["FedAvg"] = {left.name: hospitals.test(averaged, left.name)}
        best = max(
            score[left.name]
            for arm, score in scores.items()
            if arm.startswith("single ") and left.name in score
        )
        scores["best single (oracle)"] = {left.name: best}
        for arm, row in scores.items():
            if not arm.startswith("single ") and left.name in row:
                merged[arm][left.name] = row[left.name]
    return {
        "scores": dict(merged),
        "chosen": chosen,
        "old": [],
        "new": [path.name for path in paths],
    }


def _folders(cohort: str, seed: int, folder: Path) -> tuple[Sequence[Path], list[str]]:
    if cohort == "cells":
        from polyclinic_demos.cohorts.laboratories import write_laboratories

        return write_laboratories(folder / f"cells-{seed}", seed=seed), [*CELLS, "rounds=6"]
    from polyclinic_demos.cohorts.hospitals import HOSPITALS, NEWCOMERS, write_cohort

    known = {scanner.name: scanner for scanner in (*HOSPITALS, *NEWCOMERS)}
    scanners = [known[name] for name in FOUR] if cohort == "anatomies-four" else HOSPITALS
    paths = write_cohort(
        folder / f"{cohort}-{seed}",
        sites=len(scanners),
        subjects=(4, 1, 2),
        seed=seed,
        anatomy="real",
        scanners=scanners,
    )
    return paths, BRAIN


def summarize(found: Sequence[Mapping[str, object]]) -> dict[str, dict[str, list[float]]]:
    """Return arm -> new, old -> mean over hospitals, one for each seed."""
    table: dict[str, dict[str, list[float]]] = {}
    for each in found:
        scores: Scores = each["scores"]  # type: ignore[assignment]
        for arm, row in scores.items():
            for group in ("new", "old"):
                sites: list[str] = each[group]  # type: ignore[assignment]
                if sites and all(site in row for site in sites):
                    table.setdefault(arm, {}).setdefault(group, []).append(
                        statistics.fmean(row[site] for site in sites)
                    )
        if each["old"]:
            new: list[str] = each["new"]  # type: ignore[assignment]
            best = [
                max(
                    row[site]
                    for arm, row in scores.items()
                    if arm.startswith("single ") and site in row
                )
                for site in new
            ]
            table.setdefault("best single (oracle)", {}).setdefault("new", []).append(
                statistics.fmean(best)
            )
    return {arm: groups for arm, groups in table.items() if not arm.startswith("single ")}


def main() -> None:
    """Run every seed, two at a time, and write results/refinement-COHORT.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--cohort", choices=("brain", "anatomies", "anatomies-four", "cells"), default="brain"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("build/refinement"))
    parser.add_argument(
        "--short",
        action="store_true",
        help="without the ablation of each generated shift; keeps its figures in FOLDER",
    )
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        jobs = [
            pool.submit(measure, arguments.cohort, seed, arguments.folder, arguments.short)
            for seed in arguments.seeds
        ]
        found = [job.result() for job in jobs]
    table = summarize(found)
    folder = arguments.folder if arguments.short else RESULTS
    folder.mkdir(exist_ok=True)
    out = folder / f"refinement-{arguments.cohort}.json"
    out.write_text(
        json.dumps({"machine": machine(), "table": table, "seeds": found}, indent=1) + "\n"
    )
    for arm, groups in table.items():
        cells = [
            f"{group} {statistics.fmean(values):.3f} +/- "
            f"{statistics.stdev(values) if len(values) > 1 else 0.0:.3f}"
            for group, values in groups.items()
        ]
        print(f"{arm:32} {'   '.join(cells)}")


if __name__ == "__main__":
    main()
