"""What patient privacy costs: scores of real hospitals against epsilon.

    POLYCLINIC_DATA=... python benchmarks/epsilon.py build/epsilon [--only cells] [--seeds 3]

Two federations of real hospitals train by FedAvg with `privacy=patient_dp`:

- cells: three laboratories' white blood cells, balanced accuracy. A linear classifier reads what a
  frozen ImageNet network sees. Nobody knows which photographs are of one person, so each counts as
  one;
- gliomas: four hospitals' FLAIR volumes (lgg_mri), Dice.

Each seed has another split by patient, other first weights and other noise. "none" is the same
training without noise, clipping and sampling. Settings are the same for all epsilons and were not
tuned on any score. Every cell is kept in FOLDER: an interrupted command goes on. It says
beforehand what is left, and what that costs. FOLDER/epsilon.svg is the plot.
"""

import argparse
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from cells import is_kept, keep_cell
from measuring import machine
from real_sites import divide, find_hospitals

import polyclinic
from polyclinic.federation.run_folder import read_lines
from polyclinic.imaging.datasets import SiteDataset

RESULTS = Path(__file__).with_name("results")
EPSILONS = ("none", "32", "8", "2")
FOLDS = 3


@dataclass(frozen=True)
class Federation:
    """One of the federations.

    Attributes:
        folder: Below POLYCLINIC_DATA.
        settings: Of training.
        score: Name of the score.
        seconds: Of one cell, about, with and without noise, on one core.
    """

    folder: str
    settings: tuple[str, ...]
    score: str
    seconds: tuple[float, float]


FEDERATIONS = {
    "cells": Federation(
        "white_blood_cells",
        (
            "data=white_blood_cells",
            "data.patch=[64,64]",
            "model=efficientnet_lite0",
            "model.frozen=true",
            "training=fine_tuning",
            "training.learning_rate=0.01",
            "training.batch_size=32",
            "training.steps=6",
            "rounds=10",
        ),
        "balanced accuracy",
        (200, 100),
    ),
    "gliomas": Federation(
        "lgg_mri",
        (
            "data=segmentation_2d",
            "data.labels=[background,tumour]",
            "data.patch=[64,64]",
            "data.spacing_mm=[2.0,2.0,1.0]",
            "data.samples_per_case=2",
            "data.modality=[FLAIR]",
            "model=unet_2d",
            "model.channels=[8,16,32]",
            "model.strides=[2,2]",
            "training.batch_size=16",
            "training.steps=8",
            "rounds=10",
        ),
        "Dice",
        (200, 100),
    ),
}


