"""Four real hospitals, one task: a plan against today's defaults and a plain MONAI loop.

    python benchmarks/gliomas.py --data DATA/lgg_mri [--folds 3] [--steps 600]

The hospitals' patients are divided into folds, each hospital by itself: a fold's test patients are
one part, the others train, and a fifth of these validate. Arms:

- plain: a MONAI loop as one would write it for all patients in one place;
- pooled: polyclinic, one hospital that has all patients; local, fedavg, fedbn: the four hospitals;
- each of polyclinic's with the plan (planned) and with the settings of `data=segmentation_2d
  model=unet_2d` (default).

Every arm makes the same number of steps of the same number of slices, a federation so many at each
hospital. Dice is that of whole patients, the mean over a hospital's test patients; tables give the
mean over hospitals and the worst hospital. Every cell is kept in --folder: an interrupted command
goes on. It says beforehand what is left to do.
"""

import argparse
import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from cells import absolute, is_kept, keep_cell, make_plan, write_site
from measuring import machine

import polyclinic
from polyclinic.imaging.dataset_files import allow_images_in
from polyclinic.imaging.datasets import SiteDataset, read_dataset
from polyclinic.imaging.volumes import read_image, read_label
from polyclinic.learning.metrics import dice_per_class
from polyclinic.learning.model_file import load_model
from polyclinic.learning.prediction import evaluate_natively

RESULTS = Path(__file__).with_name("results")
ARMS = ("plain", "pooled", "local", "fedavg", "fedbn")
KINDS = ("planned", "default")
ROUNDS = 12
RATE = 1e-3  # of the plain loop
DEFAULT = (
    "data=segmentation_2d",
    "model=unet_2d",
    "data.labels=[background,tumour]",
    "data.augment=[{_target_: monai.transforms.RandFlipd, keys: [image, label], prob: 0.5, "
    "spatial_axis: 0}]",
)


def main() -> None:
    """Run all cells that are not there yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder for each hospital")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--only-fold", type=int, help="one of them alone")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--slices", type=int, default=12, help="of a step")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["planned"])
    parser.add_argument("--plan", type=Path, help="plan.yaml; default: made of the training data")
    parser.add_argument("--folder", type=Path, default=Path("build/gliomas"))
    parser.add_argument("--to", type=Path, default=RESULTS / "gliomas.json")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    allow_images_in(asked.data)
    numbers = range(asked.folds) if asked.only_fold is None else [asked.only_fold]
    wanted = [
        (number, arm, kind)
        for number in numbers
        for arm in asked.arms
        for kind in (asked.kinds if arm != "plain" else ["plain"])
    ]
    missing = [each for each in wanted if not is_kept(_place(asked, *each))]
    print(f"{len(missing)} of {len(wanted)} cells are to be made; {machine()}", flush=True)
    cells = []
    for number, arm, kind in wanted:
        cells.append(cell(asked, number, arm, kind))
        print(json.dumps({key: cells[-1][key] for key in ("fold", "arm", "kind", "mean", "worst")}))
    asked.to.write_text(json.dumps(_table(asked, cells), indent=1) + "\n")


def _table(asked: argparse.Namespace, cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    rows: dict[str, dict[str, Any]] = {}
    for each in cells:
        name = each["arm"] if each["kind"] == "plain" else f"{each['arm']}, {each['kind']}"
        row = rows.setdefault(name, {"mean": [], "worst": []})
        row["mean"].append(each["mean"])
        row["worst"].append(each["worst"])
    means = {
        name: {key: fmean(values) for key, values in row.items()} for name, row in rows.items()
    }
    return {"machine": machine(), "steps": asked.steps, "means": means, "cells": list(cells)}


def _place(asked: argparse.Namespace, number: int, arm: str, kind: str) -> Path:
    folder: Path = (
        asked.folder / f"{asked.steps}x{asked.slices}" / f"fold-{number}-of-{asked.folds}"
    )
    return folder / f"{arm}-{kind}"


def cell(asked: argparse.Namespace, number: int, arm: str, kind: str) -> dict[str, Any]:
    """Train and test one arm on one fold, or read what it came to before."""
    folder = _place(asked, number, arm, kind)

    def make() -> dict[str, Any]:
        hospitals = _hospitals(folder / "data", asked.data, number, asked.folds)
        shutil.rmtree(folder / "run", ignore_errors=True)
        scores = (
            _plain(asked, number, hospitals)
            if arm == "plain"
            else _polyclinic(asked, folder, arm, kind, hospitals)
        )
        return {
            "fold": number,
            "arm": arm,
            "kind": kind,
            "scores": scores,
            "mean": fmean(scores.values()),
            "worst": min(scores.values()),
        }

    return keep_cell(folder, make)


def _hospitals(folder: Path, data: Path, number: int, folds: int) -> dict[str, Path]:
    """Write every hospital's folder of one fold."""
    found = {}
    for site in sorted(path.parent for path in data.glob("*/dataset.json")):
        listed = json.loads((site / "dataset.json").read_text())
        entries = sorted(listed["training"], key=lambda each: str(each["image"]))
        random.Random(0).shuffle(entries)
        rest = [entry for place, entry in enumerate(entries) if place % folds != number]
        validation = max(1, round(len(rest) / 5))
        split = {
            "test": [entry for place, entry in enumerate(entries) if place % folds == number],
            "validation": rest[:validation],
            "training": rest[validation:],
        }
        found[site.name] = write_site(
            folder / site.name,
            listed,
            {kind: [absolute(site, each) for each in several] for kind, several in split.items()},
        )
    return found


