"""A whole run in memory, with every strategy of conf/ and the real apps of both sides."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from polyclinic.config.compose import instantiate, list_names, load_config
from polyclinic.errors import ConfigError
from polyclinic.federation.events import Note
from polyclinic.federation.jobs import build_network, check_network
from polyclinic.federation.run_folder import RunFolder
from polyclinic.learning.state_dict import load_state
from polyclinic_client.fleet.app import app as client_app
from polyclinic_demos.cohorts.hospitals import HOSPITALS, write_cohort
from polyclinic_server.runs.app import coordinate, make_coordinator
from tests.e2e.federation import TINY
from tests.fakes import FakeGrid, FakeNode, serve

STRATEGIES = [name for name in list_names("strategy") if name.startswith("averaging/")]
SMALL = [*TINY, "data.samples_per_case=1", "data.spacing_mm=[10.0,10.0,10.0]", "data.patch=[16,16]"]


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    coarse = [replace(scanner, voxel_mm=(9.0, 9.0, 9.0)) for scanner in HOSPITALS[:4]]
    return write_cohort(
        tmp_path_factory.mktemp("cohort"), sites=4, subjects=(1, 1, 1), scanners=coarse
    )


def run(folder: Path, sites: list[Path], *overrides: str) -> RunFolder:
    """Coordinate in this process; hospitals answer at once."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "overrides.json").write_text(json.dumps([[*SMALL, *overrides]]))
    nodes = []
    for number, site in enumerate(sites):
        config = {"site": site.name, "data": str(site), "state": str(folder / "state" / site.name)}
        nodes.append(FakeNode(number + 1, serve(client_app, config)))
    made = RunFolder(folder)
    coordinate(FakeGrid(nodes), made)  # type: ignore[arg-type]
    made.close()
    return made


def figures(folder: RunFolder) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_of_conf_runs(strategy: str, tmp_path: Path, sites: list[Path]) -> None:
    made = run(tmp_path / "run", sites, f"strategy={strategy}", "rounds=2")
    lines = figures(made)
    assert {(line["phase"], line["round"]) for line in lines} == {
        (p, r) for p in ("train", "validate") for r in (1, 2)
    } | {("test", 2)}
    assert len({line["site"] for line in lines}) == 4
    arm = strategy.removeprefix("averaging/")
    _, metadata = load_state(made.path / "arms" / arm / "model.safetensors")
    assert json.loads(metadata["polyclinic"])["tested"] is True


def test_central_differential_privacy_wraps_a_strategy(tmp_path: Path, sites: list[Path]) -> None:
    made = run(tmp_path / "run", sites, "privacy=server_side_dp", "rounds=1")
    assert [line for line in figures(made) if line["phase"] == "test"]
    notes = [event.text for event in made.events() if isinstance(event, Note)]
    assert any("epsilon" in text for text in notes)


@pytest.mark.parametrize("strategy", ["merging/mean", "refinement", "universal"])
def test_it_is_refused_where_it_would_protect_nothing(strategy: str) -> None:
    parts = ["model=universal", "data=universal", "training=universal"]
    config = load_config(
        [
            f"strategy={strategy}",
            "privacy=server_side_dp",
            *(parts if strategy == "universal" else SMALL),
        ]
    )
    with pytest.raises(ConfigError, match=f"privacy=server_side_dp.*{strategy}"):
        make_coordinator(config)


def test_identical_hospitals_and_no_training_leave_the_weights_as_they_were(
    tmp_path: Path, sites: list[Path]
) -> None:
    made = run(tmp_path / "run", sites, "training.learning_rate=1e-20", "rounds=1")
    state, _ = load_state(made.path / "arms" / "fedavg" / "model.safetensors")
    fresh = build_network(load_config([*SMALL])).state_dict()
    assert all(torch.allclose(state[name], fresh[name], atol=1e-6) for name in fresh)


def test_a_run_that_is_taken_up_after_a_round_ends_like_one_that_was_not_interrupted(
    tmp_path: Path, sites: list[Path]
) -> None:
    whole = run(tmp_path / "whole", sites, "rounds=3")
    run(tmp_path / "parts", sites, "rounds=2")
    model = tmp_path / "parts" / "arms" / "fedavg" / "model.safetensors"
    state, metadata = load_state(model)
    from polyclinic.learning.state_dict import save_state

    described = {**json.loads(metadata["polyclinic"]), "tested": False}
    save_state(state, model, {"polyclinic": json.dumps(described)})
    parts = run(tmp_path / "parts", sites, "rounds=3")
    ours, _ = load_state(parts.path / "arms" / "fedavg" / "model.safetensors")
    theirs, _ = load_state(whole.path / "arms" / "fedavg" / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_adaptive_optimizers_refuse_running_variances() -> None:
    adam = instantiate(load_config(["strategy=averaging/fedadam"]).strategy, _recursive_=False)
    with pytest.raises(ConfigError, match="running variances"):
        adam.build({"_target_": None}, ["0.weight", "1.running_var"])
    assert adam.build({"_target_": None}, ["0.weight"])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data=classification", "training=classification"], "needs"),
        (["data.patch=[17,32,32]"], "cannot take a patch"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_before_any_hospital_is_asked(
    overrides: list[str], said: str
) -> None:
    config = load_config(overrides)
    with pytest.raises(ConfigError, match=said):
        check_network(build_network(config), config)
