"""polyclinic beside nnU-Net v2 on one data set: same splits by patient, steps, patch and batch.

    python benchmarks/nnunet.py --data DATA/hippocampus [--splits 1] [--steps 300]

Three arms for each split: nnU-Net itself (`make nnunet` installs it apart), polyclinic with one
hospital, and polyclinic with four hospitals by FedAvg, which share the training patients unevenly.
polyclinic's plan is its own, from the training patients' fingerprint; the patch is that of
nnU-Net's plan, the batch the same for all. Every cell is kept in --folder, and a command that was
interrupted goes on. Dice is the mean over the test patients of the mean of both structures.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from cells import absolute, keep_cell, make_plan, write_site
from measuring import machine

import polyclinic
from polyclinic.imaging.dataset_files import allow_images_in
from polyclinic.imaging.datasets import read_dataset
from polyclinic.imaging.volumes import read_label
from polyclinic.learning.metrics import dice_per_class
from polyclinic.learning.model_file import load_model
from polyclinic.learning.prediction import evaluate_natively

RESULTS = Path(__file__).with_name("results")
ARM = Path(__file__).with_name("peers") / "nnunet_arm.py"
SHARES = {"north": 0.5, "east": 0.25, "south": 0.15, "west": 0.1}  # of the training patients
TEST, VALIDATION = 0.2, 0.08
ROUNDS = 10
PATCH = (40, 56, 40)  # of nnU-Net's plan for the hippocampus
Split = dict[str, list[str]]


def main() -> None:
    """Run all cells that are not there yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder in Decathlon's layout")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--arms", nargs="+", default=["nnunet", "one", "fedavg"])
    parser.add_argument("--python", type=Path, default=Path(".nnunet/bin/python"))
    parser.add_argument("--folder", type=Path, default=Path("build/nnunet"))
    parser.add_argument("--to", type=Path, default=RESULTS / "nnunet.json")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    allow_images_in(asked.data)
    print(f"{asked.splits * len(asked.arms)} cells of {asked.steps} steps; {machine()}")
    cells = []
    for number in range(asked.splits):
        split = split_of(asked.data, number)
        for arm in asked.arms:
            cells.append(cell(asked, arm, number, split))
            print(json.dumps({key: cells[-1][key] for key in ("arm", "split", "dice", "seconds")}))
    table = {arm: [each["dice"] for each in cells if each["arm"] == arm] for arm in asked.arms}
    described = {
        "machine": machine(),
        "steps": asked.steps,
        "batch": asked.batch,
        "dice": table,
        "mean": {arm: fmean(values) for arm, values in table.items()},
        "cells": cells,
    }
    asked.to.write_text(json.dumps(described, indent=1) + "\n")
    print(json.dumps(described["mean"]))


def split_of(data: Path, number: int) -> Split:
    """Divide the patients; the same number divides them alike."""
    listed = json.loads((data / "dataset.json").read_text())["training"]
    names = sorted(Path(entry["image"]).name.removesuffix(".nii.gz") for entry in listed)
    random.Random(number).shuffle(names)
    test, validation = round(TEST * len(names)), round(VALIDATION * len(names))
    return {
        "test": names[:test],
        "validation": names[test : test + validation],
        "training": names[test + validation :],
    }


def cell(asked: argparse.Namespace, arm: str, number: int, split: Split) -> dict[str, Any]:
    """Train and test one arm on one split, or read what it came to before."""
    folder = asked.folder / f"{asked.steps}x{asked.batch}" / f"split-{number}" / arm

    def make() -> dict[str, Any]:
        said = (
            _nnunet(asked, folder, split)
            if arm == "nnunet"
            else _polyclinic(asked, folder, arm, number, split)
        )
        return {"arm": arm, "split": number, **said}

    return keep_cell(folder, make)


def _nnunet(asked: argparse.Namespace, folder: Path, split: Split) -> dict[str, Any]:
    described = folder / "split.json"
    described.write_text(json.dumps({"data": str(asked.data.resolve()), **split}))
    command = [str(asked.python), str(ARM), str(folder), str(described)]
    command += ["--steps", str(asked.steps), "--batch", str(asked.batch)]
    command += ["--threads", str(asked.threads)]
    said_in = folder / "log"
    if not said_in.exists() or not said_in.read_text().rstrip().endswith("}"):
        with said_in.open("w") as log:
            subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
    said = json.loads(said_in.read_text().splitlines()[-1])
    dataset = read_dataset(_written(folder / "data", asked.data, split))
    classes = len(dataset.labels)
    rows = []
    for case in dataset.test:
        assert isinstance(case.label, Path)
        predicted = read_label(folder / "predicted" / f"{case.name}.nii.gz", classes).as_tensor()
        truth = read_label(case.label, classes).as_tensor()
        rows.append(dice_per_class(predicted.reshape(-1), truth.reshape(-1), classes))
    per_case = torch.stack(rows)
    return {**said, "dice": float(per_case.nanmean()), "per_class": per_case.nanmean(0).tolist()}


def _written(folder: Path, data: Path, split: Mapping[str, Sequence[str]]) -> Path:
    """Write a hospital's folder: its patients, and everybody's test patients."""
    listed = json.loads((data / "dataset.json").read_text())
    entries = {
        Path(each["image"]).name.removesuffix(".nii.gz"): each for each in listed["training"]
    }
    kinds = ("training", "validation", "test")
    return write_site(
        folder,
        listed,
        {kind: [absolute(data, entries[name]) for name in split[kind]] for kind in kinds},
    )


def _hospitals(folder: Path, arm: str, data: Path, split: Split) -> dict[str, Path]:
    if arm == "one":
        return {"one": _written(folder / "data" / "one", data, split)}
    found, used = {}, {"training": 0, "validation": 0}
    for name, share in SHARES.items():
        part: Split = {"test": split["test"]}
        for kind in ("training", "validation"):
            count = max(1, round(share * len(split[kind])))
            last = name == list(SHARES)[-1]
            end = len(split[kind]) if last else used[kind] + count
            part[kind], used[kind] = split[kind][used[kind] : end], end
        found[name] = _written(folder / "data" / name, data, part)
    return found


def _polyclinic(
    asked: argparse.Namespace, folder: Path, arm: str, number: int, split: Split
) -> dict[str, Any]:
    hospitals = _hospitals(folder, arm, asked.data, split)
    planned = asked.folder / f"plan-{number}"
    plan = make_plan(planned, [_written(planned / "data", asked.data, split)], asked.data)
    shutil.rmtree(folder / "run", ignore_errors=True)
    result = polyclinic.simulate(
        hospitals,
        f"data={plan}",
        "model=dynunet",
        "training=nnunet",
        f"data.patch={list(PATCH)}",
        "training.loss.batch=false",  # as nnU-Net chooses here
        "data.mirrored_inference=true",
        f"training.batch_size={asked.batch}",
        f"training.steps={asked.steps // ROUNDS}",
        f"rounds={ROUNDS}",
        "strategy=averaging/fedavg",
        folder=folder / "run",
        threads=asked.threads,
        progress=False,
    )
    network, job = load_model(result.model_file("fedavg"))
    dataset = read_dataset(next(iter(hospitals.values())))
    _, scored = evaluate_natively(network, dataset, job.data)
    values = [list(case.scores.values()) for case in scored]
    per_case = torch.tensor(values, dtype=torch.float64)
    return {"dice": float(per_case.nanmean()), "per_class": per_case.nanmean(0).tolist()}


if __name__ == "__main__":
    sys.exit(main())
