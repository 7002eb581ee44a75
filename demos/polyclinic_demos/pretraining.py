"""A base to start from, trained on public data or on one hospital's own.

`python -m polyclinic_demos.pretraining OUT [DATA_FOLDER]... -- SETTING=VALUE...` writes OUT, and
`base=OUT` then starts a run from it. Without a folder nothing is trained: the weights are written
as the network is made, for instance from a package that hospitals need not have.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from polyclinic.config.compose import load_config
from polyclinic.config.schemas import Config
from polyclinic.federation.jobs import start_network
from polyclinic.imaging.datasets import SPLITS, Case, SiteDataset, read_dataset
from polyclinic.learning import training
from polyclinic.learning.loading.samples import training_loader
from polyclinic.learning.optimizing.stepping import Stepper
from polyclinic.learning.preparation import prepare
from polyclinic.learning.state_dict import save_state
from polyclinic.system.processes import end_with_parent

Progress = Callable[[int, int, float], None]  # passes done, passes in all, loss


def pretrain(out: Path, data: Sequence[Path], overrides: Sequence[str], on_pass: Progress) -> None:
    """Train the configured network for `rounds` times `training.epochs` passes, and write it.

    Args:
        out: The safetensors file for the weights.
        data: Folders with dataset.json; their training cases are used together. None: no training.
        overrides: Hydra's.
        on_pass: Told after every pass.

    Raises:
        PolyclinicError: Something is wrong with data or settings.
    """
    config = load_config(overrides)
    sites = [read_dataset(path) for path in data]
    network = start_network(config)
    if sites:
        _train(network, sites, config, on_pass)
    described = json.dumps({"pretrained_on": [site.name for site in sites]})
    save_state(network.state_dict(), out, {"polyclinic": described})


def pool(sites: Sequence[SiteDataset], name: str) -> SiteDataset:
    """Put the cases of several folders into one data set."""
    first = sites[0]
    together: dict[str, tuple[Case, ...]] = {
        split: tuple(case for site in sites for case in getattr(site, split)) for split in SPLITS
    }
    return replace(first, folder=first.folder.parent, name=name, notes=(), **together)  # type: ignore[arg-type]


def _train(
    network: nn.Module, sites: Sequence[SiteDataset], config: Config, on_pass: Progress
) -> None:
    prepared = prepare(pool(sites, "pretraining"), config.data)
    stepper = Stepper(network, config.training)
    # the flatter the base, the better vectors add up
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(stepper.optimizer, config.rounds)
    for number in range(1, config.rounds + 1):
        loader = training_loader(prepared, config.training, config.seed * 1000 + number)
        result = training.fit(network, loader, config.training, config.data, stepper=stepper)
        schedule.step()
        on_pass(number, config.rounds, result.loss)


def main() -> None:
    """Run the module's command."""
    end_with_parent()
    split = sys.argv.index("--")
    folders = [Path(path) for path in sys.argv[2:split]]
    pretrain(Path(sys.argv[1]), folders, sys.argv[split + 1 :], _say)


def _say(number: int, passes: int, loss: float) -> None:
    sys.stdout.write(f"pretraining, pass {number} of {passes}: loss {loss:.3f}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
