"""Runs with another encoder, and in which only updates of low rank travel."""

from pathlib import Path

import pytest
import torch
from flwr.app import Message
from torch import nn

from polyclinic.config.compose import load_config
from polyclinic.errors import ConfigError
from polyclinic.federation.assignment import Assignment
from polyclinic.federation.run_folder import read_lines
from polyclinic.federation.site import Site, fit_contribution
from polyclinic.learning.state_dict import load_state
from polyclinic.store.ledger import Ledger
from polyclinic_server.reports.page import write_report
from polyclinic_strategies.universal import hospital
from polyclinic_strategies.universal.coordinator import check_universal
from polyclinic_strategies.universal.exchange import layout_of, make_teacher
from polyclinic_strategies.universal.teaching.library import read_library
from tests.strategies.universal.test_coordinator import SMALL, run
from tests.task_cohort import write_public, write_tasks

ALONE = ("deployment.hospitals=1", "strategy.contributions.end.contributions=1")


def test_factors_travel_are_taken_into_the_ledger_and_teach(tmp_path: Path) -> None:
    sites, public = (
        write_tasks(tmp_path / "tasks"),
        write_public(tmp_path / "coordinator" / "public", 8),
    )
    kept: list[Message] = []
    settings = (
        "training.universal.rank=1",
        "strategy.stages=1",
        "model.encoder.widths=[8,16,32,32]",
    )
    made = run(tmp_path / "run", sites, f"strategy.public={public}", *settings, kept=kept)
    (stage,) = made.describe()["universal"]["stages"]
    assert set(stage["weights"]) == {site.name for site in sites}
    with Ledger.open(made.path / "ledger", create=False) as ledger:
        base = ledger.load_model(ledger.bases()[0])
        whole = sum(tensor.numel() for tensor in base.values())
        for entry in ledger.active():
            sent = {
                name.removeprefix("task_vector/"): tensor
                for name, tensor in load_state(entry.path)[0].items()
            }
            vector = {
                name: tensor for name, tensor in sent.items() if not name.startswith("statistics/")
            }
            assert {name: tuple(tensor.shape) for name, tensor in vector.items()} == layout_of(
                base, 1
            )
            assert sum(tensor.numel() for tensor in vector.values()) < whole / 3
            teacher = make_teacher(entry, base, 1)
            assert set(teacher.encoder) == set(base)
            assert any(
                not torch.equal(teacher.encoder[name], base[name])
                for name in base
                if name.endswith("weight")
            )


def test_factors_are_not_merged() -> None:
    with pytest.raises(ConfigError, match="rank"):
        check_universal(load_config([*SMALL, "training.universal.rank=2", "strategy.combine=mean"]))


def test_a_vision_transformer_is_taught_by_three_tasks(tmp_path: Path) -> None:
    sites, public = (
        write_tasks(tmp_path / "tasks"),
        write_public(tmp_path / "coordinator" / "public", 8),
    )
    small = [each for each in SMALL if not each.startswith(("model=", "model.encoder"))]
    small += [
        "model=universal_vit",
        "model.encoder.width=16",
        "model.encoder.layers=2",
        "model.encoder.heads=2",
        "strategy.stages=1",
    ]
    made = run(tmp_path / "run", sites, f"strategy.public={public}", settings=small)
    (stage,) = made.describe()["universal"]["stages"]
    assert set(stage["weights"]) == {site.name for site in sites} and set(
        stage["trust"].values()
    ) == {1.0}
    tested = [
        line
        for line in read_lines(made.path / "metrics.jsonl")
        if line["phase"] == "test" and line["arm"] == "universal"
    ]
    assert {line["site"] for line in tested} == {site.name for site in sites} and all(
        line["score"] is not None for line in tested
    )
    with Ledger.open(made.path / "ledger", create=False) as ledger:
        before, after = (ledger.load_model(digest) for digest in ledger.bases())
    assert {name for name in before if not torch.equal(before[name], after[name])} >= {
        name for name in before if ".attn." in name
    }


@pytest.mark.parametrize("combine", ["distillation", "mean"])
def test_a_library_has_the_last_encoder_and_those_that_made_it(
    tmp_path: Path, combine: str
) -> None:
    sites, public = (
        write_tasks(tmp_path / "tasks"),
        write_public(tmp_path / "coordinator" / "public", 8),
    )
    settings = (f"strategy.public={public}", f"strategy.combine={combine}", "strategy.library=true")
    made = run(tmp_path / "run", sites, *settings)
    path = made.path / "arms" / "universal" / "library.safetensors"
    _, _, shelf = read_library(path)
    assert made.describe()["universal"]["library"] == len(sites) == len(shelf) - 1
    with Ledger.open(made.path / "ledger", create=False) as ledger:
        bases = ledger.bases()
        before, last = ledger.load_model(bases[-2]), ledger.load_model(bases[-1])
        entries = ledger.active(bases[-2])
        teachers = [make_teacher(entry, before, 0) for entry in entries]
    assert all(torch.equal(tensor, shelf[0].state[name]) for name, tensor in last.items())
    name = next(iter(before))
    assert {float(each.encoder[name].sum()) for each in teachers} == {
        float(each.state[name].sum()) for each in shelf[1:]
    }
    content = path.read_bytes()
    assert not [site for site in sites if site.name.encode() in content]
    assert "library.safetensors" in write_report(made.path).read_text()


def test_no_library_is_kept_unless_it_is_asked_for(tmp_path: Path) -> None:
    sites = write_tasks(tmp_path / "tasks")
    made = run(tmp_path / "run", sites, "strategy.combine=mean", "strategy.stages=1")
    assert not list(made.path.rglob("library*"))
    assert "library.safetensors" not in write_report(made.path).read_text()


@pytest.mark.parametrize("falling", [False, True])
def test_each_stage_draws_anew_and_the_rate_falls_if_that_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, falling: bool
) -> None:
    seen: dict[int, tuple[float, int]] = {}

    def fit(
        site: Site, assignment: Assignment, network: nn.Module, checkpoint: Path, **options: bool
    ) -> float:
        order = assignment.order
        seen[order.seed] = (site.job(order).training.learning_rate, site.seed(order))
        return fit_contribution(site, assignment, network, checkpoint, **options)

    monkeypatch.setattr(hospital, "fit_contribution", fit)
    settings = (f"strategy.falling={falling}", "strategy.stages=4", "strategy.combine=mean")
    made = run(tmp_path / "run", write_tasks(tmp_path / "tasks")[:1], *settings, *ALONE)
    assert len(made.describe()["universal"]["stages"]) == len(seen) == 4
    rates = [rate for rate, _ in seen.values()]
    wanted = [0.001, 0.000854, 0.0005, 0.000146] if falling else [0.001] * 4
    assert rates == pytest.approx(wanted, rel=0.01)
    assert len({drawn for _, drawn in seen.values()}) == 4
