"""Planned networks in whole federations: rounds, moments, resuming, merging, refinement."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from polyclinic.federation.run_folder import RunFolder
from polyclinic.learning import training
from polyclinic.learning.model_file import load_model
from polyclinic.learning.optimizing.moments import Moments
from polyclinic.learning.optimizing.stepping import Stepper
from polyclinic.learning.state_dict import load_metadata, load_state
from polyclinic.reporting.results import read_results
from polyclinic.simulation.result import SimulationResult
from polyclinic.simulation.run import simulate
from polyclinic_server.reports.best_rounds import find_best_rounds
from polyclinic_server.runs.export import choose_model
from tests.core.simulation.small_hospitals import write_hospitals

PLANNED = (
    "data=planned_2d",
    "model=dynunet",
    "training=nnunet",
    "data.labels=[background,CSF,grey matter,white matter]",
    "data.spacing_mm=[3.0,3.0,3.0]",
    "data.patch=[32,32]",
    "model.features=4",
    "training.steps=4",
    "training.precision=float32",
    "privacy.release.min_subjects=1",
)
SETTINGS: dict[str, Any] = {"strategy": "averaging/fedavg", "rounds": 3}
HEADS = "deep_supervision_heads"


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_hospitals(tmp_path_factory.mktemp("cohort"), "north", "south")


@pytest.fixture(scope="module")
def averaged(sites: list[Path]) -> Iterator[SimulationResult]:
    with simulate(sites, *PLANNED, **SETTINGS) as result:
        yield result


def weights(result: SimulationResult, name: str = "model") -> dict[str, torch.Tensor]:
    return load_state(result.folder / "arms" / "fedavg" / f"{name}.safetensors")[0]


def alike(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_best_round_is_kept_beside_the_last(averaged: SimulationResult) -> None:
    results = read_results(averaged.folder)
    (best,) = find_best_rounds(results)
    path = choose_model(RunFolder(averaged.folder), None, best=True)
    described = load_metadata(load_state(path)[1], path)
    assert described["round"] == best.round and described["hospitals"] == 2
    assert described["score"] == pytest.approx(best.score) and best.last == 3
    assert best.score >= best.last_score
    assert alike(weights(averaged), weights(averaged, "best")) == (best.round == 3)
    network, _ = load_model(path)
    assert network(torch.zeros(1, 1, 32, 32)).shape == (1, 4, 32, 32)


@pytest.mark.parametrize("stop", [2, 3])
def test_a_resumed_run_ends_with_the_same_bits(
    sites: list[Path], averaged: SimulationResult, tmp_path: Path, stop: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A hospital's process dies in a round; schedule, moments and the best round go on."""
    fit = training.fit

    def dies(*arguments: Any, **options: Any) -> training.FitResult:
        if options["place"].number == stop:
            raise KeyboardInterrupt
        return fit(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(training, "fit", dies)
        with pytest.raises(KeyboardInterrupt):
            simulate(sites, *PLANNED, **SETTINGS, folder=tmp_path)
    resumed = simulate(sites, *PLANNED, **SETTINGS, folder=tmp_path, resume=True)
    assert alike(weights(averaged), weights(resumed))
    assert alike(weights(averaged, "best"), weights(resumed, "best"))


def test_moments_go_on_only_if_they_are_kept(
    sites: list[Path], averaged: SimulationResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    with simulate(sites, *PLANNED, "training.momentum_kept=false", **SETTINGS) as forgetful:
        forgot = weights(forgetful)
        assert not alike(weights(averaged), forgot)
    monkeypatch.setattr(Moments, "take_up", lambda *_: None)
    with simulate(sites, *PLANNED, **SETTINGS) as without:
        assert alike(weights(without), forgot)


def test_the_rate_falls_over_all_rounds(sites: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []
    fit = training.fit

    def watch(*arguments: Any, stepper: Stepper, **options: Any) -> Any:
        result = fit(*arguments, stepper=stepper, **options)
        rates.append(stepper.optimizer.param_groups[0]["lr"])
        return result

    monkeypatch.setattr(training, "fit", watch)
    simulate(sites[:1], *PLANNED, **SETTINGS).close()
    assert rates == pytest.approx([0.01 * (1 - done / 12) ** 0.9 for done in (3, 7, 11)])


def test_fedprox_and_two_workers_train(sites: list[Path], averaged: SimulationResult) -> None:
    with simulate(sites, *PLANNED, "training.workers=2", **SETTINGS) as loaded:
        assert alike(weights(averaged), weights(loaded))
    proximal = {**SETTINGS, "strategy": "averaging/fedprox", "rounds": 1}
    precise = [each for each in PLANNED if "precision" not in each]
    with simulate(sites, *precise, "training.precision=bfloat16", **proximal) as fast:
        (path,) = fast.folder.glob("arms/*/model.safetensors")
        assert all(bool(value.isfinite().all()) for value in load_state(path)[0].values())


@pytest.mark.parametrize(
    "settings",
    [
        ("strategy=merging/mean", "rounds=1"),
        ("strategy=refinement", "rounds=2", "strategy.base_rounds=1", "strategy.sharpness=[0.2]"),
    ],
)
def test_task_vectors_hold_the_heads_of_deep_supervision(
    sites: list[Path], tmp_path: Path, settings: tuple[str, ...]
) -> None:
    result = simulate(sites, *PLANNED, *settings, folder=tmp_path)
    assert not result.faults
    models = list(result.folder.rglob("*.safetensors"))
    assert models
    with_heads = [path for path in models if any(HEADS in name for name in load_state(path)[0])]
    assert with_heads
    scores = next(iter(result.scores.values()))
    assert set(scores) >= {"north", "south"}