def _polyclinic(
    asked: argparse.Namespace, folder: Path, arm: str, kind: str, hospitals: dict[str, Path]
) -> dict[str, float]:
    strategy = "fedavg" if arm == "pooled" else arm
    taking_part = {"pooled": _pooled(folder, hospitals)} if arm == "pooled" else hospitals
    result = polyclinic.simulate(
        taking_part,
        *_settings(asked, folder, kind, hospitals),
        f"training.batch_size={asked.slices}",
        f"training.steps={asked.steps // ROUNDS}",
        f"rounds={ROUNDS}",
        f"strategy=averaging/{strategy}",
        folder=folder / "run",
        threads=asked.threads,
        progress=False,
    )
    if arm != "pooled":
        return dict(result.scores[strategy])
    network, job = load_model(result.model_file(strategy))
    return {
        name: evaluate_natively(network, read_dataset(site), job.data)[0].score
        for name, site in hospitals.items()
    }


def _settings(
    asked: argparse.Namespace, folder: Path, kind: str, hospitals: dict[str, Path]
) -> Sequence[str]:
    """Return the settings of a kind; a fold's plan is made of its own training patients."""
    if kind == "default":
        return DEFAULT
    sites = list(hospitals.values())
    plan = asked.plan or make_plan(folder.parent / "plan", sites, asked.data, "--dimensions", "2")
    return (f"data={plan}", "model=dynunet", "training=nnunet")


def _pooled(folder: Path, hospitals: dict[str, Path]) -> Path:
    listed = [json.loads((site / "dataset.json").read_text()) for site in hospitals.values()]
    split = {
        kind: [entry for each in listed for entry in each[kind]]
        for kind in ("training", "validation", "test")
    }
    return write_site(folder / "data" / "pooled", listed[0], split)


# ---- the plain loop


def _plain(asked: argparse.Namespace, number: int, hospitals: dict[str, Path]) -> dict[str, float]:
    """Train on all patients' slices with MONAI and torch alone, as in a notebook."""
    from monai.losses import DiceCELoss
    from monai.networks.nets import BasicUNet

    torch.manual_seed(number)
    sites = {name: read_dataset(path) for name, path in hospitals.items()}
    pairs = [_slices(site, kind) for site in sites.values() for kind in ("training", "validation")]
    images = torch.cat([image for several in pairs for image, _ in several])
    labels = torch.cat([label for several in pairs for _, label in several])
    weights = torch.where(labels.flatten(1).any(1), 2.0, 1.0)
    network = BasicUNet(spatial_dims=2, out_channels=2).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-4)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, asked.steps)
    loss_of = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)
    for _ in range(asked.steps):
        chosen = torch.multinomial(weights, asked.slices)
        image, label = images[chosen], labels[chosen]
        for axis in (2, 3):
            if torch.rand(()) < 0.5:
                image, label = image.flip(axis), label.flip(axis)
        image = image * (0.8 + 0.4 * torch.rand(len(image), 1, 1, 1))
        image = image + 0.2 * (torch.rand(len(image), 1, 1, 1) - 0.5)
        optimizer.zero_grad()
        loss = loss_of(network(image), label)
        loss.backward()
        optimizer.step()
        falling.step()
    network.eval()
    return {name: _test_plain(network, site) for name, site in sites.items()}


def _slices(site: SiteDataset, kind: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    found = []
    for case in getattr(site, kind):
        image = torch.as_tensor(read_image(case.image, 1, 2).as_tensor())[0]
        inside = image != 0
        image = torch.where(inside, (image - image[inside].mean()) / image[inside].std(), 0.0)
        label = torch.as_tensor(read_label(case.label, 2).as_tensor()).reshape(image.shape)
        found.append((image.permute(2, 0, 1)[:, None], label.permute(2, 0, 1)[:, None].float()))
    return found


@torch.inference_mode()
def _test_plain(network: torch.nn.Module, site: SiteDataset) -> float:
    scores = []
    for image, label in _slices(site, "test"):
        predicted = torch.cat([network(part).argmax(1) for part in image.split(16)])
        scores.append(float(dice_per_class(predicted, label[:, 0].to(torch.int64), 2)[0]))
    return fmean(scores)


if __name__ == "__main__":
    main()
