"""A whole refinement run in memory, with the real apps of both sides, fine-tuning and ledger."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from polyclinic.errors import ConfigError
from polyclinic.federation.run_folder import RunFolder, read_lines
from polyclinic.learning.model_file import load_model
from polyclinic.learning.state_dict import load_state
from polyclinic.store.ledger import Ledger
from polyclinic_client.fleet.app import app as client_app
from polyclinic_client.policy.policy import keep_policy
from polyclinic_demos.cohorts.hospitals import HOSPITALS, write_cohort
from polyclinic_server.runs.app import coordinate
from polyclinic_strategies.merging.publisher import Publisher
from polyclinic_strategies.refinement.offline import read_choice
from polyclinic_strategies.refinement.refiner import Refiner
from tests.fakes import Answer, FakeGrid, FakeNode, serve
from tests.server.runs.test_app import SMALL
from tests.strategies.merging.test_coordinator import hospital

QUICK = [
    "strategy=refinement",
    "rounds=2",
    "strategy.base_rounds=1",
    "strategy.contributions.poll_s=0.01",
    "strategy.sharpness=[0.2]",
    "strategy.statistics=[average_image,channel_gaussians]",
    "deployment.hospitals=3",
    "deployment.min_hospitals=2",
    "privacy.release.min_subjects=1",
]
POLL = "query.collect"


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three hospitals, and a fourth whose data set lists images alone."""
    coarse = [replace(scanner, voxel_mm=(9.0, 9.0, 9.0)) for scanner in HOSPITALS[:4]]
    paths = write_cohort(
        tmp_path_factory.mktemp("cohort"), sites=4, subjects=(1, 1, 1), scanners=coarse
    )
    described = json.loads((paths[3] / "dataset.json").read_text())
    images = [
        case["image"]
        for split in ("training", "validation", "test")
        for case in described.pop(split)
    ]
    (paths[3] / "dataset.json").write_text(json.dumps({**described, "test": images}))
    return paths


