"""A whole evaluation in this process: three hospitals, two models, nothing trained."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from polyclinic.federation.run_folder import read_lines
from polyclinic.imaging.datasets import Case, SiteDataset, read_dataset
from polyclinic.learning.measures.estimates import pool_all
from polyclinic.learning.prediction import evaluate
from polyclinic.reporting.results import read_results
from polyclinic.simulation.result import SimulationResult
from polyclinic.simulation.run import simulate
from polyclinic_strategies.evaluation.case_scores import read_scores
from polyclinic_strategies.evaluation.models import read_models, settings_of
from polyclinic_strategies.evaluation.report.card import JSON, read_card
from polyclinic_strategies.evaluation.report.comparisons import find_pairs
from tests.core.simulation.small_hospitals import SMALL, write_hospitals

OPEN = "privacy.release.min_subjects=1"


def scored_on_all(dataset: SiteDataset) -> SiteDataset:
    """Take every case as a test case: four at each hospital."""
    tests: tuple[Case, ...] = tuple(replace(case, split="test") for case in dataset.cases)
    return replace(dataset, test=tests)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SiteDataset]:
    folders = write_hospitals(tmp_path_factory.mktemp("cohort"))
    return {path.name: scored_on_all(read_dataset(path)) for path in folders}


@pytest.fixture(scope="module")
def models(sites: dict[str, SiteDataset], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Train two models: one and three rounds."""
    found = []
    for rounds in (1, 3):
        folder = tmp_path_factory.mktemp(f"rounds-{rounds}")
        with simulate(sites, *SMALL, rounds=rounds, folder=folder) as result:
            path = folder / f"rounds-{rounds}.safetensors"
            (result.folder / "arms" / "fedavg" / "model.safetensors").rename(path)
            found.append(path)
    return found


@pytest.fixture(scope="module")
def evaluated(
    sites: dict[str, SiteDataset], models: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SimulationResult]:
    settings = settings_of(read_models(models))
    with simulate(sites, *settings, folder=tmp_path_factory.mktemp("evaluation")) as result:
        yield result


def test_every_hospital_scores_every_model(evaluated: SimulationResult) -> None:
    assert set(evaluated.scores) == {"rounds-1", "rounds-3"}
    for scores in evaluated.scores.values():
        assert set(scores) == {"north", "south", "west"}
    assert not evaluated.faults
    kinds = {line["kind"] for line in read_lines(evaluated.folder / "events.jsonl")}
    assert "scoring" in kinds and "arm_start" not in kinds
    assert not [line for line in read_lines(evaluated.folder / "metrics.jsonl")
                if line["phase"] != "test"]  # fmt: skip
