"""Hospitals of a real cohort: folds by patient, and samples as networks or heads read them."""

import csv
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import torch
from personal_arms import Batch
from torch import Tensor, nn

from polyclinic.config.compose import instantiate
from polyclinic.config.schemas import Config
from polyclinic.describing.statistics import by_subject, measure_images
from polyclinic.imaging.dataset_files import allow_images_in
from polyclinic.imaging.datasets import Case, SiteDataset, read_dataset
from polyclinic.imaging.subjects import number_subjects
from polyclinic.learning import training
from polyclinic.learning.loading.samples import training_loader
from polyclinic.learning.preparation import PreparedCases, PreparedSite, prepare_case

HIDDEN = 64  # of the head that reads frozen features


def find_hospitals(folders: Sequence[Path]) -> dict[str, SiteDataset]:
    """Read hospitals' folders, or folders of them, or a table with the columns site, image, label.

    All cases are listed as training; `divide` makes folds of them.
    """
    found: dict[str, SiteDataset] = {}
    for folder in folders:
        allow_images_in(folder)
        if (folder / "labels.csv").exists():
            found |= _read_table(folder)
            continue
        own = [folder] if (folder / "dataset.json").exists() else []
        for each in own or sorted(path.parent for path in folder.glob("*/dataset.json")):
            dataset = read_dataset(each)
            cases = (*dataset.training, *dataset.validation, *dataset.test)
            found[each.name] = replace(dataset, training=cases, validation=(), test=())
    return found


def _read_table(folder: Path) -> dict[str, SiteDataset]:
    rows = list(csv.DictReader((folder / "labels.csv").open()))
    labels = tuple(sorted({row["label"] for row in rows}))
    return {
        site: SiteDataset(
            folder,
            site,
            ("red", "green", "blue"),
            labels,
            tuple(
                Case(
                    row["image"],
                    (folder / row["image"],),
                    labels.index(row["label"]),
                    "training",
                )
                for row in rows
                if row["site"] == site
            ),
            (),
            (),
        )
        for site in sorted({row["site"] for row in rows})
    }


def divide(dataset: SiteDataset, number: int, folds: int) -> SiteDataset:
    """Make a fold: one part of the patients tests, a fifth of the others validates.

    Classes are divided alike.
    """
    cases = sorted(dataset.training, key=lambda case: case.name)
    groups: dict[int, list[Case]] = {}
    for case, subject in zip(cases, number_subjects(cases), strict=True):
        groups.setdefault(subject, []).append(case)
    ordered = list(groups.values())
    random.Random(0).shuffle(ordered)
    ordered.sort(key=lambda group: group[0].label if isinstance(group[0].label, int) else 0)
    test = [group for place, group in enumerate(ordered) if place % folds == number]
    rest = [group for place, group in enumerate(ordered) if place % folds != number]
    validation = [group for place, group in enumerate(rest) if place % 5 == 2]
    train = [group for place, group in enumerate(rest) if place % 5 != 2]
    return replace(
        dataset,
        training=tuple(case for group in train for case in group),
        validation=tuple(case for group in validation for case in group),
        test=tuple(case for group in test for case in group),
    )


class ImageSite:
    """A hospital whose images the whole network reads."""

    def __init__(self, dataset: SiteDataset, config: Config) -> None:
        self.dataset, self._config = dataset, config
        room = config.data.cache_gb * 2**30
        self._cases = {
            split: PreparedCases(getattr(dataset, split), config.data, room, lambda: None)
            for split in ("training", "validation", "test")
        }
        self.size, self.cases = len(dataset.training), len(dataset.validation)
        self.prepared = PreparedSite(
            dataset, config.data, self._cases["training"], self._cases["validation"]
        )

    def batches(self, seed: int) -> Iterator[Batch]:
        """Draw one pass, or `training.steps` steps."""
        for batch in training_loader(self.prepared, self._config.training, seed):
            yield batch["image"], batch["label"]

    def score(self, network: nn.Module, split: str) -> float:
        """Score on the network's own grid."""
        return training.evaluate(network, self._cases[split], self._config.data).score

    def rows(self, network: nn.Module, statistics: Sequence[str]) -> dict[str, list[Tensor]]:
        """Return one row for each subject of the training cases, by a network's features."""
        images = (sample.image for sample in self._cases["training"])
        subjects = number_subjects(self.dataset.training)
        found = measure_images(statistics, images, network)
        return {name: by_subject(each, subjects) for name, each in found.items()}


@dataclass(frozen=True)
class Read:
    """What a frozen trunk read of every case, by the case's name.

    Attributes:
        features: What enters its last linear layer.
        rows: Statistic to the vector of each case.
    """

    features: Mapping[str, Tensor]
    rows: Mapping[str, Mapping[str, Tensor]]


class FeatureSite:
    """A hospital whose images a frozen trunk has read once; only a head is trained."""

    def __init__(self, dataset: SiteDataset, read: Read, config: Config) -> None:
        self.dataset, self._read, self._batch = dataset, read, config.training.batch_size
        self._data = {
            split: (
                torch.stack([read.features[case.name] for case in getattr(dataset, split)]),
                torch.tensor([case.label for case in getattr(dataset, split)]),
            )
            for split in ("training", "validation", "test")
        }
        self.size, self.cases = len(dataset.training), len(dataset.validation)

    def batches(self, seed: int) -> Iterator[Batch]:
        """Draw one pass."""
        features, labels = self._data["training"]
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        for chosen in order.split(self._batch):
            yield features[chosen], labels[chosen]

    def score(self, network: nn.Module, split: str) -> float:
        """Compute the mean recall of the classes that are there."""
        features, labels = self._data[split]
        network.eval()
        with torch.inference_mode():
            predicted = network(features).argmax(1)
        return fmean(
            float((predicted[labels == each] == each).float().mean()) for each in labels.unique()
        )

    def rows(self, _network: nn.Module, statistics: Sequence[str]) -> dict[str, list[Tensor]]:
        """Return one row for each subject of the training cases."""
        cases = self.dataset.training
        subjects = number_subjects(cases)
        return {
            name: by_subject([self._read.rows[name][case.name] for case in cases], subjects)
            for name in statistics
        }


def read_once(
    hospitals: Mapping[str, SiteDataset], config: Config, statistics: Sequence[str], kept: Path
) -> Read:
    """Let the configured network read every case once; a file keeps what it read."""
    if kept.exists():
        return Read(**torch.load(kept))
    trunk, found = make_network(config), []
    last = [layer for layer in trunk.modules() if isinstance(layer, nn.Linear)][-1]
    handle = last.register_forward_pre_hook(lambda _layer, inputs: found.append(inputs[0]))
    features: dict[str, Tensor] = {}
    rows: dict[str, dict[str, Tensor]] = {name: {} for name in statistics}
    trunk.eval()
    for dataset in hospitals.values():
        for case in dataset.training:
            image = prepare_case(case, config.data).image
            with torch.inference_mode():
                trunk(image[None, ..., 0])
            features[case.name] = found[0][0].clone()
            for name, (row,) in measure_images(statistics, [image], trunk).items():
                rows[name][case.name] = row.clone()
            found.clear()
    handle.remove()
    kept.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"features": features, "rows": rows}, kept)
    return Read(features, rows)


def make_head(width: int, classes: int) -> nn.Module:
    """Make the head that reads frozen features."""
    return nn.Sequential(
        nn.Linear(width, HIDDEN), nn.LayerNorm(HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, classes)
    )


def make_network(config: Config) -> nn.Module:
    """Make the configured network from the configured seed."""
    torch.manual_seed(config.seed)
    made: nn.Module = instantiate(config.model)
    return made
