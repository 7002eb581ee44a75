"""A real cohort for benchmarks: its hospitals, their folds, and the federation of a fold."""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from personal_arms import Federation
from real_sites import (
    FeatureSite,
    ImageSite,
    Read,
    divide,
    find_hospitals,
    make_head,
    make_network,
    read_once,
)

from polyclinic.config.compose import load_config


class Cohort:
    """Hospitals, and what they train.

    Args:
        asked: The command's options.
        statistics: What a frozen trunk measures beside its features.
        most_cases: Training cases of a hospital that are used, at most; 0: all.
    """

    def __init__(
        self, asked: argparse.Namespace, statistics: Sequence[str] = (), most_cases: int = 0
    ) -> None:
        self.asked, self._statistics, self._most_cases = asked, statistics, most_cases
        self.hospitals = find_hospitals(asked.data)
        labels = next(iter(self.hospitals.values())).labels
        settings = [*asked.settings]
        if not any(each.startswith("data.labels") for each in settings) and not asked.frozen:
            settings.append(f"data.labels=[{','.join(labels)}]")
        self.config = load_config(settings)
        self._read: Read | None = None
        self._sites: dict[int, dict[str, Any]] = {}

    def sites(self, fold: int) -> dict[str, Any]:
        """Return the hospitals of a fold, prepared."""
        if fold not in self._sites:
            found = {
                name: divide(each, fold, self.asked.folds)
                for name, each in sorted(self.hospitals.items())
            }
            self._sites = {fold: {name: self._open(each) for name, each in found.items()}}
        return self._sites[fold]

    def federation(self, fold: int, left: str = "") -> Federation:
        """Make the federation of a fold without one hospital."""
        sites = {name: site for name, site in self.sites(fold).items() if name != left}
        torch.manual_seed(fold)
        if self.asked.frozen:
            assert self._read is not None
            width = len(next(iter(self._read.features.values())))
            network = make_head(width, len(next(iter(self.hospitals.values())).labels))
        else:
            network = make_network(self.config)
        return Federation(sites, network, self.config.training, fold)

    def subjects(self) -> dict[str, int]:
        """Count every hospital's subjects."""
        return {
            name: len({case.subject or case.name for case in each.training})
            for name, each in self.hospitals.items()
        }

    def seconds_per_pass(self, fold: int) -> float:
        """Train for two batches, and tell how long one pass at everybody takes."""
        federation = self.federation(fold)
        name, site = next(iter(federation.sites.items()))
        federation.sites[name] = _Two(site)
        federation.fit(federation.initial, name, 0)
        started = time.monotonic()
        federation.fit(federation.initial, name, 0)
        each = (time.monotonic() - started) / 2
        batch, per_case = self.config.training.batch_size, self.config.data.samples_per_case
        steps = [
            self.config.training.steps or -(-each_site.size * per_case // batch)
            for each_site in self.sites(fold).values()
        ]
        return each * sum(steps)

    def _open(self, dataset: Any) -> ImageSite | FeatureSite:
        if most := self._most_cases:  # every so many of them: `divide` has sorted them by class
            kept = dataset.training[:: -(-len(dataset.training) // most)]
            dataset = replace(dataset, training=kept)
        if not self.asked.frozen:
            return ImageSite(dataset, self.config)
        if self._read is None:
            kept = self.asked.folder / self.asked.name / "read.pt"
            self._read = read_once(self.hospitals, self.config, self._statistics, kept)
        return FeatureSite(dataset, self._read, self.config)


class _Two:
    """A hospital of two batches."""

    def __init__(self, site: Any) -> None:
        batches = iter(site.batches(0))
        self._batches = [next(batches), next(batches)]
        self.size, self.cases = sum(len(image) for image, _ in self._batches), 0

    def batches(self, _seed: int) -> Any:
        """Return both."""
        return iter(self._batches)

    def score(self, _network: Any, _split: str) -> float:
        """Not asked for."""
        raise NotImplementedError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that a cohort needs."""
    parser.add_argument("--name", required=True, help="of the table")
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--only-folds", type=int, help="the first so many of them")
    parser.add_argument("--frozen", action="store_true", help="train a head alone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--to", type=Path)
    parser.add_argument("settings", nargs="*", metavar="SETTING=VALUE")
