"""Merging three real laboratories' models of white blood cells, in one process: every rule, single laboratories, a random vector.

    POLYCLINIC_DATA=... python benchmarks/laboratories.py [STATES]

STATES keeps the fine-tuned weights; where the file exists nothing is trained. Rules' parameters are
chosen on validation images, figures are from test images. `make demo-merging COHORT=cells` does the
same with processes, FedAvg and pooled training.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn

from polyclinic.config.compose import instantiate, load_config
from polyclinic.config.schemas import Config
from polyclinic.imaging.datasets import read_dataset
from polyclinic.learning import training
from polyclinic.learning.prediction import evaluate_natively
from polyclinic.learning.preparation import PreparedSite, prepare, training_loader
from polyclinic.store.contribution import Contribution, Requirements, write_contribution
from polyclinic.store.ledger import Ledger
from polyclinic_demos.cohorts.laboratories import write_laboratories
from polyclinic_strategies.merging.publisher import Publisher, make_rules
from polyclinic_strategies.merging.restore import recalibrate

RULES = (
    "sum",
    "mean",
    "weighted_mean",
    "ties",
    "dare",
    "dare_ties",
    "iso_c",
    "tsv_m",
    "wudi",
    "trimmed_mean",
)
State = dict[str, Tensor]


def fine_tune_all(
    config: Config, prepared: dict[str, PreparedSite]
) -> tuple[State, dict[str, State]]:
    """The pretrained base, and what each laboratory makes of it."""
    base = instantiate({**config.model, "pretrained": True}).state_dict()
    tuned = {}
    for number, (site, each) in enumerate(prepared.items()):
        network = instantiate(config.model)
        network.load_state_dict(base)
        optimizer = training.make_optimizer(network, config.training)
        for done in range(config.rounds):
            loader = training_loader(each, config.training, 1000 * number + done)
            training.fit(
                network,
                loader,
                replace(config.training, epochs=1),
                config.data,
                optimizer=optimizer,
            )
        tuned[site] = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        print(f"{site} is done", flush=True)
    return base, tuned


def test(
    network: nn.Module,
    state: State,
    config: Config,
    prepared: dict[str, PreparedSite],
    restored: bool,
) -> list[float]:
    """Balanced accuracy on every laboratory's test images, restored from its own training images or not."""
    scores = []
    for each in prepared.values():
        network.load_state_dict({**network.state_dict(), **state})
        if restored:
            recalibrate(
                network, (batch["image"] for batch in training_loader(each, config.training, 0))
            )
        scores.append(evaluate_natively(network, each.dataset, config.data)[0].score)
    return scores


def main(kept: Path | None) -> None:
    config = load_config(["experiment=demo_cells"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_laboratories(folder / "data", seed=config.seed)
        prepared = {path.name: prepare(read_dataset(path), config.data) for path in paths}
        if kept is not None and kept.exists():
            found = torch.load(kept, weights_only=True)
            base, tuned = found["base"], found["state"]
        else:
            base, tuned = fine_tune_all(config, prepared)
            if kept is not None:
                torch.save({"base": base, "state": tuned}, kept)
        compare(config, prepared, base, tuned, folder)


def compare(
    config: Config,
    prepared: dict[str, PreparedSite],
    base: State,
    tuned: dict[str, State],
    folder: Path,
) -> None:
    network = instantiate(config.model)
    names = [name for name, tensor in base.items() if tensor.is_floating_point()]

    def show(title: str, state: State) -> None:
        plain, restored = (test(network, state, config, prepared, each) for each in (False, True))
        print(
            f"{title:28s} {' '.join(f'{score:.3f}' for score in plain)}  mean {fmean(plain):.3f}  "
            f"restored {fmean(restored):.3f}",
            flush=True,
        )

    def validate(state: State) -> float:
        network.load_state_dict({**network.state_dict(), **state})
        return fmean(
            training.evaluate(network, each.validation, config.data).score
            for each in prepared.values()
        )

    with Ledger.open(folder / "ledger") as ledger:
        digest = ledger.add_base({name: base[name].float() for name in names})
        asked = Requirements(
            digest,
            {name: tuple(base[name].shape) for name in names},
            "cells",
            None,
            10**9,
            10.0,
            {},
            0,
        )
        for site, state in tuned.items():
            vector = {
                name: (state[name].float() - base[name].float()).contiguous() for name in names
            }
            given = Contribution(
                site, digest, "cells", len(prepared[site].training), {}, 1.0, "0.1.0"
            )
            ledger.receive(write_contribution(folder, given, vector, {}), site, asked)
        publisher = Publisher(ledger, 0, 0.5)
        for entry in publisher.entries():
            show(f"{entry.site} alone", publisher.single(entry))
        for rule in RULES:
            strategy = load_config([f"strategy=merging/{rule}"]).strategy
            shares = (
                {"scale": [share / len(tuned) for share in (0.5, 1.0, 1.5, 2.0)]}
                if rule in ("sum", "dare")
                else strategy["candidates"]
            )
            rules = make_rules(strategy["rule"], shares)
            best = (
                max(rules, key=lambda each: validate(publisher.merge(each)))
                if len(rules) > 1
                else rules[0]
            )
            merged = publisher.merge(best)
            show(f"{rule}, scale {best.scale:.2f}", merged)
            if rule == "sum":
                show("random vector", publisher.random(merged, 0))
        show("the base alone", publisher.base())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
