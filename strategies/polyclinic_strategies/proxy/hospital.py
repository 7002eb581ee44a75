"""A hospital's part in training the deformation proxy: the scans that it never shows anybody, in the canonical frame."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from polyclinic.config.schemas import JobConfig
from polyclinic.imaging.datasets import Case, SiteDataset
from polyclinic.learning.metrics import Evaluation, summarize
from polyclinic.learning.training import FitResult
from polyclinic_strategies.proxy.cases import CanonicalCase, check_people, prepare_cases
from polyclinic_strategies.proxy.frame.atlas import icbm152_reference
from polyclinic_strategies.proxy.measurements import scores_through
from polyclinic_strategies.proxy.settings import proxy_settings
from polyclinic_strategies.proxy.system import ProxySystem
from polyclinic_strategies.proxy.training import Trainer

OnStep = Callable[[int, int, float], None]
OnCase = Callable[[int, int], None]


def prepare_visits(
    system: ProxySystem, dataset: SiteDataset, job: JobConfig, state: Path, tell: OnCase
) -> list[CanonicalCase]:
    """The training scans in the canonical frame; kept in the hospital's own folder.

    Raises:
        DatasetInvalid: Fewer than two people came more than once.
        ScanNotRecognized: The reference does not fit a scan.
    """
    check_people(dataset.training, dataset.folder / "dataset.json", "training")
    return prepare_cases(
        dataset.training,
        icbm152_reference(system.spacing_mm),
        state / "canonical",
        len(job.data.labels),
        fine=True,
        on_progress=lambda done, total, _name: tell(done, total),
    )


def fit(
    system: ProxySystem, cases: list[CanonicalCase], job: JobConfig, seed: int, tell: OnStep
) -> FitResult:
    """One round: as many steps as there are scans, `training.epochs` times.

    Raises:
        ConfigError: The training has no part `proxy`.
    """
    settings = replace(
        proxy_settings(job.training), steps=job.training.epochs * len(cases), more_segmentation=0
    )
    losses = Trainer(system, cases, settings, job.training.learning_rate, seed).train(
        lambda step, steps, running: tell(step, steps, running["segmentation"])
    )
    return FitResult(losses["segmentation"], settings.steps, len(cases))


def score(system: ProxySystem, cases: tuple[Case, ...], job: JobConfig) -> Evaluation:
    """Dice of scans that are segmented as proxies, on their own grids."""
    protection = system.protection(job.data.labels)
    rows = list(scores_through(system, protection, cases, job.data))
    return summarize(rows, job.data.labels[1:], None, len(rows))
