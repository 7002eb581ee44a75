"""Findings, numbers and regions in whole federations: rounds, merging, refinement, reports."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from polyclinic.errors import ConfigError
from polyclinic.reporting.measured.standing import find_standings
from polyclinic.reporting.measured.tables import measure_tables
from polyclinic.reporting.results import read_results
from polyclinic.simulation.result import SimulationResult
from polyclinic.simulation.run import simulate
from polyclinic_server.reports.page import write_report
from polyclinic_server.runs.export import export_model
from tests.core.learning.tasks.test_tasks import KINDS, SMALL

FEW = {"training": 4, "validation": 4, "test": 4}
RELEASE = "privacy.release.min_subjects=1"


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def sites(kind: str, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp(kind)
    write = KINDS[kind][0]
    return [write(folder / f"site{n}", seed=n, counts=FEW) for n in range(2)]


def run(kind: str, sites: list[Path], *settings: str, **options: Any) -> SimulationResult:
    return simulate(sites, *KINDS[kind][1], *SMALL, RELEASE, *settings, **options)


@pytest.fixture(scope="module")
def averaged(kind: str, sites: list[Path]) -> Iterator[SimulationResult]:
    with run(kind, sites, strategy="averaging/fedavg", rounds=2) as result:
        yield result


def test_rounds_end_with_a_report_of_the_tasks_measures(
    kind: str, averaged: SimulationResult
) -> None:
    assert not averaged.faults
    results = read_results(averaged.folder)
    (standing,) = find_standings(results)
    assert standing.hospitals == 2 and standing.figure is not None and standing.descriptive
    (tables,) = measure_tables(results)
    named = {table.label: {each.name for each in table.measures} for table in tables.tables}
    wanted = {
        "multilabel": ("ball", {"auroc", "auprc", "brier", "recall"}),
        "regression": ("age", {"mae", "bias", "r2", "lower_limit", "upper_limit"}),
        "regions": ("core", {"dice", "surface_dice", "hausdorff95_mm"}),
    }[kind]
    assert wanted[1] <= named[wanted[0]]
    page = write_report(averaged.folder).read_text()
    for title in ("Mean absolute error",) if kind == "regression" else (wanted[0],):
        assert title in page


@pytest.mark.parametrize(
    "settings",
    [
        ("strategy=merging/regmean", "rounds=1"),
        ("strategy=merging/fisher", "rounds=1"),
        ("strategy=refinement", "rounds=2", "strategy.base_rounds=1", "strategy.sharpness=[0.2]"),
    ],
)
def test_merging_and_refinement_take_any_task(
    kind: str, sites: list[Path], tmp_path: Path, settings: tuple[str, ...]
) -> None:
    result = run(kind, sites, *settings, folder=tmp_path)
    assert not result.faults
    assert any(result.scores.values())


def test_models_are_evaluated_and_compared_case_by_case(
    kind: str, sites: list[Path], averaged: SimulationResult, tmp_path: Path
) -> None:
    """A model beside itself after a round: the same cases, and a difference with an interval."""
    from polyclinic_strategies.evaluation.models import read_models, settings_of

    folder = averaged.folder / "arms" / "fedavg"
    models = [folder / "model.safetensors", folder / "best.safetensors"]
    try:
        settings = settings_of(read_models(models))
    except ConfigError as error:
        assert "same model" in str(error)  # the last round was the best
        settings = settings_of(read_models(models[:1]))
    result = simulate(sites, *settings, folder=tmp_path)
    assert not result.faults
    cards = list(result.folder.rglob("model-card.json"))
    assert cards
    assert all(json.loads(card.read_text())["task"] == kind for card in cards)


def test_export_to_a_bundle_writes_or_says_why_not(
    kind: str, averaged: SimulationResult, tmp_path: Path
) -> None:
    source, to = averaged.folder / "arms" / "fedavg" / "model.safetensors", tmp_path / "a.bundle"
    if kind == "regression":
        with pytest.raises(ConfigError, match=r"data\.ranges"):
            export_model(source, to)
        return
    export_model(source, to)
    inference = json.loads((to / "configs" / "inference.json").read_text())
    steps = inference["postprocessing"]["transforms"]
    assert steps[0] == {"_target_": "Activationsd", "keys": "pred", "sigmoid": True}
    assert ("threshold" in json.dumps(steps)) == (kind == "regions")
