"""Closed-form heads on three real laboratories, and the cost of one join among 1,000 hospitals.

    POLYCLINIC_DATA=... python benchmarks/closed_form.py

Features are from the ImageNet EfficientNet-Lite0, frozen. Each laboratory in turn is the newcomer,
in three splits; figures are balanced accuracy on its test images. The ridge is chosen on validation
images of those laboratories whose labels made the head.
"""

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, pstdev

import torch
from closed_form_heads.gaussian_head import choose_share, refined_head
from closed_form_heads.moments import HeadMoments, head_features, moments_of, to_state
from closed_form_heads.ridge_head import (
    AdditiveMoments,
    Head,
    ridge_head,
    uncentred,
)
from measuring import machine
from torch import Tensor

from polyclinic.config.compose import instantiate, load_config
from polyclinic.imaging.datasets import read_dataset
from polyclinic.learning.metrics import recall_per_class
from polyclinic.learning.preparation import prepare_case
from polyclinic_demos.cohorts.laboratories import write_laboratories

RESULTS = Path(__file__).with_name("results")
SEEDS, RIDGES, MIN_EXAMPLES = range(3), (1.0, 10.0, 100.0, 1000.0), 3
HOSPITALS, CASES, REPEATS = 1_000, 30, 5
Pairs = tuple[Tensor, Tensor]  # features and labels


@dataclass(frozen=True)
class Laboratory:
    """Data of one laboratory in one split."""

    splits: dict[str, Pairs]
    classes: int
    centre: bool

    @property
    def moments(self) -> HeadMoments:
        """Moments that it hands over."""
        raw = moments_of(*self.splits["training"], self.classes, MIN_EXAMPLES)
        return raw.centred() if self.centre else raw

    @property
    def mean(self) -> Tensor:
        """Mean of its training features if they are centred; else 0."""
        features = self.splits["training"][0]
        return (
            features.mean(0) if self.centre else torch.zeros(features.shape[1], dtype=torch.float64)
        )

    def score(self, head: Head, split: str) -> float:
        """Return the balanced accuracy with a head that is made for everybody."""
        weight, bias = uncentred(head, self.mean)
        features, labels = self.splits[split]
        return float(
            recall_per_class((features @ weight.T + bias).argmax(1), labels, self.classes).nanmean()
        )


def read_features() -> tuple[list[dict[str, dict[str, Pairs]]], int, float]:
    """Read the features of all images.

    Returns:
        For each seed site -> split -> features and labels; number of classes; seconds for all
        images.
    """
    config = load_config(["experiment=demo_cells"])
    network = instantiate({**config.model, "pretrained": True})
    known: dict[tuple[str, str], Pairs] = {}
    seeds, seconds = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            sites: dict[str, dict[str, Pairs]] = {}
            for path in write_laboratories(Path(folder) / "data", seed=seed):
                dataset = read_dataset(path)
                began = time.perf_counter()
                if missing := [
                    case for case in dataset.cases if (path.name, case.name) not in known
                ]:
                    features, labels = head_features(
                        network, (prepare_case(case, config.data) for case in missing), config.data
                    )
                    known |= {
                        (path.name, case.name): pair
                        for case, *pair in zip(missing, features, labels, strict=True)
                    }
                seconds += time.perf_counter() - began
                splits = {
                    "training": dataset.training,
                    "validation": dataset.validation,
                    "test": dataset.test,
                }
                rows = {
                    name: [known[path.name, case.name] for case in cases]
                    for name, cases in splits.items()
                }
                sites[path.name] = {
                    name: (torch.stack([x for x, _ in each]), torch.stack([y for _, y in each]))
                    for name, each in rows.items()
                }
            seeds.append(sites)
    return seeds, len(config.data.labels), seconds


def sum_of(laboratories: Sequence[Laboratory]) -> HeadMoments:
    sums = AdditiveMoments(len(laboratories[0].mean), laboratories[0].classes)
    for number, each in enumerate(laboratories):
        sums.add(str(number), each.moments)
    return sums.total()


def ridge_of(laboratories: Sequence[Laboratory]) -> Head:
    """Return the head of their sum whose ridge does best on their own validation images."""
    total = sum_of(laboratories)
    heads = [ridge_head(total.gram, total.cross, ridge, balanced=True) for ridge in RIDGES]
    return max(
        heads, key=lambda head: fmean(each.score(head, "validation") for each in laboratories)
    )