def train(name: str, epsilon: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train and test one federation; return scores and epsilons by hospital."""
    chosen, data = FEDERATIONS[name], Path(os.environ["POLYCLINIC_DATA"])
    sites: dict[str, SiteDataset] = {
        site: replace(divide(dataset, seed % FOLDS, FOLDS), name=site)
        for site, dataset in find_hospitals([data / chosen.folder]).items()
    }
    private = (
        () if epsilon == "none" else ("privacy=patient_dp", f"privacy.patients.epsilon={epsilon}")
    )
    result = polyclinic.simulate(
        sites,
        *chosen.settings,
        *private,
        "strategy=averaging/fedavg",
        "training.validation_cases=1",
        f"seed={seed}",
        folder=folder / "run",
        resume=True,
        progress=False,
    )
    told: dict[str, float] = {}
    for event in read_lines(result.folder / "events.jsonl"):
        if event["kind"] == "answered" and event.get("epsilon") is not None:
            told[event["site"]] = event["epsilon"]
    scores = result.scores["fedavg"]
    about = {"federation": name, "epsilon": epsilon, "seed": seed}
    patients = {site: len(dataset.training) for site, dataset in sites.items()}
    return {**about, "scores": scores, "told": told, "patients": patients}


def table(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each federation and epsilon: mean over hospitals, then over seeds."""
    rows = []
    for name, chosen in FEDERATIONS.items():
        for epsilon in EPSILONS:
            found = [
                fmean(cell["scores"].values())
                for cell in cells
                if (cell["federation"], cell["epsilon"]) == (name, epsilon)
            ]
            if found:
                rows.append(
                    {
                        "federation": name,
                        "score": chosen.score,
                        "epsilon": epsilon,
                        "mean": fmean(found),
                        "spread": stdev(found) if len(found) > 1 else None,
                        "seeds": len(found),
                    }
                )
    return rows


def draw(rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw scores against epsilon as SVG: a line for each federation, a bar for the spread."""
    width, height, left, top, right = 600, 300, 60, 20, 180
    across, down = (width - left - right) / (len(EPSILONS) - 1), height - top - 50
    order = EPSILONS[::-1]  # the strictest first
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    for level in (0, 0.25, 0.5, 0.75, 1.0):
        y = top + down * (1 - level)
        parts.append(f'<path d="M{left} {y}H{width - right}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{level:g}</text>')
    for place, epsilon in enumerate(order):
        x, said = left + across * place, "no noise" if epsilon == "none" else f"ε = {epsilon}"
        parts.append(f'<text x="{x}" y="{height - 28}" text-anchor="middle">{said}</text>')
    for colour, name in zip(("#1b6ca8", "#b8561b"), FEDERATIONS, strict=True):
        points = [
            (left + across * order.index(row["epsilon"]), row["mean"], row["spread"] or 0.0)
            for row in rows
            if row["federation"] == name
        ]
        places = sorted((x, top + down * (1 - mean), down * spread) for x, mean, spread in points)
        if not places:
            continue
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, y, spread in places:
            parts.append(f'<path d="M{x} {y - spread}V{y + spread}" stroke="{colour}"/>')
            parts.append(f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour}"/>')
        x, y, _ = places[-1]
        said = f"{name}: {FEDERATIONS[name].score}"
        parts.append(f'<text x="{x + 12}" y="{y + 4}" fill="{colour}">{said}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def show(rows: Iterable[Mapping[str, Any]]) -> None:
    """Print the table as Markdown."""
    print("| federation | score | epsilon | mean of hospitals | spread | seeds |")
    print("|---" * 6 + "|")
    for row in rows:
        spread = "" if row["spread"] is None else f"{row['spread']:.3f}"
        print(
            f"| {row['federation']} | {row['score']} | {row['epsilon']} | {row['mean']:.3f} | "
            f"{spread} | {row['seeds']} |"
        )


def main() -> None:
    """Make all cells that are not there yet, and write table and plot."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="keeps what was trained")
    parser.add_argument("--only", choices=list(FEDERATIONS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kept", action="store_true", help="train nothing: write what is there")
    parser.add_argument("--to", type=Path, default=RESULTS / "epsilon.json")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    wanted = [
        (name, epsilon, seed)
        for seed in range(asked.seeds)
        for name in ([asked.only] if asked.only else FEDERATIONS)
        for epsilon in EPSILONS
    ]
    places = {
        each: asked.folder / each[0] / f"epsilon-{each[1]}" / f"seed-{each[2]}" for each in wanted
    }
    if asked.kept:
        wanted = [each for each in wanted if is_kept(places[each])]
    left = [each for each in wanted if not is_kept(places[each])]
    cost = sum(FEDERATIONS[name].seconds[epsilon == "none"] for name, epsilon, _ in left)
    print(
        f"{len(left)} of {len(wanted)} cells are to be made, about {cost / 60:.0f} minutes; "
        f"{machine()}",
        flush=True,
    )
    cells: list[dict[str, Any]] = []
    for each in wanted:
        place = places[each]
        cells.append(keep_cell(place, lambda each=each, place=place: train(*each, place)))  # type: ignore[misc]
        made = cells[-1]
        told = max(made["told"].values(), default=0.0)
        print(
            f"{'/'.join(map(str, each))}: {fmean(made['scores'].values()):.3f}, epsilon told "
            f"{told:.3f}, {made['seconds']:.0f} s",
            flush=True,
        )
        rows = table(cells)
        asked.to.write_text(
            json.dumps({"machine": machine(), "rows": rows, "cells": cells}, indent=1) + "\n"
        )
        (asked.folder / "epsilon.svg").write_text(draw(rows), encoding="utf-8")
    show(table(cells))


if __name__ == "__main__":
    main()
