"""Whole federations in this process."""

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polyclinic.errors import ConfigError, RunError, StatisticFailed, UnknownName
from polyclinic.federation.run_folder import RunFolder, read_lines
from polyclinic.imaging.datasets import read_dataset
from polyclinic.learning.prediction import evaluate
from polyclinic.learning.state_dict import load_state
from polyclinic.simulation.changes import Change
from polyclinic.simulation.hospital import SimulatedHospital
from polyclinic.simulation.result import SimulationResult
from polyclinic.simulation.run import simulate
from polyclinic.simulation.setup import prepare_run
from polyclinic_client.site import open_sites as client_site
from tests.core.simulation.small_hospitals import SMALL, write_hospitals
from tests.plugins import Installer
from tests.task_cohort import write_tasks

ROUNDS = "averaging/local,averaging/fedavg"
TASKS = (
    "model=universal",
    "data=universal",
    "training=universal",
    "strategy.combine=mean",
    "strategy.stages=2",
    "model.encoder.widths=[8,8,8,8]",
    "data.patch=[32,32]",
    "training.epochs=1",
    "training.batch_size=6",
)
FAILING = """
class Toy:
    needs_network = False
    def measure(self, image, network):
        raise ZeroDivisionError("no voxel is bright")
    def distance(self, one, other): ...
"""
REFINEMENT = ("strategy=refinement", "strategy.base_rounds=1", "strategy.sharpness=[0.2]")


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_hospitals(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def averaged(sites: list[Path]) -> Iterator[SimulationResult]:
    with simulate(sites, *SMALL, strategy=ROUNDS, rounds=2) as result:
        yield result


def events(result: SimulationResult, kind: str) -> list[dict[str, Any]]:
    return [line for line in read_lines(result.folder / "events.jsonl") if line["kind"] == kind]


def weights(result: SimulationResult, strategy: str) -> dict[str, torch.Tensor]:
    return load_state(result.folder / "arms" / strategy / "model.safetensors")[0]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_every_strategy_is_scored_at_every_hospital(averaged: SimulationResult) -> None:
    assert set(averaged.scores) == {"local", "fedavg"}
    for scores in averaged.scores.values():
        assert set(scores) == {"north", "south", "west"}
        assert all(0 <= score <= 1 for score in scores.values())
    assert RunFolder(averaged.folder).describe()["state"] == "finished"
    assert not averaged.faults


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(
    sites: list[Path], averaged: SimulationResult
) -> None:
    torch.manual_seed(99)  # whatever the process has drawn before
    random.random()
    with simulate(sites, *SMALL, strategy="averaging/fedavg", rounds=2) as again:
        assert same(weights(averaged, "fedavg"), weights(again, "fedavg"))
        assert again.scores["fedavg"] == averaged.scores["fedavg"]
    with simulate(sites, *SMALL, strategy="averaging/fedavg", rounds=2, seed=1) as other:
        assert not same(weights(averaged, "fedavg"), weights(other, "fedavg"))


def test_randomness_and_threads_of_the_process_are_left_alone(sites: list[Path]) -> None:
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    wanted = random.random(), np.random.random(), torch.rand(1).item()
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    threads = torch.get_num_threads()
    simulate(sites, *SMALL, rounds=1).close()
    assert (random.random(), np.random.random(), torch.rand(1).item()) == wanted
    assert torch.get_num_threads() == threads


def test_little_memory_changes_no_figure_and_nothing_stays_in_memory(
    sites: list[Path], averaged: SimulationResult
) -> None:
    others = set(client_site._SITES)  # of other tests
    with simulate(sites, *SMALL, strategy="averaging/fedavg", rounds=2, memory_gb=0.0) as frugal:
        assert same(weights(averaged, "fedavg"), weights(frugal, "fedavg"))
    assert set(client_site._SITES) == others


def test_data_sets_in_memory_are_hospitals_too(
    sites: list[Path], averaged: SimulationResult
) -> None:
    given = {path.name: read_dataset(path) for path in sites}
    with simulate(given, *SMALL, strategy="averaging/fedavg", rounds=2) as result:
        assert result.scores["fedavg"] == averaged.scores["fedavg"]
    fewer = replace(given["north"], training=given["north"].training[:1])
    with simulate([fewer, given["south"]], *SMALL, rounds=1) as result:
        assert result.results.hospitals[0].training == 1


def test_a_hospital_that_fails_is_left_out_and_says_why(sites: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    with simulate([*sites[:2], broken], *SMALL, rounds=1) as result:
        assert set(result.scores["fedavg"]) == {"north", "south"}
        assert [type(error).__name__ for error in result.faults["broken"]] == ["DatasetInvalid"]
        (refused,) = events(result, "refused")
        assert "dataset.json" not in refused["reason"]  # as in a federation, no file's name leaves


def test_too_few_hospitals_end_the_run_with_a_note_for_each(
    sites: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(RunError) as caught:
        simulate([sites[0], tmp_path], *SMALL, folder=tmp_path / "run", rounds=1)
    assert any(
        note.startswith(f"{tmp_path.name}: DatasetInvalid") for note in caught.value.__notes__
    )
    described = json.loads((tmp_path / "run" / "simulation" / "run.json").read_text())
    assert described["state"] == "failed"


def test_one_hospital_alone_is_enough(sites: list[Path]) -> None:
    with simulate(sites[:1], *SMALL, rounds=1) as result:
        assert set(result.scores["fedavg"]) == {"north"}


def test_a_hospital_joins_and_another_leaves_between_rounds(sites: list[Path]) -> None:
    changes = [Change("west", "join", count=1), Change("north", "leave", count=2)]
    with simulate(sites, *SMALL, changes=changes, rounds=3) as result:
        trained: dict[int, set[str]] = {}
        for line in read_lines(result.folder / "metrics.jsonl"):
            if line["phase"] == "train":
                trained.setdefault(line["round"], set()).add(line["site"])
        assert trained == {
            1: {"north", "south"},
            2: {"north", "south", "west"},
            3: {"south", "west"},
        }


def test_merging_takes_a_contribution_of_each_and_a_withdrawal(sites: list[Path]) -> None:
    settings = (*SMALL, "strategy=merging/mean")
    with simulate(sites, *settings, rounds=1) as whole:
        assert {event["site"] for event in events(whole, "contribution")} == {
            "north", "south", "west",
        }  # fmt: skip
        assert len(whole.scores["merging-mean"]) == 3
    with (
        simulate(sites[:2], *settings, rounds=1) as two,
        simulate(
            sites,
            *settings,
            "strategy.end.contributions=0",
            "strategy.end.seconds=3600",  # an hour of simulated time
            changes=[Change("west", "withdraw", after="contribution", count=3)],
            rounds=1,
        ) as withdrawn,
    ):
        assert same(weights(two, "merging-mean"), weights(withdrawn, "merging-mean"))


def test_a_newcomer_that_only_describes_itself_gets_a_refined_model(sites: list[Path]) -> None:
    with simulate(
        sites,
        *SMALL,
        *REFINEMENT,
        "strategy.stay.newcomers=1",
        describe=["west"],
        changes=[Change("west", "join", after="delivered", count=2)],
        rounds=2,
    ) as result:
        delivered = {event["site"]: event["why"] for event in events(result, "delivered")}
        assert delivered == {"north": "choice", "south": "choice", "west": "join"}
        assert "west" not in result.scores["refinement"]
        assert result.model_file("refinement", "west").is_file()


def test_a_hospital_that_describes_itself_gets_its_model_without_any_other_setting(
    sites: list[Path],
) -> None:
    strategies = "averaging/fedavg,refinement"  # only one of them has such a setting
    few = REFINEMENT[1:]
    with simulate(sites, *SMALL, *few, strategy=strategies, describe=["west"], rounds=2) as result:
        refined = result.hospitals["west"] / "refined.safetensors"
        assert result.model_file("refinement", "west") == refined
        assert 0 <= evaluate(refined, sites[2]).score <= 1
        settings = RunFolder(result.folder).settings()
        assert [any("stay.newcomers=1" in text for text in each) for each in settings] == [
            False, True,
        ]  # fmt: skip


def test_a_statistic_that_fails_is_told_with_its_line_and_the_place_of_the_events(
    sites: list[Path], tmp_path: Path, installer: Installer
) -> None:
    offers = {"polyclinic.statistics": {"toy": "polyclinic_toy_failing:Toy"}}
    files = {"polyclinic_toy_failing.py": FAILING}
    installer.install("polyclinic-toy-failing", "1.0", offers, files)
    asked = (*SMALL, "strategy=refinement", "strategy.base_rounds=0", "strategy.statistics=[toy]")
    with pytest.raises(RunError) as caught:
        simulate(sites[:2], *asked, folder=tmp_path / "run", rounds=1)
    notes = "\n".join(caught.value.__notes__)
    assert "statistic toy of the package polyclinic-toy-failing" in notes
    assert "polyclinic_toy_failing.py, line 5" in notes
    assert "ZeroDivisionError: no voxel is bright" in notes
    path = tmp_path / "run" / "simulation" / "events.jsonl"
    assert str(path) in notes and path.is_file()
    assert isinstance(caught.value.__cause__, StatisticFailed)
    assert isinstance(caught.value.__cause__.__cause__, ZeroDivisionError)
    assert "no voxel" not in path.read_text()  # as in a federation


def test_a_hospital_that_cannot_describe_itself_ends_no_run(
    sites: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    given = [*sites[:2], broken]
    with simulate(given, *SMALL, *REFINEMENT, describe=["broken"], rounds=2) as result:
        assert set(result.scores["refinement"]) == {"north", "south"}
        assert result.faults["broken"]


@pytest.mark.parametrize("given", ["newcomers=2", "seconds=60"])
def test_a_stay_that_is_given_is_left_as_it_is(given: str, tmp_path: Path) -> None:
    asked = ["strategy=refinement", f"strategy.stay.{given}"]
    run, _ = prepare_run(tmp_path, asked, resume=False, describing=1)
    assert run.settings() == [asked]


def test_hospitals_with_tasks_of_their_own_share_an_encoder(tmp_path: Path) -> None:
    sites = write_tasks(tmp_path / "tasks")
    with simulate(sites, *TASKS, strategy="universal") as result:
        assert len(events(result, "stage")) == 2
        assert set(result.scores["universal"]) == {site.name for site in sites}
        own = result.model("universal", "stripes")  # the shared encoder, with a head for this task
        assert own(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_a_run_that_waits_for_ever_is_ended(sites: list[Path]) -> None:
    settings = ("strategy=merging/mean", "strategy.end.contributions=3")
    with pytest.raises(RunError, match="cannot happen"):
        simulate(sites[:2], *SMALL, *settings, rounds=1)


def test_a_finished_run_is_read_and_a_run_of_other_settings_is_refused(
    sites: list[Path], tmp_path: Path
) -> None:
    first = simulate(sites, *SMALL, folder=tmp_path, rounds=1)
    before = (first.folder / "events.jsonl").read_bytes()
    with pytest.raises(RunError, match="resume"):
        simulate(sites, *SMALL, folder=tmp_path, rounds=1)
    with pytest.raises(RunError, match="other settings"):
        simulate(sites, *SMALL, folder=tmp_path, resume=True, rounds=2)
    again = simulate(sites, *SMALL, folder=tmp_path, resume=True, rounds=1)
    assert (again.folder / "events.jsonl").read_bytes() == before
    assert again.scores == first.scores


def test_an_interrupted_run_goes_on_to_the_same_bits(
    sites: list[Path], averaged: SimulationResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"strategy": "averaging/fedavg", "rounds": 2, "folder": tmp_path}
    answer, left = SimulatedHospital.answer, iter(range(10))  # it greets, then a round and a part

    def interrupted(hospital: SimulatedHospital, message: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return answer(hospital, message)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(SimulatedHospital, "answer", interrupted)
        simulate(sites, *SMALL, **settings)
    assert RunFolder(tmp_path / "simulation").describe()["state"] == "interrupted"
    resumed = simulate(sites, *SMALL, **settings, resume=True)
    assert len(events(resumed, "round_end")) == 2
    assert same(weights(averaged, "fedavg"), weights(resumed, "fedavg"))


def test_a_temporary_folder_goes_with_the_result_and_a_given_one_stays(
    sites: list[Path], tmp_path: Path
) -> None:
    result = simulate(sites, *SMALL, rounds=1)
    folder = result.folder
    assert folder.is_dir()
    result.close()
    assert not folder.exists() and not folder.parent.exists()
    with simulate(sites, *SMALL, folder=tmp_path / "kept", rounds=1) as kept:
        pass
    assert (kept.folder / "run.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"rounds": "many"}, ConfigError),
        ({"fodler": "x"}, ConfigError),
        ({"strategy": "averaging/fedavgg"}, UnknownName),
        ({"describe": ["nobody"]}, UnknownName),
        ({"changes": [Change("nobody", "leave")]}, ConfigError),
    ],
)
def test_a_wrong_argument_is_refused_before_any_hospital_is_asked(
    sites: list[Path], arguments: dict[str, Any], kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        simulate(sites, *SMALL, **arguments)
