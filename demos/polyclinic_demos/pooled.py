"""Upper bound of a demo: one model trained on all hospitals' images in one place.

No real federation may do that. `python -m polyclinic_demos.pooled RUN_FOLDER DATA_FOLDER...` runs
after the federation, with the run's own configuration: as many passes over every image as the
hospitals made.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from polyclinic.config.compose import load_config
from polyclinic.config.schemas import Config
from polyclinic.federation.events import Answered, ArmEnd, ArmStart, Note, Progress, RoundEnd
from polyclinic.federation.jobs import describe_model, make_order, start_network
from polyclinic.federation.run_folder import RunFolder
from polyclinic.imaging.datasets import SiteDataset, read_dataset
from polyclinic.learning import training
from polyclinic.learning.gallery import draw_first
from polyclinic.learning.loading.samples import training_loader
from polyclinic.learning.optimizing.schedules import Round
from polyclinic.learning.optimizing.stepping import Stepper
from polyclinic.learning.prediction import evaluate_natively
from polyclinic.learning.preparation import PreparedSite, prepare
from polyclinic.learning.state_dict import save_state
from polyclinic.system.processes import end_with_parent
from polyclinic_demos.pretraining import pool

ARM = "pooled"


def train_pooled(folder: RunFolder, data: Sequence[Path]) -> None:
    """Train on everything, validate and test at every hospital, and record one more strategy.

    Args:
        folder: The run, finished.
        data: The hospitals' data folders.
    """
    overrides = json.loads((folder.path / "overrides.json").read_text())
    config = load_config(overrides[0])
    sites = {path.name: read_dataset(path) for path in data}
    folder.record(ArmStart(arm=ARM, title=ARM, rounds=config.rounds, offset=0))
    network = start_network(config)
    prepared = prepare(pool(list(sites.values()), ARM), config.data)
    stepper = None
    for number in range(1, config.rounds + 1):
        loader = training_loader(prepared, config.training, config.seed * 1000 + number)
        if stepper is None or not config.training.momentum_kept:
            stepper = Stepper(network, config.training)
        result = training.fit(
            network,
            loader,
            config.training,
            config.data,
            stepper=stepper,
            place=Round(number, config.rounds),
            on_step=_teller(folder, number, config),
        )
        _validate(folder, config, network, prepared, sites, number)
        said = f"pooled, round {number} of {config.rounds}: loss {result.loss:.3f}"
        folder.record(Note(text=said))
        folder.record(RoundEnd(round=number))
    _test(folder, config, network, sites)
    described = describe_model(make_order(folder, config, network), config.rounds, True)
    state = {"polyclinic": json.dumps({**described, "arm": ARM})}
    save_state(network.state_dict(), folder.path / "arms" / ARM / "model.safetensors", state)
    folder.record(ArmEnd(arm=ARM))
    folder.close()


def _validate(
    folder: RunFolder,
    config: Config,
    network: torch.nn.Module,
    prepared: PreparedSite,
    sites: Mapping[str, SiteDataset],
    number: int,
) -> None:
    """Record the figures of every hospital's validation cases after a pass."""
    for name, site in sites.items():
        cases = [sample for sample in prepared.validation if sample.case in site.validation]
        found = training.evaluate(network, cases, config.data, config.training)
        folder.record(
            Answered(
                phase="evaluate",
                round=number,
                site=name,
                score=found.score,
                scores=found.scores,
                num_examples=found.num_examples,
                loss=found.loss,
            )
        )


def _test(
    folder: RunFolder, config: Config, network: torch.nn.Module, sites: Mapping[str, SiteDataset]
) -> None:
    """Record final figures as every hospital obtains them, and draw pictures."""
    for name, site in sites.items():
        drawing = draw_first(folder.path / "pictures" / name, config.data, ARM)
        found, _ = evaluate_natively(network, site, config.data, on_case=drawing)
        folder.record(
            Answered(
                phase="evaluate.test",
                round=config.rounds,
                site=name,
                score=found.score,
                scores=found.scores,
                num_examples=found.num_examples,
            )
        )


def _teller(folder: RunFolder, number: int, config: Config) -> Callable[[int, int, float], None]:
    """Return what tells of every tenth of a pass."""

    def tell(step: int, steps: int, loss: float) -> None:
        if step % max(1, steps // 10) == 0:
            where = f"pooled, round {number} of {config.rounds}: step {step} of {steps}"
            folder.record(Progress(text=f"{where}, loss {loss:.3f}"))

    return tell


def main() -> None:
    """Run the module's command."""
    end_with_parent()
    train_pooled(RunFolder(Path(sys.argv[1])), [Path(path) for path in sys.argv[2:]])


if __name__ == "__main__":
    main()
