"""A plan from hospitals in this process: the real apps of both sides, an honest and a lying one."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message

import polyclinic
from polyclinic.config.plan_files import Plan, read_plan
from polyclinic.errors import ConfigError, PolyclinicError, TooFewHospitals
from polyclinic.federation.events import Failed
from polyclinic.federation.run_folder import RunFolder
from polyclinic.system.faults import shareable
from polyclinic_client.fleet.app import app as client_app
from polyclinic_client.policy.policy import keep_policy
from polyclinic_server.reports.page import write_report
from polyclinic_server.runs.app import coordinate
from polyclinic_server.runs.coordinator import create_run
from polyclinic_strategies.planning.commands import LIGHT
from polyclinic_strategies.planning.coordinator import find_plan
from polyclinic_strategies.planning.events import Fingerprinted
from tests.fakes import FakeGrid, FakeNode, make_error, serve
from tests.strategies.planning.folders import LABELS, Case, write_site

SETTINGS = [
    *LIGHT,
    "strategy=planning",
    "data=segmentation",
    "data.patch=[16,16,16]",
    f"data.labels=[{','.join(LABELS)}]",
]
SHAPES = {"north": (40, 40, 24), "south": (40, 40, 24), "west": (32, 40, 16)}
Change = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sites")
    return {name: write_site(folder / name, cases(shape)) for name, shape in SHAPES.items()}


def cases(shape: tuple[int, int, int]) -> list[Case]:
    return [Case(shape, (1.0, 1.0, 1.0), 10.0 + number) for number in range(4)]


def lying(answer: Callable[[Message], Message | None], change: Change) -> Any:
    """A hospital that changes its fingerprint."""

    def reply(message: Message) -> Message | None:
        made = answer(message)
        if made is not None and message.metadata.message_type == "query.describe":
            flat: dict[str, Any] = dict(made.content["config"])
            made.content["config"] = ConfigRecord(change(flat))
        return made

    return reply


def failing(answer: Callable[[Message], Message | None]) -> Any:
    """A hospital whose errors become answers, as its worker does it."""

    def reply(message: Message) -> Message | None:
        try:
            return answer(message)
        except PolyclinicError as error:
            return make_error(message, shareable(error))

    return reply


def run(
    folder: Path,
    sites: Mapping[str, Path],
    *settings: str,
    liars: Mapping[str, Change] | None = None,
    demands: Mapping[str, int] | None = None,
) -> RunFolder:
    """Coordinate in this process; hospitals answer at once."""
    folder.mkdir(parents=True, exist_ok=True)
    asked = [*SETTINGS, f"deployment.hospitals={len(sites)}", "deployment.wait_s=1", *settings]
    (folder / "overrides.json").write_text(json.dumps([asked]))
    nodes = []
    for number, (name, data) in enumerate(sites.items()):
        state = folder / "state" / name
        keep_policy(state, min_subjects=(demands or {}).get(name))
        config = {"site": name, "data": str(data), "state": str(state)}
        answer = failing(serve(client_app, config))
        if name in (liars or {}):
            answer = lying(answer, (liars or {})[name])
        nodes.append(FakeNode(number + 1, answer))
    made = RunFolder(folder)
    coordinate(FakeGrid(nodes), made)  # type: ignore[arg-type]
    made.close()
    return made


def plan_of(folder: RunFolder) -> Plan:
    return find_plan(folder.path)[1]


def test_hospitals_make_a_plan_that_a_run_uses(tmp_path: Path, sites: dict[str, Path]) -> None:
    made = run(tmp_path / "run", sites)
    plan = plan_of(made)
    assert plan.fingerprint["patients"] == 12 and plan.data == "planned"
    assert plan.settings["data.spacing_mm"] == [1.0, 1.0, 1.0]
    assert plan.settings["data.patch"] == [40, 40, 24]
    told = [event for event in made.events() if isinstance(event, Fingerprinted)]
    assert {(event.site, event.patients, event.counted) for event in told} == {
        (name, 4, 4) for name in sites
    }
    again = run(tmp_path / "run", sites)  # a plan that is written is not made again
    assert plan_of(again) == plan and len(made.events()) == len(again.events())
    made.update(
        arms=[{"name": "planning", "title": "Planning", "kind": "planning"}], state="finished"
    )
    assert write_report(made.path).is_file()


def test_what_travels_is_of_no_single_case(tmp_path: Path, sites: dict[str, Path]) -> None:
    seen: list[dict[str, Any]] = []

    def look(flat: dict[str, Any]) -> dict[str, Any]:
        seen.append(flat)
        return flat

    run(tmp_path / "run", sites, liars={"north": look})
    (flat,) = seen
    parts = {key for key in flat if key.startswith("mean.")}
    assert set(flat) == {*parts, "subjects", "seconds"} and flat["subjects"] == 4
    for key in parts:  # shares of four patients: multiples of a quarter where each has one bin
        values = np.frombuffer(flat[key], "<f4")
        if key in ("mean.spacing", "mean.shape", "mean.extent"):
            assert np.allclose(values * 4, np.round(values * 4), atol=1e-5)
        assert values.max() <= 1 + 1e-6


def test_a_hospital_with_too_few_patients_is_named(tmp_path: Path, sites: dict[str, Path]) -> None:
    made = run(tmp_path / "run", sites, demands={"west": 5})
    (failed,) = (event for event in made.events() if isinstance(event, Failed))
    assert failed.site == "west" and "TooFewSubjects" in failed.reason
    assert plan_of(made).fingerprint["patients"] == 8
    with pytest.raises(TooFewHospitals, match=r"west.*TooFewSubjects.*5 are needed"):
        run(tmp_path / "none", sites, "deployment.min_hospitals=3", demands={"west": 5})


def nan(flat: dict[str, Any]) -> dict[str, Any]:
    return {
        **flat,
        "mean.spacing": np.full(len(flat["mean.spacing"]) // 4, np.nan, "<f4").tobytes(),
    }


def short(flat: dict[str, Any]) -> dict[str, Any]:
    return {**flat, "mean.extent": flat["mean.extent"][:-4]}


def huge(flat: dict[str, Any]) -> dict[str, Any]:
    return {
        **flat,
        "mean.intensity": (np.frombuffer(flat["mean.intensity"], "<f4") * 1e20).tobytes(),
    }


def none(flat: dict[str, Any]) -> dict[str, Any]:
    del flat
    return {"subjects": 3}


@pytest.mark.parametrize("change", [nan, short, huge, none], ids=lambda change: change.__name__)
def test_a_hostile_fingerprint_is_that_hospitals_failure(
    tmp_path: Path, sites: dict[str, Path], change: Change
) -> None:
    made = run(tmp_path / "run", sites, liars={"west": change})
    (failed,) = (event for event in made.events() if isinstance(event, Failed))
    assert failed.site == "west" and "refused" in failed.reason
    honest = run(tmp_path / "honest", {name: sites[name] for name in ("north", "south")})
    assert plan_of(made).settings == plan_of(honest).settings


def test_a_claim_of_many_patients_counts_no_more_than_the_cases_it_was_greeted_with(
    tmp_path: Path, sites: dict[str, Path]
) -> None:
    made = run(
        tmp_path / "run", sites, liars={"west": lambda flat: {**flat, "subjects": 1_000_000}}
    )
    told = {event.site: event for event in made.events() if isinstance(event, Fingerprinted)}
    assert told["west"].patients == 4 and plan_of(made).fingerprint["patients"] == 12


def test_too_few_fingerprints_end_the_run_with_the_reasons(
    tmp_path: Path, sites: dict[str, Path]
) -> None:
    with pytest.raises(TooFewHospitals, match=r"west.*refused"):
        run(tmp_path / "run", sites, "deployment.min_hospitals=3", liars={"west": nan})


def test_a_plan_is_for_segmentation() -> None:
    settings = ["strategy=planning", "data=classification_2d", "model=densenet_2d"]
    with pytest.raises(ConfigError, match="segmentation"):
        create_run([*settings, "training=classification", "deployment.runs=/nowhere"], None)


def test_simulated_hospitals_plan_and_train_with_the_plan(
    tmp_path: Path, sites: dict[str, Path]
) -> None:
    two = {name: sites[name] for name in ("north", "west")}
    planned = polyclinic.simulate(two, *SETTINGS, folder=tmp_path / "planned")
    path, plan = find_plan(planned.folder)
    small = ["model=dynunet", "training=nnunet", "model.features=2", "model.most_features=4"]
    run_of = [*small, f"data={path}", "data.patch=[16,16,16]", "training.batch_size=2"]
    trained = polyclinic.simulate(
        two, *run_of, rounds=1, folder=tmp_path / "trained",
    )  # fmt: skip
    assert set(trained.scores["fedavg"]) == {"north", "west"}
    kept = RunFolder(trained.folder)
    assert kept.state().plan is not None
    assert kept.describe()["plan"] == {"name": "plan.yaml", "digest": plan.digest}
    assert read_plan(trained.folder / "plan.yaml") == plan
    path.unlink()  # the run needs the file no more
    assert "data=planned" in kept.settings()[0]
    assert plan.digest[:12] in write_report(trained.folder).read_text()