def compare(
    sites: dict[str, dict[str, Pairs]], classes: int, centre: bool
) -> list[dict[str, object]]:
    """Measure with every laboratory as the newcomer."""
    laboratories = {name: Laboratory(splits, classes, centre) for name, splits in sites.items()}
    everybody, rows = ridge_of(list(laboratories.values())), []
    for name, own in laboratories.items():
        rest = [each for site, each in laboratories.items() if site != name]
        others, (features, labels) = sum_of(rest), own.splits["training"]
        share = choose_share(features - own.mean, labels, others, own_priors=False)
        heads = {"own": ridge_of([own]), "others": ridge_of(rest), "all": everybody}
        heads["pfedfda"] = refined_head(own.moments, others, share, own_priors=False)
        scores = {kind: own.score(head, "test") for kind, head in heads.items()}
        rows.append({"laboratory": name, "centred": centre, "share": share, **scores})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def summarize(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Return the mean over laboratories and splits, and the deviation of the splits' means."""
    found: list[dict[str, object]] = []
    for centre in (False, True):
        for kind in ("own", "others", "all", "pfedfda"):
            by_seed = [
                [
                    float(row[kind])
                    for row in rows
                    if row["centred"] == centre and row["seed"] == seed
                ]
                for seed in SEEDS
            ]  # type: ignore[arg-type]
            means = [fmean(each) for each in by_seed]
            found.append(
                {
                    "head": kind,
                    "centred": centre,
                    "mean": fmean(means),
                    "deviation_of_seeds": pstdev(means),
                }
            )
    return found


class Crowd:
    """1,000 hospitals with 30 cases each, drawn from the laboratories' features.

    Their moments are made when asked for.
    """

    def __init__(self, pooled: Pairs, classes: int) -> None:
        self.classes = classes
        chosen = torch.randint(
            len(pooled[1]), (HOSPITALS, CASES), generator=torch.Generator().manual_seed(0)
        )
        self.features, self.labels = pooled[0][chosen], pooled[1][chosen]

    def moments(self, number: int) -> HeadMoments:
        """Return the moments of one hospital."""
        return moments_of(self.features[number], self.labels[number], self.classes)

    def scratch(self, order: Sequence[int]) -> tuple[AdditiveMoments, Head, float]:
        """Return the sum and the head of some hospitals, and the seconds that they took.

        Making their moments is not counted.
        """
        sums, seconds = AdditiveMoments(self.features.shape[2], self.classes), 0.0
        for number in order:
            moments = self.moments(number)
            began = time.perf_counter()
            sums.add(str(number), moments)
            seconds += time.perf_counter() - began
        began = time.perf_counter()
        return sums, solve(sums), seconds + time.perf_counter() - began

    def pooled(self) -> Head:
        """Return the head of all features in one place."""
        moments = moments_of(self.features.flatten(0, 1), self.labels.flatten(), self.classes)
        return ridge_head(moments.gram, moments.cross, RIDGES[2])


def solve(sums: AdditiveMoments) -> Head:
    total = sums.total()
    return ridge_head(total.gram, total.cross, RIDGES[2])


def difference(one: Head, other: Head) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


def come_and_go(pooled: Pairs, classes: int) -> dict[str, object]:
    """Measure a join, a withdrawal and recomputation: seconds, and differences of the heads."""
    crowd, last = Crowd(pooled, classes), HOSPITALS - 1
    sums, before, _ = crowd.scratch(range(last))
    moments, joins, leaves = crowd.moments(last), [], []
    for _ in range(REPEATS):
        began = time.perf_counter()
        sums.add(str(last), moments)
        joined = solve(sums)
        joins.append(time.perf_counter() - began)
        began = time.perf_counter()
        sums.remove(str(last), moments)
        left = solve(sums)
        leaves.append(time.perf_counter() - began)
    _, scratch, seconds = crowd.scratch(range(last, -1, -1))  # in another order
    return {
        "hospitals": HOSPITALS,
        "features": crowd.features.shape[2],
        "join_s": median(joins),
        "withdraw_s": median(leaves),
        "recompute_s": seconds,
        "join_less_scratch": difference(joined, scratch),
        "withdrawn_less_never_there": difference(left, before),
        "join_less_pooled_features": difference(joined, crowd.pooled()),
        "largest_weight": float(scratch[0].abs().max()),
        "sent_mb": sum(each.nbytes for each in to_state(moments).values()) / 1e6,
    }


def main() -> None:
    """Measure and write results/closed_form.json."""
    torch.set_num_threads(1)
    began, found = time.perf_counter(), {"machine": machine()}
    seeds, classes, seconds = read_features()
    rows = [
        {"seed": seed, **row}
        for seed in SEEDS
        for centre in (False, True)
        for row in compare(seeds[seed], classes, centre)
    ]
    training = [splits["training"] for splits in seeds[0].values()]
    pooled = torch.cat([x for x, _ in training]), torch.cat([y for _, y in training])
    found |= {
        "features_s": seconds,
        "summary": summarize(rows),
        "scores": rows,
        "crowd": come_and_go(pooled, classes),
    }
    found["seconds"] = time.perf_counter() - began
    (RESULTS / "closed_form.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({key: value for key, value in found.items() if key != "scores"}, indent=1))


if __name__ == "__main__":
    main()
