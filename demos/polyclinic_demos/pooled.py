"""The upper bound of a demo: one model trained on all hospitals' images in one place, which no real federation may do.

Runs as `python -m polyclinic_demos.pooled RUN_FOLDER DATA_FOLDER...` after the federation, with the run's own configuration: as many passes over
every image as the hospitals made together.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from polyclinic.config.compose import load_config
from polyclinic.config.schemas import Config
from polyclinic.federation.jobs import describe_model, make_order, start_network
from polyclinic.federation.run_folder import RunFolder
from polyclinic.imaging.datasets import SiteDataset, read_dataset
from polyclinic.learning import training
from polyclinic.learning.gallery import draw_first
from polyclinic.learning.prediction import evaluate_natively
from polyclinic.learning.preparation import prepare, training_loader
from polyclinic.learning.state_dict import save_state
from polyclinic.system.processes import end_with_parent
from polyclinic_demos.pretraining import pool

ARM = "pooled"


def train_pooled(folder: RunFolder, data: Sequence[Path]) -> None:
    """Train on everything, validate and test at every hospital, and record the figures as one more strategy."""
    overrides = json.loads((folder.path / "overrides.json").read_text())
    config = load_config(overrides[0])
    sites = [read_dataset(path) for path in data]
    names = [path.name for path in data]
    folder.record(
        {"kind": "arm_start", "arm": ARM, "title": ARM, "rounds": config.rounds, "offset": 0}
    )
    network = start_network(config)
    prepared = prepare(pool(sites, ARM), config.data)
    for number in range(1, config.rounds + 1):
        loader = training_loader(prepared, config.training, config.seed * 1000 + number)
        result = training.fit(
            network, loader, config.training, config.data, on_step=_teller(folder, number, config)
        )
        for name, site in zip(names, sites, strict=True):
            cases = [sample for sample in prepared.validation if sample.case in site.validation]
            evaluation = training.evaluate(network, cases, config.data, config.training)
            _record(
                folder,
                "evaluate",
                number,
                name,
                evaluation.score,
                evaluation.scores,
                evaluation.num_examples,
                loss=evaluation.loss,
            )
        folder.record(
            {
                "kind": "note",
                "text": f"pooled, round {number} of {config.rounds}: loss {result.loss:.3f}",
            }
        )
        folder.record({"kind": "round_end", "round": number})
    _test(folder, config, network, sites, names)
    order = make_order(folder, config, network)
    state = {"polyclinic": json.dumps({**describe_model(order, config.rounds, True), "arm": ARM})}
    save_state(network.state_dict(), folder.path / "arms" / ARM / "model.safetensors", state)
    folder.record({"kind": "arm_end", "arm": ARM})
    folder.close()


def _test(
    folder: RunFolder,
    config: Config,
    network: torch.nn.Module,
    sites: Sequence[SiteDataset],
    names: Sequence[str],
) -> None:
    """Final figures, as every hospital obtains them; the pictures' label maps beside the hospitals' own."""
    for name, site in zip(names, sites, strict=True):
        drawing = draw_first(folder.path / "pictures" / name, config.data, ARM)
        evaluation, _ = evaluate_natively(network, site, config.data, on_case=drawing)
        _record(
            folder,
            "evaluate.test",
            config.rounds,
            name,
            evaluation.score,
            evaluation.scores,
            evaluation.num_examples,
        )


def _record(
    folder: RunFolder,
    phase: str,
    number: int,
    site: str,
    score: float,
    scores: dict[str, float],
    count: int,
    **more: Any,
) -> None:
    folder.record(
        {
            "kind": "answered",
            "phase": phase,
            "round": number,
            "site": site,
            "score": score,
            "scores": scores,
            "num_examples": count,
            **more,
        }
    )


def _teller(folder: RunFolder, number: int, config: Config) -> Any:
    def tell(step: int, steps: int, loss: float) -> None:
        if step % max(1, steps // 10) == 0:
            folder.record(
                {
                    "kind": "progress",
                    "text": f"pooled, round {number} of {config.rounds}: step {step} of {steps}, loss {loss:.3f}",
                }
            )

    return tell


def main() -> None:
    """The module's command."""
    end_with_parent()
    train_pooled(RunFolder(Path(sys.argv[1])), [Path(path) for path in sys.argv[2:]])


if __name__ == "__main__":
    main()
