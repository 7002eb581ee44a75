"""Merging three real laboratories' models of white blood cells, by every rule, with controls.

    POLYCLINIC_DATA=... python benchmarks/laboratories.py [FOLDER] [SETTING=VALUE...]

A simulated federation fine-tunes and fills the ledger. FOLDER keeps it, and what is there is not
trained again. Rules' parameters are chosen on validation images, figures are from test images.
`make demo-merging COHORT=cells` does the same with processes, FedAvg and pooled training.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from torch import Tensor, nn

import polyclinic
from polyclinic.config.compose import instantiate
from polyclinic.config.schemas import Config
from polyclinic.imaging.datasets import read_dataset
from polyclinic.learning import training
from polyclinic.learning.loading.samples import training_loader
from polyclinic.learning.prediction import evaluate_natively
from polyclinic.learning.preparation import PreparedSite, prepare
from polyclinic.learning.state_dict import save_state
from polyclinic.store.ledger import Ledger
from polyclinic_demos.cohorts.laboratories import write_laboratories
from polyclinic_strategies.merging.arithmetic.configured import make_rules
from polyclinic_strategies.merging.publisher import Publisher
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


def fine_tune(paths: Sequence[Path], settings: Sequence[str], folder: Path) -> Path:
    """Let every laboratory fine-tune the ImageNet weights; returns the ledger that results."""
    base = folder / "base.safetensors"
    if not base.exists():
        model = polyclinic.load_config([*settings, "model.pretrained=true"]).model
        save_state(instantiate(model).state_dict(), base, {})
    result = polyclinic.simulate(
        paths, *settings, f"base={base}", strategy="merging/mean", folder=folder, resume=True
    )
    return result.folder / "ledger"


def test(
    network: nn.Module,
    state: State,
    config: Config,
    prepared: dict[str, PreparedSite],
    restored: bool,
) -> list[float]:
    """Score at every laboratory, with statistics restored from its own training images or not."""
    scores = []
    for each in prepared.values():
        network.load_state_dict({**network.state_dict(), **state})
        if restored:
            recalibrate(
                network, (batch["image"] for batch in training_loader(each, config.training, 0))
            )
        scores.append(evaluate_natively(network, each.dataset, config.data)[0].score)
    return scores


def main(folder: Path, settings: Sequence[str]) -> None:
    settings = ["experiment=demo_cells", *settings]
    config = polyclinic.load_config(settings)
    paths = write_laboratories(folder / "data", seed=config.seed)
    ledger = fine_tune(paths, settings, folder)
    compare(config, {path.name: prepare(read_dataset(path), config.data) for path in paths}, ledger)


def compare(config: Config, prepared: dict[str, PreparedSite], folder: Path) -> None:
    network = instantiate(config.model)

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

    with Ledger.open(folder, create=False) as ledger:
        publisher = Publisher(ledger, 0, 0.5)
        for entry in publisher.entries():
            show(f"{entry.site} alone", publisher.single(entry))
        for rule in RULES:
            strategy = polyclinic.load_config([f"strategy=merging/{rule}"]).strategy
            shares = (
                {"scale": [share / len(prepared) for share in (0.5, 1.0, 1.5, 2.0)]}
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
    given = [text for text in sys.argv[1:] if "=" not in text]
    chosen = [text for text in sys.argv[1:] if "=" in text]
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(given[0] if given else temporary).resolve(), chosen)
