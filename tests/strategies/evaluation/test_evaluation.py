"""A whole evaluation in this process: three hospitals, two models, nothing trained."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from polyclinic.errors import ModelInvalid, WeightsInvalid
from polyclinic.federation.run_folder import RunFolder, read_lines
from polyclinic.imaging.datasets import Case, SiteDataset, read_dataset
from polyclinic.learning.measures.estimates import pool_all
from polyclinic.learning.measures.names import MEASURES
from polyclinic.learning.model_file import load_model
from polyclinic.learning.prediction import evaluate_natively
from polyclinic.simulation.result import SimulationResult
from polyclinic.simulation.run import simulate
from polyclinic_client.policy.policy import keep_policy
from polyclinic_client.site.site import Site
from polyclinic_strategies.evaluation.case_scores import read_scores
from polyclinic_strategies.evaluation.models import make_orders, read_models, settings_of
from polyclinic_strategies.evaluation.report.card import JSON, read_card
from polyclinic_strategies.evaluation.report.comparisons import find_pairs
from tests.core.simulation.small_hospitals import SMALL, write_hospitals
from tests.strategies.evaluation.written_models import write_model


def scored_on_all(dataset: SiteDataset) -> SiteDataset:
    """Take every case as a test case: four at each hospital."""
    tests: tuple[Case, ...] = tuple(replace(case, split="test") for case in dataset.cases)
    return replace(dataset, test=tests)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SiteDataset]:
    folders = write_hospitals(tmp_path_factory.mktemp("cohort"))
    return {path.name: scored_on_all(read_dataset(path)) for path in folders}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Write two models that were never trained."""
    folder = tmp_path_factory.mktemp("models")
    return [
        write_model(folder / f"{name}.safetensors", *SMALL, seed=seed, run="earlier", arm="fedavg")
        for seed, name in enumerate(("first", "second"))
    ]


@pytest.fixture(scope="module")
def evaluated(
    sites: dict[str, SiteDataset], models: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SimulationResult]:
    settings = settings_of(read_models(models))
    with simulate(sites, *settings, folder=tmp_path_factory.mktemp("evaluation")) as result:
        yield result


def test_every_hospital_scores_every_model(evaluated: SimulationResult) -> None:
    assert set(evaluated.scores) == {"first", "second"}
    for scores in evaluated.scores.values():
        assert set(scores) == {"north", "south", "west"}
    assert not evaluated.faults
    kinds = {line["kind"] for line in read_lines(evaluated.folder / "events.jsonl")}
    assert "scoring" in kinds and "arm_start" not in kinds
    assert not [line for line in read_lines(evaluated.folder / "metrics.jsonl")
                if line["phase"] != "test"]  # fmt: skip


def test_federated_figures_are_those_of_all_cases_in_one_place(
    evaluated: SimulationResult, sites: dict[str, SiteDataset], models: list[Path]
) -> None:
    cases = tuple(
        replace(case, name=f"{site} {case.name}", subject=f"{site} {number}")
        for site, dataset in sites.items()
        for number, case in enumerate(dataset.test)
    )
    pooled = replace(sites["north"], test=cases)
    told = {
        name: [m.measures for m in evaluated.results.metrics if m.arm == name]
        for name in ("first", "second")
    }
    scored = {}
    for path in models:
        network, job = load_model(path)
        whole, scored[path.stem] = evaluate_natively(network, pooled, job.data)
        federated = pool_all(told[path.stem])
        assert set(federated) == set(whole.measures) == {"", *pooled.labels[1:]}
        for label, table in whole.measures.items():
            for name, expected in table.items():
                found = federated[label][name]
                assert (found.n, found.positives) == (expected.n, expected.positives)
                if MEASURES[name].sums:
                    assert found.value == pytest.approx(expected.value, abs=1e-9)
    (pair,) = find_pairs(evaluated.results)
    differences = [
        one.score - other.score
        for one, other in zip(scored["second"], scored["first"], strict=True)
    ]
    assert (pair.model, pair.other, pair.pooled.n) == ("second", "first", 12)
    assert pair.pooled.value == pytest.approx(np.mean(differences), abs=1e-9)