def run(
    folder: Path,
    sites: list[Path],
    *overrides: str,
    on_event: Callable[[dict[str, Any]], None] = lambda _event: None,
    trains: Callable[[dict[str, Any]], Answer] = hospital,
    sent: list[str] | None = None,
    before: Sequence[str] = (),
) -> RunFolder:
    """Run in this process; `sent` gets the kinds of all messages to hospitals.

    `before` is the setting of a strategy that runs first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    others = [[*SMALL, *before]] if before else []
    asked = [*others, [*SMALL, *QUICK, *overrides]]
    (folder / "overrides.json").write_text(json.dumps(asked))
    nodes = []
    for number, site in enumerate(sites):
        config: dict[str, Any] = {
            "site": site.name,
            "data": str(site),
            "state": str(folder / "state" / site.name),
        }
        keep_policy(folder / "state" / site.name, min_subjects=1)
        answer = trains(config) if number < 3 else serve(client_app, {**config, "mode": "describe"})
        nodes.append(FakeNode(number + 1, answer))
    made = RunFolder(folder)
    arms = [{"name": "refinement", "title": "Refinement"}]
    made.update(name="run", state="running", arms=arms, task="segmentation")
    made.listeners.append(lambda event: on_event(event.to_line()))
    grid = FakeGrid(nodes)
    coordinate(grid, made)  # type: ignore[arg-type]
    if sent is not None:
        sent += [message.metadata.message_type for message in grid.pushed]
    return made


def of_kind(folder: RunFolder, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_lines(folder.path / "events.jsonl") if event["kind"] == kind]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, sites: list[Path]) -> RunFolder:
    """Three contribute, the fourth joins with a description, then the second leaves."""
    folder = tmp_path_factory.mktemp("run") / "run"

    def leave(event: dict[str, Any]) -> None:
        if event["kind"] == "traffic" and event["why"] == "join":
            with Ledger.open(folder / "ledger") as ledger:
                ledger.withdraw(sites[1].name, "for the test")

    return run(
        folder, sites, "strategy.stay.newcomers=1", "strategy.stay.departures=1", on_event=leave
    )


def test_after_a_merging_strategy_hospitals_are_asked_for_what_is_missing(
    tmp_path: Path, sites: list[Path]
) -> None:
    merging = ["strategy=merging/weighted_mean", "rounds=1", "strategy.poll_s=0.01"]
    merging += ["deployment.hospitals=3", "deployment.min_hospitals=2"]
    done = run(tmp_path / "run", sites[:3], before=merging)
    contributed = [event["arm"] for event in of_kind(done, "contribution")]
    assert contributed == 3 * ["merging-weighted_mean"] + 3 * ["refinement"]
    assert {event["site"] for event in of_kind(done, "delivered")} == {
        site.name for site in sites[:3]
    }


def test_every_hospital_gets_its_model_and_can_use_it(
    finished: RunFolder, sites: list[Path]
) -> None:
    delivered = {event["site"]: event["why"] for event in of_kind(finished, "delivered")}
    assert delivered == {**{site.name: "choice" for site in sites[:3]}, sites[3].name: "join"}
    assert not of_kind(finished, "failed")
    for site in sites:
        load_model(finished.path / "state" / site.name / "refined.safetensors")


def test_the_newcomer_read_no_label_and_trained_nothing(
    finished: RunFolder, sites: list[Path]
) -> None:
    asked = {
        event["phase"] for event in of_kind(finished, "asked") if event["site"] == sites[3].name
    }
    assert asked == set()
    (described,) = of_kind(finished, "described")
    assert (described["site"], described["subjects"]) == (sites[3].name, 3)


def test_nobody_else_moves_a_byte_when_one_joins_or_leaves(
    finished: RunFolder, sites: list[Path]
) -> None:
    for event in of_kind(finished, "traffic"):
        for site, kinds in event["bytes"].items():
            moved = {kind: count for kind, count in kinds.items() if count and kind != POLL}
            assert bool(moved) == (site == event["site"] and event["why"] == "join"), (
                event["why"],
                site,
                moved,
            )
    assert {event["why"] for event in of_kind(finished, "traffic")} == {"join", "withdrawal"}


def test_after_a_departure_everything_is_as_if_it_had_never_been_there(
    finished: RunFolder, sites: list[Path]
) -> None:
    _, own = read_choice(finished.path / "ledger" / "refinement.json").recipes
    with Ledger.open(finished.path / "ledger") as ledger:
        left = Refiner(Publisher(ledger, 0, 0.5))
        refined = left.model(left.coefficients(sites[0].name, own))
        centre = ledger.load_model(ledger.publications()[-1].digest)
        entries = {entry.site: entry for entry in ledger.entries()}
        base = ledger.load_model(ledger.bases()[-1])
        requirements_of = entries[sites[0].name]
        assert requirements_of.base == ledger.bases()[-1]
        paths = [entries[sites[number].name].path for number in (0, 2)]
    with Ledger.open(finished.path / "never") as fresh:
        from polyclinic.store.requirements import Requirements

        digest = fresh.add_base(base)
        wanted = Requirements(
            digest,
            {name: tuple(tensor.shape) for name, tensor in base.items()},
            entries[sites[0].name].task,
            None,
            2**30,
            0.0,
            {},
            0,
        )
        for path, number in zip(paths, (0, 2), strict=True):
            fresh.receive(path, sites[number].name, wanted)
        publisher = Publisher(fresh, 0, 0.5)
        never = Refiner(publisher)
        again = never.model(never.coefficients(sites[0].name, own))
        from polyclinic_strategies.merging.rules.mean import Mean

        assert all(torch.equal(refined[name], again[name]) for name in refined)
        assert all(
            torch.equal(centre[name], tensor) for name, tensor in publisher.merge(Mean()).items()
        )


def test_the_choice_is_kept_with_its_scores(finished: RunFolder) -> None:
    kept = json.loads((finished.path / "ledger" / "refinement.json").read_text())
    means = [tried["mean"] for tried in kept["left_out"]]
    assert means == sorted(means, reverse=True)
    assert len(means) == 2 * 2 + 1  # two statistics with two rules, and the uniform mean
    for taken in (kept["newcomers"], kept["contributors"]):
        assert taken["words"] and {"gain", "error", "loses"} <= set(taken)
        assert taken["common"]["rule"] == "uniform"
    described = finished.describe()["refinement"]
    assert described["sites"][-1] == HOSPITALS[3].name
    assert HOSPITALS[1].name not in described["sites"]


def test_figures_of_the_centre_and_of_refined_models(finished: RunFolder) -> None:
    tested = {
        (line["arm"], line["site"])
        for line in read_lines(finished.path / "metrics.jsonl")
        if line["phase"] == "test"
    }
    assert tested == {
        (arm, scanner.name) for arm in ("centre", "refinement") for scanner in HOSPITALS[:3]
    }
    state, _ = load_state(finished.path / "arms" / "centre" / "model.safetensors")
    assert state


# afterwards


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, sites: list[Path]) -> RunFolder:
    """Three contribute and get their models; nobody comes or goes."""
    return run(tmp_path_factory.mktemp("calm") / "run", sites[:3])


def refined_models(folder: Path, sites: list[Path]) -> list[dict[str, torch.Tensor]]:
    return [
        load_state(folder / "state" / site.name / "refined.safetensors")[0] for site in sites[:3]
    ]


def test_a_run_that_is_taken_up_again_repeats_neither_rounds_nor_choice_nor_tests(
    calm: RunFolder, sites: list[Path]
) -> None:
    choice = (calm.path / "ledger" / "refinement.json").read_bytes()
    before, tests = refined_models(calm.path, sites), len(read_lines(calm.path / "metrics.jsonl"))
    contributions = of_kind(calm, "contribution")
    sent: list[str] = []
    again = run(calm.path, sites[:3], sent=sent)
    assert of_kind(again, "resumed")
    assert not {"train", "query.base", "evaluate", "evaluate.test"} & set(sent)
    assert "evaluate.score" not in sent
    assert (calm.path / "ledger" / "refinement.json").read_bytes() == choice
    assert of_kind(again, "contribution") == contributions
    assert len(read_lines(calm.path / "metrics.jsonl")) == tests
    after = refined_models(calm.path, sites)
    assert all(
        torch.equal(one[name], other[name])
        for one, other in zip(before, after, strict=True)
        for name in one
    )
    assert len(of_kind(again, "delivered")) == 2 * 3


def test_a_run_is_taken_up_again_after_somebody_left(
    finished: RunFolder, sites: list[Path]
) -> None:
    delivered = len(of_kind(finished, "delivered"))
    # the newcomer and the departure have happened before
    stay = ("strategy.stay.newcomers=1", "strategy.stay.departures=1")
    again = run(finished.path, sites, *stay)
    served = {event["site"] for event in of_kind(again, "delivered")[delivered:]}
    assert served >= {sites[0].name, sites[2].name}


def test_a_ledger_that_exists_is_enough_and_nobody_trains(
    calm: RunFolder, sites: list[Path], tmp_path: Path
) -> None:
    sent: list[str] = []

    def never_trains(config: dict[str, Any]) -> Answer:
        return serve(client_app, config)

    ledger = f"strategy.contributions.ledger={calm.path / 'ledger'}"
    made = run(
        tmp_path / "run", sites, ledger, "strategy.stay.newcomers=1", trains=never_trains, sent=sent
    )
    assert "train" not in sent and not of_kind(made, "contribution")
    assert not (made.path / "ledger").exists()
    assert {event["site"]: event["why"] for event in of_kind(made, "delivered")} == {
        **{site.name: "choice" for site in sites[:3]}, sites[3].name: "join",
    }  # fmt: skip
    ours, theirs = refined_models(made.path, sites), refined_models(calm.path, sites)
    assert all(
        torch.equal(one[name], other[name])
        for one, other in zip(ours, theirs, strict=True)
        for name in one
    )
    assert {
        line["arm"] for line in read_lines(made.path / "metrics.jsonl") if line["phase"] == "test"
    } == {"centre", "refinement"}


def test_a_base_of_another_network_is_refused(
    calm: RunFolder, sites: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="model=unet_2d"):
        run(
            tmp_path / "run",
            sites[:3],
            f"strategy.contributions.ledger={calm.path / 'ledger'}",
            "model.channels=[4,8]",
            "model.strides=[2]",
        )


def test_hospitals_all_start_from_the_centre(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"contributions\.start=newest"):
        run(tmp_path / "run", [], "strategy.contributions.start=newest")


def test_new_data_bring_the_hospital_a_new_model_and_nobody_else_a_byte(
    sites: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLYCLINIC_IMAGE_FOLDERS", str(sites[0]))
    described = json.loads((sites[0] / "dataset.json").read_text())
    for split in ("training", "validation", "test"):
        described[split] = [
            {key: str(sites[0] / path) for key, path in case.items()} for case in described[split]
        ]
    growing = tmp_path / "data" / sites[0].name
    growing.mkdir(parents=True)
    (growing / "dataset.json").write_text(json.dumps(described))
    folder, first = tmp_path / "run", {}

    def grow_then_leave(event: dict[str, Any]) -> None:
        if event["kind"] == "delivered" and event["why"] == "choice":
            first[event["site"]] = (
                folder / "state" / event["site"] / "refined.safetensors"
            ).read_bytes()
            if len(first) == 3:
                grown = {**described, "training": described["training"] + described["test"]}
                (growing / "dataset.json").write_text(json.dumps(grown))
        elif event["kind"] == "traffic" and event["why"] == "update":
            with Ledger.open(folder / "ledger") as ledger:
                ledger.withdraw(sites[1].name, "ends the test")

    made = run(
        folder, [growing, *sites[1:3]], "strategy.stay.departures=1", on_event=grow_then_leave
    )
    contributed = [event["site"] for event in of_kind(made, "contribution")]
    assert contributed.count(growing.name) == 2 and len(contributed) == 4
    (updated,) = [event for event in of_kind(made, "delivered") if event["why"] == "update"]
    assert updated["site"] == growing.name and updated["seconds"] > 0
    now = {site: (folder / "state" / site / "refined.safetensors").read_bytes() for site in first}
    assert [site for site in first if now[site] != first[site]] == [growing.name]
    (traffic,) = [event for event in of_kind(made, "traffic") if event["why"] == "update"]
    assert traffic["bytes"][growing.name]["query.refined"] > 10_000
    for site, kinds in traffic["bytes"].items():
        assert site == growing.name or {kind for kind, count in kinds.items() if count} <= {POLL}, (
            site
        )


def test_of_two_hospitals_one_leaves_and_the_run_ends_with_the_other(
    sites: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"

    def leave(event: dict[str, Any]) -> None:
        if event["kind"] == "delivered" and len(of_kind(RunFolder(folder), "delivered")) == 2:
            with Ledger.open(folder / "ledger") as ledger:
                ledger.withdraw(sites[1].name, "for the test")

    ended = run(
        folder, sites[:2], "deployment.hospitals=2", "strategy.stay.departures=1", on_event=leave
    )
    described = ended.describe()["refinement"]
    assert described["contributors"] == [sites[0].name]
    assert described["coefficients"][sites[0].name] == {sites[0].name: 1.0}