def test_no_case_leaves_a_hospital(evaluated: SimulationResult) -> None:
    kept = read_scores(evaluated.hospitals["north"] / "runs" / "simulation" / "first")
    assert kept is not None and len(kept.scores) == 4
    told = "".join(
        (evaluated.folder / name).read_text()
        for name in ("events.jsonl", "metrics.jsonl", "run.json")
    )
    assert "training-0" not in told  # a part of a file's name
    for score in kept.scores.values():
        assert str(score)[:12] not in told


def test_the_page_leads_with_the_worst_hospital(
    evaluated: SimulationResult, tmp_path: Path
) -> None:
    page = evaluated.report(tmp_path / "report.html").read_text()
    worst = min(evaluated.scores["second"], key=evaluated.scores["second"].__getitem__)
    assert (
        page.index('class="standing"')
        < page.index("Dice at every hospital")
        < page.index('id="pairs"')
    )
    row = page[page.index('<table class="standing">') :]
    assert worst in row[: row.index("</table>")]
    assert all(f">{name}" in page for name in ("Surface Dice", "Hausdorff 95 (mm)", "Federated"))
    assert "descriptive" in page  # of four cases


def test_a_card_says_what_is_known(evaluated: SimulationResult, models: list[Path]) -> None:
    card = read_card(evaluated.folder / "arms" / "second" / JSON)
    assert card.scores == evaluated.scores["second"]
    assert card.gap == pytest.approx(max(card.scores.values()) - min(card.scores.values()))
    assert card.scores[card.worst] == min(card.scores.values())
    assert card.model.digest == read_models(models)[1].digest
    assert (card.model.trained.run, card.model.trained.strategy) == ("earlier", "fedavg")
    assert card.model.trained.hospitals is None and card.tolerance_mm == 2.0
    assert set(card.measures) == {"north", "south", "west"}
    assert card.measures["west"]["CSF"]["dice"].positives == 4
    assert any("descriptive" in limit.lower() for limit in card.limits)
    page = (evaluated.folder / "arms" / "second" / "model-card.html").read_text()
    assert card.model.digest in page and page.index("Limits of use") < page.index("Measures at")


def test_what_was_scored_is_not_scored_again(
    evaluated: SimulationResult, sites: dict[str, SiteDataset], models: list[Path], tmp_path: Path
) -> None:
    settings = settings_of(read_models(models))
    with simulate(sites, *settings, folder=tmp_path):
        pass
    run = RunFolder(tmp_path / "simulation")
    run.update(state="failed")
    lines = len(read_lines(run.path / "metrics.jsonl"))
    (run.path / "arms" / "second" / "tested").unlink()
    with simulate(sites, *settings, folder=tmp_path, resume=True) as again:
        new = list(read_lines(run.path / "metrics.jsonl"))[lines:]
        assert {line["arm"] for line in new} == {"second"} and len(new) == 3
        assert all(set(line["comparisons"]) == {"first"} for line in new)
        assert again.scores == evaluated.scores
    run.update(state="failed")
    models[0].rename(tmp_path / "gone")
    try:
        with pytest.raises(ModelInvalid):
            simulate(sites, *settings, folder=tmp_path, resume=True)
    finally:
        (tmp_path / "gone").rename(models[0])


def test_figures_of_few_subjects_are_held_back(models: list[Path], tmp_path: Path) -> None:
    (folder,) = write_hospitals(tmp_path / "cohort", "north")  # one test case
    (model,) = read_models(models[:1])
    (order,) = make_orders([model], "run", 0)
    site = Site("north", folder, tmp_path / "state")
    found = site.test(order, model.weights)
    assert not found.measures and found.score >= 0
    keep_policy(tmp_path / "state", min_subjects=1)
    assert site.test(order, model.weights).measures["CSF"]["dice"].n == 1
    with pytest.raises(WeightsInvalid):
        site.test(order, model.weights + 1)
